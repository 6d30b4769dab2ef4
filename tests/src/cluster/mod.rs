//! A real Kubernetes cluster of one node: pods run, services answer, `exec` and logs work, volumes are made, and
//! network policies hold.
//!
//! The node and its control plane live in an [`Enclosure`], not in the machine's own namespaces. A kubelet, a
//! container runtime, CNI plugins and kube-proxy leave mounts, interfaces and iptables rules in many places, and
//! a node that is killed half-way leaves them in any state; in namespaces of their own, the kernel removes all of
//! it with the last process. It also means that several clusters, or a cluster and the machine's own Docker,
//! never meet: the same addresses, names and ports are free for each. The price is one hop: the machine reaches
//! the API server, pods and services at the enclosure's address ([`Cluster::node`]), not at `127.0.0.1`.

mod breaking;
mod dns;
mod network_policy;
mod node;
mod shared;
mod volumes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::Api;

use crate::control_plane::{ApiServer, Site};
use crate::enclosure::{self, Enclosure, Entrance};
use crate::image::{Image, WORKSPACE};
use crate::process;
use crate::programs::{self, Privilege};
use crate::slot::Slot;
use crate::traces::Traces;
use crate::{kubeconfig, wait};

pub use self::shared::Lender;
pub use self::volumes::STORAGE_CLASS;

const READY_DEADLINE: Duration = Duration::from_secs(180);

/// The one node's name.
pub const NODE_NAME: &str = "kled-node";

/// An image with a shell that every cluster has.
pub const BUSYBOX: &str = "kled.test/busybox:1";

const PROGRAMS: &str = "etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl coredns \
    local-path-provisioner pause containerd ctr runc host-local loopback portmap iptables iptables-restore conntrack busybox";

/// A running cluster, or the use of one that another process runs.
///
/// ```no_run
/// # async fn example() -> anyhow::Result<()> {
/// use kled_tests::cluster::Cluster;
/// use kled_tests::image::Image;
///
/// let cluster = Cluster::shared().await?;
/// cluster.load_image(&Image::busybox("registry.example/tools:1")?).await?;
/// let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::default_namespaced(cluster.client());
/// # Ok(())
/// # }
/// ```
pub struct Cluster {
    access: Access,
    // None if another process runs it.
    owned: Option<Owned>,
}

/// What it takes to use a cluster, from whichever process.
struct Access {
    client: kube::Client,
    kubeconfig: PathBuf,
    entrance: Entrance,
}

/// What it takes to run one. Order matters: the enclosure ends with everything in it before the slot is swept.
struct Owned {
    _enforcer: network_policy::Enforcer,
    node: node::Servers,
    api_server: ApiServer,
    _enclosure: Enclosure,
    slot: Slot,
}

impl Cluster {
    /// Why it cannot run here, in one line; `None` if it can.
    #[must_use]
    pub fn missing() -> Option<String> {
        let programs: Vec<&str> = PROGRAMS.split_whitespace().chain(enclosure::PROGRAMS).collect();
        programs::missing(&programs, Privilege::Root)
    }

    /// Why NetworkPolicies have no effect here, in one line; `None` if they have.
    #[must_use]
    pub fn missing_policies() -> Option<String> {
        network_policy::missing()
    }

