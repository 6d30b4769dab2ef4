//! A real node: pods run, services are found and reached, and nothing of it stays behind.

mod breaking;
mod exec_faults;
mod network_policy;
mod pods;
mod volumes;
mod workspace;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use kled_tests::cluster::{BUSYBOX, Cluster};
use kled_tests::image::Image;
use kled_tests::suite::{Shared, Suite};
use kled_tests::traces::{self, Held, Machine, Traces};
use kled_tests::{slot, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::pods::Namespace;

static CLUSTER: Shared<Cluster> = Shared::new();

const REACH_DEADLINE: Duration = Duration::from_secs(60);

async fn answers_exec() -> Result<()> {
    let cluster = CLUSTER.get(Cluster::shared).await?;
    let namespace = Namespace::create(&cluster, "answers-exec").await?;
    let pod = namespace.run("sleeper", BUSYBOX, "sleep 600").await?;
    let said = pod.exec("echo out; echo err >&2; cat /etc/hostname; exit 3").await?;
    ensure!(said.output == "out\nsleeper\n", "it said {said:?}");
    ensure!(said.errors == "err\n", "it said {said:?}");
    ensure!(said.status.as_deref() == Some("Failure"), "its end was {said:?}");
    namespace.delete().await
}

async fn gives_logs() -> Result<()> {
    let cluster = CLUSTER.get(Cluster::shared).await?;
    let namespace = Namespace::create(&cluster, "gives-logs").await?;
    let pod = namespace.run("speaker", BUSYBOX, "echo first; echo second; sleep 600").await?;
    wait::until(REACH_DEADLINE, "both lines", async || {
        let log = pod.log().await?;
        ensure!(log == "first\nsecond\n", "the log is {log:?}");
        Ok(())
    })
    .await?;
    namespace.delete().await
}

async fn reaches_a_service_by_name() -> Result<()> {
    let cluster = CLUSTER.get(Cluster::shared).await?;
    let namespace = Namespace::create(&cluster, "reaches-a-service").await?;
    let serve = "mkdir -p /tmp/www; echo served by $(hostname -i) > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www";
    let server = namespace.run("server", BUSYBOX, serve).await?;
    namespace.expose("web", "server", 80, 8080).await?;
    let client = namespace.run("client", BUSYBOX, "sleep 600").await?;
    for name in ["web".to_owned(), format!("web.{}.svc.cluster.local", namespace.name())] {
        let said = wait::until(REACH_DEADLINE, "the service to answer", async || {
            let said = client.exec(&format!("timeout 3 wget -q -O - http://{name}/")).await?;
            ensure!(said.status.as_deref() == Some("Success"), "wget said {said:?}");
            Ok(said)
        })
        .await?;
        ensure!(said.output.contains(&server.address().await?), "the answer is {said:?}");
    }
    let absent = client.exec("timeout 3 wget -q -O - http://absent/").await?;
    ensure!(absent.status.as_deref() == Some("Failure"), "a service that is not there answered: {absent:?}");
    namespace.delete().await
}

async fn reaches_the_api_server_from_a_pod() -> Result<()> {
    let cluster = CLUSTER.get(Cluster::shared).await?;
    let namespace = Namespace::create(&cluster, "reaches-the-api").await?;
    let pod = namespace.run("client", BUSYBOX, "sleep 600").await?;
    wait::until(REACH_DEADLINE, "the API server's port", async || {
        let said = pod.exec("nc -w 2 kubernetes.default.svc.cluster.local 443 < /dev/null").await?;
        ensure!(said.status.as_deref() == Some("Success"), "nc said {said:?}");
        Ok(())
    })
    .await?;
    namespace.delete().await
}

async fn runs_an_image_of_ones_own() -> Result<()> {
    let cluster = CLUSTER.get(Cluster::shared).await?;
    let image = Image::busybox("registry.example/own:v7")?.file("etc/own", "made here\n", 0o644);
    cluster.load_image(&image).await?;
    let namespace = Namespace::create(&cluster, "own-image").await?;
    let pod = namespace.run("own", "registry.example/own:v7", "sleep 600").await?;
    let said = pod.exec("cat /etc/own").await?;
    ensure!(said.output == "made here\n", "it said {said:?}");
    namespace.delete().await
}

async fn limits_memory() -> Result<()> {
    let cluster = CLUSTER.get(Cluster::shared).await?;
    let namespace = Namespace::create(&cluster, "limits-memory").await?;
    let pod = namespace.run("small", BUSYBOX, "sleep 600").await?;
    let limit = pod
        .exec("cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null")
        .await?;
    ensure!(limit.output.contains(&pods::MEMORY_LIMIT.to_string()), "the limit is {limit:?}");
    namespace.delete().await
}

async fn answers_kubectl() -> Result<()> {
    let cluster = CLUSTER.get(Cluster::shared).await?;
    let nodes = cluster.kubectl(&["get", "nodes", "--output", "name"]).await?;
    ensure!(nodes.trim() == "node/kled-node", "kubectl said {nodes:?}");
    Ok(())
}

async fn is_reached_from_the_machine() -> Result<()> {
    let cluster = CLUSTER.get(Cluster::shared).await?;
    let namespace = Namespace::create(&cluster, "node-port").await?;
    let serve = "mkdir -p /tmp/www; echo served > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www";
    namespace.run("server", BUSYBOX, serve).await?;
    let port = namespace.expose("web", "server", 80, 8080).await?;
    let address = (cluster.node().address(), port);
    let answer = wait::until(REACH_DEADLINE, "the node port", async || {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    })
    .await?;
    ensure!(answer.ends_with("served\n"), "the answer is {answer:?}");
    namespace.delete().await
}

async fn start_with_a_pod_and_a_volume() -> Result<Cluster> {
    let cluster = Cluster::start().await?;
    let namespace = Namespace::create(&cluster, "short-lived").await?;
    volumes::claim(&namespace).await?;
    namespace.run_spec("sleeper", volumes::spec_with_volume()).await?;
    Ok(cluster)
}

async fn hold() -> Result<(Cluster, Traces)> {
    let cluster = start_with_a_pod_and_a_volume().await?;
    let traces = cluster.traces()?;
    Ok((cluster, traces))
}

async fn leaves_nothing() -> Result<()> {
    let before = Machine::look()?;
    let (cluster, traces) = hold().await?;
    ensure!(!traces.remaining()?.is_empty(), "the traces of a running cluster were not found");
    drop(cluster);
    traces.wait_until_gone().await?;
    let after = Machine::look()?;
    ensure!(before == after, "the machine changed from {before:#?} to {after:#?}");
    Ok(())
}

/// A process of its own holds the cluster, because this one has to survive the kill.
async fn is_swept_after_a_kill() -> Result<()> {
    let before = Machine::look()?;
    let traces = Held::start().await?.kill().await?;
    traces.wait_until_ended().await?;
    slot::sweep_all()?;
    traces.wait_until_gone().await?;
    let after = Machine::look()?;
    ensure!(before == after, "the machine changed from {before:#?} to {after:#?}");
    Ok(())
}

fn main() -> ExitCode {
    if traces::is_holder() {
        return traces::hold(hold());
    }
    let suite = Suite::new("cluster")
        .skip_all_if(Cluster::missing())
        .case("a pod answers exec", answers_exec)
        .case("a pod's logs are read", gives_logs)
        .case("a pod reaches a service by name", reaches_a_service_by_name)
        .case("the machine reaches a node port", is_reached_from_the_machine)
        .case("a pod reaches the API server", reaches_the_api_server_from_a_pod)
        .case("a pod runs an image made here", runs_an_image_of_ones_own)
        .case("a pod's memory is limited", limits_memory)
        .case("a volume outlives its pod and goes with its claim", || volumes::outlives_its_pod(&CLUSTER))
        .case("a restricted pod clones a repository", || workspace::clones_in_a_restricted_pod(&CLUSTER))
        .case("a proxy passes exec on", || exec_faults::passes_on(&CLUSTER))
        .case("a proxy cuts exec off in either direction", || exec_faults::cuts(&CLUSTER))
        .case("kubectl works", answers_kubectl)
        .case("a killed kubelet and a killed API server come back", breaking::comes_back)
        .case("a dropped cluster leaves nothing", leaves_nothing)
        .case("a killed run is swept by the next", is_swept_after_a_kill)
        .after(|| async {
            CLUSTER.release().await;
            Ok(())
        });
    network_policy::cases(suite, &CLUSTER).run()
}
