//! What runs on the node: container runtime, kubelet, proxy, and the controllers beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{BUSYBOX, NODE_NAME, dns, volumes, write_json};
use crate::authority::Subject;
use crate::control_plane::{ApiServer, SERVICE_RANGE, flag};
use crate::enclosure::Entrance;
use crate::image::Image;
use crate::process::{self, Server};
use crate::servers::table::PAUSE_VERSION;
use crate::slot::Slot;
use crate::{kubeconfig, programs, wait};

const RUNTIME_DEADLINE: Duration = Duration::from_secs(60);

/// Pod addresses. Every cluster has the same ones: they are seen inside its enclosure only.
pub(super) const POD_RANGE: &str = "10.244.0.0/24";

/// In the enclosure's own `/run`, where `ctr` and the kubelet look for it by default.
const RUNTIME_SOCKET: &str = "/run/containerd/containerd.sock";

/// containerd, with the images that a node cannot do without.
pub(super) struct Runtime(Server);

impl Runtime {
    pub(super) async fn start(slot: &Slot, entrance: &Entrance) -> Result<Self> {
        route(entrance)?;
        let configuration = slot.directory().join("containerd.toml");
        let network = slot.create_directory("network")?;
        write_json(&network.join("10-kled.conflist"), &network_configuration())?;
        fs::write(&configuration, runtime_configuration(slot.directory(), &network)?)?;
        let mut command = entrance.command("containerd")?;
        command.arg("--config").arg(&configuration);
        let server = Server::start(slot, "containerd", command)?;
        wait::until(RUNTIME_DEADLINE, "containerd", async || {
            server.check_running()?;
            let mut command = entrance.command("ctr")?;
            command.arg("version");
            process::run(command).with_context(|| server.log_tail())
        })
        .await?;
        for image in [pause_image()?, dns::image()?, Image::busybox(BUSYBOX)?, volumes::image()?] {
            load_image(slot.directory(), entrance, &image).await?;
        }
        Ok(Self(server))
    }
}

/// Everything that keeps running for the cluster's life.
pub(super) struct Servers {
    // None while it is killed.
    kubelet: Mutex<Option<Server>>,
    others: Vec<Server>,
}

impl Servers {
    /// Starts what needs the API server. None of it waits: each retries until the others are there.
    pub(super) fn start(slot: &Slot, entrance: &Entrance, api: &ApiServer, runtime: Runtime) -> Result<Self> {
        let start = |name: &str, command: Command| Server::start(slot, name, command);
        let others = vec![
            start("kube-controller-manager", controller_manager(slot, entrance, api)?)?,
            start("kube-scheduler", scheduler(slot, entrance, api)?)?,
            start("kube-proxy", proxy(slot, entrance, api)?)?,
            start("local-path-provisioner", volumes::command(slot, entrance, api)?)?,
            runtime.0,
        ];
        let servers = Self { kubelet: Mutex::default(), others };
        servers.start_kubelet(slot, entrance, api)?;
        Ok(servers)
    }

    pub(super) fn start_kubelet(&self, slot: &Slot, entrance: &Entrance, api: &ApiServer) -> Result<()> {
        let mut running = self.kubelet();
        ensure!(running.is_none(), "the kubelet runs already");
        *running = Some(Server::start(slot, "kubelet", kubelet(slot, entrance, api)?)?);
        Ok(())
    }

    pub(super) async fn kill_kubelet(&self) -> Result<()> {
        let kubelet = self.kubelet().take().context("the kubelet is killed already")?;
        tokio::task::spawn_blocking(move || kubelet.kill()).await.context("wait for the kubelet's end")?
    }

    pub(super) fn check_running(&self) -> Result<()> {
        self.kubelet().as_ref().context("the kubelet is killed")?.check_running()?;
        self.others.iter().try_for_each(Server::check_running)
    }

    fn kubelet(&self) -> MutexGuard<'_, Option<Server>> {
        self.kubelet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the image beside the cluster's other files and imports it.
pub(super) async fn load_image(directory: &Path, entrance: &Entrance, image: &Image) -> Result<()> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let archive = directory.join(format!("image-{}-{number}.tar", std::process::id()));
    let mut command = entrance.command("ctr")?;
    command.args(["--namespace", "k8s.io", "images", "import"]).arg(&archive);
    let image = image.clone();
    let import = move || {
        image.write(&archive)?;
        process::run(command)?;
        fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
    };
    tokio::task::spawn_blocking(import).await.context("wait for the import")?
}

/// Lets the node pass packets on between pods, services and the machine.
fn route(entrance: &Entrance) -> Result<()> {
    let mut command = entrance.command("sh")?;
    // Bridged packets only pass iptables, and so services, where the kernel has that module.
    let bridge = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    command.args([
        "-c",
        &format!("echo 1 > /proc/sys/net/ipv4/ip_forward; [ ! -e {bridge} ] || echo 1 > {bridge}"),
    ]);
    process::run(command).map(|_said| ()).context("turn on forwarding")
}

fn network_configuration() -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "kled",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {"type": "host-local", "subnet": POD_RANGE, "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn runtime_configuration(directory: &Path, network: &Path) -> Result<String> {
    // Not by the plugin `bridge`: iproute2 has a program of that name.
    let plugins = programs::find("host-local").context("no network plugin host-local")?;
    let plugins = plugins.parent().context("a plugin is in a folder")?;
    // Nobody may lower a score where the machine forbids it, and no machine needs AppArmor for a test.
    Ok(format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
address = "{RUNTIME_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{network}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
        root = directory.join("containerd").display(),
        pause = pause_name(),
        plugins = plugins.display(),
        network = network.display(),
    ))
}