    /// The cluster that all test binaries of one run share; without the runner, a cluster of one's own.
    ///
    /// Cases keep out of each other's way by using namespaces of their own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn shared() -> Result<Self> {
        match shared::borrow().await? {
            Some(access) => Ok(Self { access, owned: None }),
            None => Self::start().await,
        }
    }

    /// Starts a cluster and waits until its node is ready and its DNS answers.
    ///
    /// Only for tests that break or measure a cluster; others use [`Cluster::shared`].
    ///
    /// # Errors
    /// When a server ends or is not ready in time; the message quotes its log.
    pub async fn start() -> Result<Self> {
        let slot = Slot::take("cluster")?;
        let enclosure = Enclosure::start(&slot).await?;
        let entrance = enclosure.entrance().try_clone()?;
        let started = start_servers(&slot, &entrance).await;
        let (api_server, client, node) = started.or_else(|error| slot.keep_logs(error))?;
        let access = Access { client, kubeconfig: api_server.kubeconfig.clone(), entrance };
        let enforcer = network_policy::Enforcer::start(&slot, &access.entrance, access.client.clone())?;
        let owned = Owned { _enforcer: enforcer, node, api_server, _enclosure: enclosure, slot };
        owned.wait_until_ready(&access.client).await.or_else(|error| owned.slot.keep_logs(error))?;
        Ok(Self { access, owned: Some(owned) })
    }

    /// A client with all rights.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.access.client.clone()
    }

    /// A kubeconfig file with all rights.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.access.kubeconfig
    }

    /// The way onto the node: its address, at which the machine reaches the API server and node ports, and commands
    /// that run there.
    #[must_use]
    pub fn node(&self) -> &Entrance {
        &self.access.entrance
    }

    /// What it would leave on the machine.
    ///
    /// # Errors
    /// When it has ended.
    pub fn traces(&self) -> Result<Traces> {
        Traces::inside(self.node(), self.directory()?)
    }

    /// The folder on the node that holds one folder for each dynamic volume, `VOLUME_NAMESPACE_CLAIM`.
    ///
    /// # Errors
    /// Never for a cluster that runs.
    pub fn volumes(&self) -> Result<PathBuf> {
        Ok(volumes::folder(self.directory()?))
    }

    /// Makes an image known to the node, so that pods can name it.
    ///
    /// # Errors
    /// When the image cannot be written or imported.
    pub async fn load_image(&self, image: &Image) -> Result<()> {
        node::load_image(self.directory()?, &self.access.entrance, image).await
    }

    /// Makes [`Image::workspace`] known to the node as [`WORKSPACE`], unless it is already.
    ///
    /// # Errors
    /// When the image cannot be made or imported.
    pub async fn load_workspace_image(&self) -> Result<()> {
        let mut command = self.node().command("ctr")?;
        command.args(["--namespace", "k8s.io", "images", "list", "--quiet"]);
        command.arg(format!("name=={WORKSPACE}"));
        let image = move || match process::run(command)?.trim() {
            "" => Image::workspace(WORKSPACE).map(Some),
            _ => Ok(None),
        };
        match tokio::task::spawn_blocking(image).await.context("wait for the image to be made")?? {
            Some(image) => self.load_image(&image).await,
            None => Ok(()),
        }
    }

    fn directory(&self) -> Result<&Path> {
        self.access.kubeconfig.parent().context("a kubeconfig is in a directory")
    }

    /// Runs `kubectl` with all rights and gives its output.
    ///
    /// # Errors
    /// When it ends with an error.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(programs::find("kubectl").context("no program kubectl")?);
        command.arg("--kubeconfig").arg(&self.access.kubeconfig).args(arguments);
        tokio::task::spawn_blocking(move || process::run(command)).await.context("wait for kubectl")?
    }
}

async fn start_servers(slot: &Slot, entrance: &Entrance) -> Result<(ApiServer, kube::Client, node::Servers)> {
    let site = Site::inside(entrance);
    let runtime = node::Runtime::start(slot, entrance);
    let ((api_server, client), runtime) = tokio::try_join!(ApiServer::start(slot, &site), runtime)?;
    let node = node::Servers::start(slot, entrance, &api_server, runtime)?;
    Ok((api_server, client, node))
}

impl Access {
    async fn open(kubeconfig: PathBuf, entrance: Entrance) -> Result<Self> {
        Ok(Self { client: kubeconfig::client(&kubeconfig).await?, kubeconfig, entrance })
    }
}

impl Owned {
    async fn wait_until_ready(&self, client: &kube::Client) -> Result<()> {
        volumes::deploy(client).await?;
        dns::deploy(client).await?;
        let nodes: Api<Node> = Api::all(client.clone());
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        wait::until(READY_DEADLINE, "the cluster to be ready", async || {
            self.node.check_running()?;
            self.api_server.check_running()?;
            let node = nodes.get_opt(NODE_NAME).await?.context("the node has not registered")?;
            ensure!(is_ready(&node), "the node is not ready");
            accounts.get_opt("default").await?.context("no service account yet, so no pod could start")?;
            dns::check_ready(client).await
        })
        .await
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Writes a configuration file of a server; as JSON, which is YAML too.
fn write_json(path: &Path, content: &serde_json::Value) -> Result<()> {
    fs::write(path, content.to_string()).with_context(|| format!("write {}", path.display()))
}
