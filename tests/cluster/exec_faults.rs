//! `exec` through a proxy that cuts upgraded connections.

use anyhow::{Result, ensure};
use kled_tests::cluster::{BUSYBOX, Cluster};
use kled_tests::fault_proxy::{Direction, FaultProxy, Verb};
use kled_tests::kubeconfig;
use kled_tests::suite::Shared;

use crate::pods::{Namespace, Pod, Said};

/// More than the frames that only say who the channels are.
const SOME_BYTES: u64 = 10_000;

async fn start(cluster: &Cluster, name: &str) -> Result<(FaultProxy, Namespace, Pod)> {
    let proxy = FaultProxy::start(cluster.kubeconfig()).await?;
    let client = kubeconfig::client(proxy.kubeconfig()).await?;
    let namespace = Namespace::create(cluster, name).await?;
    let pod = namespace.run("sleeper", BUSYBOX, "sleep 600").await?.through(client);
    Ok((proxy, namespace, pod))
}

pub(crate) async fn passes_on(cluster: &Shared<Cluster>) -> Result<()> {
    let cluster = cluster.get(Cluster::shared).await?;
    let (proxy, namespace, pod) = start(&cluster, "exec-through-a-proxy").await?;
    let said = pod.exec("echo out; echo err >&2; exit 3").await?;
    ensure!(said.output == "out\n" && said.errors == "err\n", "it said {said:?}");
    ensure!(said.status.as_deref() == Some("Failure"), "its end was {said:?}");
    let requests = proxy.requests();
    ensure!(requests.len() == 1 && requests[0].verb == Verb::Connect, "{requests:?}");
    ensure!(requests[0].resource == "pods/exec", "{requests:?}");
    namespace.delete().await
}

fn is_cut(said: &Result<Said>) -> bool {
    said.as_ref().is_err_and(|error| error.to_string() == "the connection was cut")
}

pub(crate) async fn cuts(cluster: &Shared<Cluster>) -> Result<()> {
    let cluster = cluster.get(Cluster::shared).await?;
    let (proxy, namespace, pod) = start(&cluster, "exec-is-cut").await?;
    proxy.cut_streams(Direction::FromServer, SOME_BYTES);
    let said = pod.exec("head -c 100000 /dev/zero | tr '\\0' x").await;
    ensure!(is_cut(&said), "it said {said:?}");
    proxy.clear();
    let said = pod.exec("head -c 100000 /dev/zero | tr '\\0' x").await?;
    ensure!(said.output.len() == 100_000, "{} bytes came", said.output.len());
    proxy.cut_streams(Direction::ToServer, SOME_BYTES);
    let sent = pod.send("cat > /tmp/sent", &[b'x'; 100_000]).await;
    ensure!(is_cut(&sent), "it said {sent:?}");
    proxy.clear();
    let size = pod.exec("wc -c < /tmp/sent").await?.output;
    ensure!(size.trim().parse::<u64>()? <= SOME_BYTES, "{size} bytes arrived");
    let said = pod.send("wc -c", &[b'x'; 100_000]).await?;
    ensure!(said.output.trim() == "100000", "it said {said:?}");
    namespace.delete().await
}