fn pause_name() -> String {
    format!("registry.k8s.io/pause:{PAUSE_VERSION}")
}

fn pause_image() -> Result<Image> {
    Image::program(pause_name(), &programs::find("pause").context("no program pause")?)
}

/// A kubeconfig for one of the cluster's own servers.
pub(super) fn identity(slot: &Slot, api: &ApiServer, name: &str, user: &Subject) -> Result<PathBuf> {
    let credential = api.authority.issue(name, user)?;
    let path = slot.directory().join(format!("{name}.kubeconfig"));
    kubeconfig::write(&path, &api.url, &api.authority.certificate(), &credential)?;
    Ok(path)
}

fn controller_manager(slot: &Slot, entrance: &Entrance, api: &ApiServer) -> Result<Command> {
    let name = "kube-controller-manager";
    let identity = identity(slot, api, name, &Subject::user("system:kube-controller-manager", &[]))?;
    let mut command = entrance.command(name)?;
    command.arg(flag("kubeconfig", &identity));
    command.arg(flag("root-ca-file", &api.authority.certificate_path()));
    command.arg(flag("cluster-signing-cert-file", &api.authority.certificate_path()));
    command.arg(flag("cluster-signing-key-file", &api.authority.key_path()));
    command.arg(flag("service-account-private-key-file", &api.service_account_key));
    command.arg(flag("cert-dir", &slot.create_directory(name)?));
    command.args([
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]);
    // By default it may ask so rarely that its forty controllers take seconds to start.
    command.args(["--kube-api-qps=300", "--kube-api-burst=600"]);
    command.args(["--allocate-node-cidrs=false", &format!("--service-cluster-ip-range={SERVICE_RANGE}")]);
    Ok(command)
}

fn scheduler(slot: &Slot, entrance: &Entrance, api: &ApiServer) -> Result<Command> {
    let name = "kube-scheduler";
    let identity = identity(slot, api, name, &Subject::user("system:kube-scheduler", &[]))?;
    let mut command = entrance.command(name)?;
    command.arg(flag("kubeconfig", &identity)).arg(flag("cert-dir", &slot.create_directory(name)?));
    command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
    Ok(command)
}

fn kubelet(slot: &Slot, entrance: &Entrance, api: &ApiServer) -> Result<Command> {
    let node = Subject::user(&format!("system:node:{NODE_NAME}"), &["system:nodes"]);
    let identity = identity(slot, api, "kubelet", &node)?;
    let configuration = slot.directory().join("kubelet.json");
    write_json(&configuration, &kubelet_configuration(slot, entrance, api)?)?;
    let mut command = entrance.command("kubelet")?;
    command.arg(flag("config", &configuration)).arg(flag("kubeconfig", &identity));
    let data = slot.create_directory("kubelet")?;
    command.arg(flag("root-dir", &data)).arg(flag("cert-dir", &data.join("pki")));
    command.arg(format!("--node-ip={}", entrance.address())).arg(format!("--hostname-override={NODE_NAME}"));
    Ok(command)
}

fn kubelet_configuration(slot: &Slot, entrance: &Entrance, api: &ApiServer) -> Result<serde_json::Value> {
    let address = entrance.address().to_string();
    let serving =
        api.authority.issue("kubelet-server", &Subject::server(NODE_NAME, &[NODE_NAME, &address]))?;
    let resolver = slot.directory().join("resolv.conf");
    // Pods with the node's own DNS policy must not reach the machine's name servers.
    fs::write(&resolver, "nameserver 127.0.0.1\n")?;
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": api.authority.certificate_path()},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": serving.certificate_path,
        "tlsPrivateKeyFile": serving.key_path,
        "containerRuntimeEndpoint": format!("unix://{RUNTIME_SOCKET}"),
        "clusterDNS": [dns::ADDRESS],
        "clusterDomain": dns::DOMAIN,
        "resolvConf": resolver,
        // Machines without systemd, or still with version 1, are test machines too.
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        // What root may not do on some machines, as in a user namespace, is not worth an error.
        "featureGates": {"KubeletInUserNamespace": true},
        "oomScoreAdj": 0,
        "failSwapOn": false,
        // Images come from archives and cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        // A pod that tests delete should go at once, and a node that is ready say so.
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        "registerNode": true,
    }))
}

fn proxy(slot: &Slot, entrance: &Entrance, api: &ApiServer) -> Result<Command> {
    let identity = identity(slot, api, "kube-proxy", &Subject::user("system:kube-proxy", &[]))?;
    let configuration = slot.directory().join("kube-proxy.json");
    let content = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": identity},
        "hostnameOverride": NODE_NAME,
        "clusterCIDR": POD_RANGE,
        "bindAddress": entrance.address(),
        // The table's size is the machine's to set.
        "conntrack": {"maxPerCore": 0, "min": 0},
        "iptables": {"minSyncPeriod": "100ms"},
    });
    write_json(&configuration, &content)?;
    let mut command = entrance.command("kube-proxy")?;
    command.arg(flag("config", &configuration));
    Ok(command)
}
