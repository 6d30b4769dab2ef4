//! An API server with its store and nothing else: enough for whatever only talks to the API.

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::authority::{self, Authority, Subject};
use crate::enclosure::Entrance;
use crate::process::Server;
use crate::programs::{self, Privilege};
use crate::slot::Slot;
use crate::traces::Traces;
use crate::{kubeconfig, wait};

const START_DEADLINE: Duration = Duration::from_secs(90);

const READY_TRY: Duration = Duration::from_secs(2);

/// Service addresses; the first is the API server's own, the tenth the cluster's DNS by custom.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";
const API_SERVICE: &str = "10.96.0.1";

/// What everything inside a cluster calls the API server.
const API_NAMES: [&str; 6] = [
    "localhost",
    "127.0.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// Below the range that the kernel gives to clients, so that no passing connection holds a port.
const FIRST_PORT: u16 = 18_000;
const PORTS_PER_SLOT: u16 = 16;

/// etcd and kube-apiserver on `127.0.0.1`, with certificates, ports and a directory of their own.
///
/// It takes no privilege and many run side by side. No controller runs: objects stay as they were written, no
/// service account gets made, nothing is scheduled. For nodes see [`Cluster`](crate::cluster::Cluster).
///
/// ```no_run
/// # async fn example() -> anyhow::Result<()> {
/// use k8s_openapi::api::core::v1::Namespace;
/// use kled_tests::control_plane::ControlPlane;
///
/// let plane = ControlPlane::start().await?;
/// let namespaces: kube::Api<Namespace> = kube::Api::all(plane.client());
/// assert!(namespaces.get_opt("default").await?.is_some());
/// # Ok(())
/// # }
/// ```
pub struct ControlPlane {
    // Order matters: fields are dropped from the first to the last, and the slot sweeps what is left.
    server: ApiServer,
    client: kube::Client,
    slot: Slot,
}

impl ControlPlane {
    /// Why it cannot run here, in one line; `None` if it can.
    #[must_use]
    pub fn missing() -> Option<String> {
        programs::missing(&["etcd", "kube-apiserver"], Privilege::User)
    }

    /// Starts both servers and waits until the API server is ready.
    ///
    /// # Errors
    /// When one ends or is not ready in time; the message quotes its log.
    pub async fn start() -> Result<Self> {
        let slot = Slot::take("control-plane")?;
        let site = Site::on_machine(&slot)?;
        let started = ApiServer::start(&slot, &site).await;
        let (server, client) = started.or_else(|error| slot.keep_logs(error))?;
        Ok(Self { server, client, slot })
    }

    /// A client with all rights.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// A kubeconfig file with all rights.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.server.kubeconfig
    }

    /// Where the API server listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.server.url
    }

    /// A directory that is removed with the control plane.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.slot.directory()
    }

    /// Kills the API server; its store goes on.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_api_server(&self) -> Result<()> {
        self.server.kill().await
    }

    /// Starts the API server again, at the same address and with the same data, and waits until it is ready.
    ///
    /// # Errors
    /// When it runs already, or does not start.
    pub async fn start_api_server(&self) -> Result<()> {
        self.server.start_again(&self.slot, Place::Machine, &self.client).await
    }

    /// What it would leave on the machine.
    ///
    /// # Errors
    /// When another thread panicked while it held one of the servers.
    pub fn traces(&self) -> Result<Traces> {
        let processes = vec![self.server.store.id()?, self.server.id()?];
        Ok(Traces::on_machine(&self.slot, processes))
    }
}

/// Where a control plane runs.
pub(crate) struct Site<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) address: Ipv4Addr,
    pub(crate) api_port: u16,
    pub(crate) store_ports: [u16; 2],
}

/// Whose namespaces the servers share.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Machine,
    Inside(&'a Entrance),
}

impl Place<'_> {
    fn command(self, program: &str) -> Result<Command> {
        match self {
            Self::Machine => {
                Ok(Command::new(programs::find(program).with_context(|| format!("no program {program}"))?))
            }
            Self::Inside(entrance) => entrance.command(program),
        }
    }
}

impl Site<'static> {
    fn on_machine(slot: &Slot) -> Result<Self> {
        let [api_port, first, second] = free_ports(slot.number())?;
        let (place, address) = (Place::Machine, Ipv4Addr::LOCALHOST);
        Ok(Self { place, address, api_port, store_ports: [first, second] })
    }
}

impl<'a> Site<'a> {
    /// In an enclosure every port is free, so these are the customary ones.
    pub(crate) fn inside(entrance: &'a Entrance) -> Self {
        let place = Place::Inside(entrance);
        Self { place, address: entrance.address(), api_port: 6443, store_ports: [2379, 2380] }
    }
}

/// Free ports out of the slot's own range: no other fixture can take them between this look and their use.
fn free_ports(number: u8) -> Result<[u16; 3]> {
    let first = FIRST_PORT + u16::from(number) * PORTS_PER_SLOT;
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let free: Vec<u16> = (first..first + PORTS_PER_SLOT).filter(is_free).take(3).collect();
    free.try_into().map_err(|_| anyhow::anyhow!("too few free ports from {first} on"))
}

/// A running API server with its store and its authority.
pub(crate) struct ApiServer {
    // None while it is killed.
    server: Mutex<Option<Server>>,
    arguments: Vec<OsString>,
    store: Server,
    pub(crate) authority: Authority,
    pub(crate) service_account_key: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) url: String,
}

impl ApiServer {
    pub(crate) async fn start(slot: &Slot, site: &Site<'_>) -> Result<(Self, kube::Client)> {
        let directory = slot.create_directory("authority")?;
        let store = Server::start(slot, "etcd", store_command(slot, site)?)?;
        let authority = Authority::create(&directory, "authority")?;
        let (service_account_key, service_account_public_key) =
            authority::key_pair(&directory, "service-account")?;
        let mut arguments = api_flags(site);
        arguments.extend(certificate_flags(&authority, site, &directory)?);
        arguments.push(flag("service-account-key-file", &service_account_public_key));
        arguments.push(flag("service-account-signing-key-file", &service_account_key));
        arguments.push(flag("cert-dir", &directory));
        let server = start_server(slot, site.place, &arguments)?;
        let url = format!("https://{}:{}", site.address, site.api_port);
        let administrator =
            authority.issue("administrator", &Subject::user("administrator", &["system:masters"]))?;
        let kubeconfig = slot.directory().join("kubeconfig");
        kubeconfig::write(&kubeconfig, &url, &authority.certificate(), &administrator)?;
        let client = kubeconfig::client(&kubeconfig).await?;
        let server = Mutex::new(Some(server));
        let started = Self { server, arguments, store, authority, service_account_key, kubeconfig, url };
        started.wait_until_ready(&client).await?;
        Ok((started, client))
    }

    async fn wait_until_ready(&self, client: &kube::Client) -> Result<()> {
        wait::until(START_DEADLINE, "the API server", async || {
            self.check_running()?;
            let request = http::Request::get("/readyz").body(Vec::new())?;
            // A request sent while the server starts may never be answered; the next one is.
            let said = tokio::time::timeout(READY_TRY, client.request_text(request)).await;
            let said = said.context("no answer")?.with_context(|| self.log_tail())?;
            ensure!(said == "ok", "it said {said}");
            Ok(())
        })
        .await
    }

    pub(crate) fn check_running(&self) -> Result<()> {
        self.store.check_running()?;
        self.running().as_ref().context("the API server is killed")?.check_running()
    }

    pub(crate) async fn kill(&self) -> Result<()> {
        let server = self.running().take().context("the API server is killed already")?;
        tokio::task::spawn_blocking(move || server.kill()).await.context("wait for the API server's end")?
    }

    pub(crate) async fn start_again(
        &self,
        slot: &Slot,
        place: Place<'_>,
        client: &kube::Client,
    ) -> Result<()> {
        {
            let mut running = self.running();
            ensure!(running.is_none(), "the API server runs already");
            *running = Some(start_server(slot, place, &self.arguments)?);
        }
        self.wait_until_ready(client).await
    }

    fn id(&self) -> Result<u32> {
        self.running().as_ref().context("the API server is killed")?.id()
    }

    fn log_tail(&self) -> String {
        self.running().as_ref().map(Server::log_tail).unwrap_or_default()
    }

    fn running(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start_server(slot: &Slot, place: Place<'_>, arguments: &[OsString]) -> Result<Server> {
    let name = "kube-apiserver";
    let mut command = place.command(name)?;
    command.args(arguments);
    Server::start(slot, name, command)
}

fn store_command(slot: &Slot, site: &Site<'_>) -> Result<Command> {
    let mut command = site.place.command("etcd")?;
    let data = slot.directory().join("etcd");
    let [clients, peers] = site.store_ports.map(|port| format!("http://127.0.0.1:{port}"));
    command.arg(flag("data-dir", &data));
    command.arg(format!("--listen-client-urls={clients}")).arg(format!("--advertise-client-urls={clients}"));
    command.arg(format!("--listen-peer-urls={peers}")).arg(format!("--initial-advertise-peer-urls={peers}"));
    command.arg(format!("--initial-cluster=default={peers}"));
    // A test's data need not survive the machine.
    command.arg("--unsafe-no-fsync").arg("--log-level=warn");
    Ok(command)
}

fn api_flags(site: &Site<'_>) -> Vec<OsString> {
    let mut flags = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", site.store_ports[0]),
        format!("--secure-port={}", site.api_port),
        format!("--bind-address={}", site.address),
        format!("--advertise-address={}", site.address),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
    ];
    let fixed = [
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
    ];
    flags.extend(fixed.map(str::to_owned));
    if site.address.is_loopback() {
        // The API server refuses to publish a loopback address, and without pods nobody would use it.
        flags.push("--endpoint-reconciler-type=none".to_owned());
    }
    flags.into_iter().map(Into::into).collect()
}

fn certificate_flags(authority: &Authority, site: &Site<'_>, directory: &Path) -> Result<Vec<OsString>> {
    let address = site.address.to_string();
    let hosts = [&API_NAMES[..], &[API_SERVICE, &address]].concat();
    let serving = authority.issue("kube-apiserver", &Subject::server("kube-apiserver", &hosts))?;
    let kubelet_client =
        authority.issue("kubelet-client", &Subject::user("kube-apiserver", &["system:masters"]))?;
    // Of its own: whoever this authority signs for may speak for anyone.
    let front = Authority::create(directory, "front-proxy-authority")?;
    let proxy = front.issue("front-proxy", &Subject::user("front-proxy", &[]))?;
    Ok(vec![
        flag("client-ca-file", &authority.certificate_path()),
        flag("tls-cert-file", &serving.certificate_path),
        flag("tls-private-key-file", &serving.key_path),
        flag("kubelet-certificate-authority", &authority.certificate_path()),
        flag("kubelet-client-certificate", &kubelet_client.certificate_path),
        flag("kubelet-client-key", &kubelet_client.key_path),
        flag("requestheader-client-ca-file", &front.certificate_path()),
        flag("proxy-client-cert-file", &proxy.certificate_path),
        flag("proxy-client-key-file", &proxy.key_path),
        "--requestheader-allowed-names=front-proxy".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
    ])
}

/// `--NAME=PATH`.
pub(crate) fn flag(name: &str, path: &Path) -> OsString {
    format!("--{name}={}", path.display()).into()
}
