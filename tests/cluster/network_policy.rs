//! What network policies deny does not arrive, and what they allow does.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kled_tests::cluster::{BUSYBOX, Cluster};
use kled_tests::suite::{Shared, Suite};
use kled_tests::{process, wait};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::pods::{Namespace, Pod};

const DEADLINE: Duration = Duration::from_secs(30);
const SERVE: &str = "mkdir -p /tmp/www; httpd -f -p 8080 -h /tmp/www";

/// Adds the cases about network policies, if this machine can hold pods to them.
pub(crate) fn cases(suite: Suite, cluster: &'static Shared<Cluster>) -> Suite {
    let names = ["a network policy lets in whom it names", "a network policy keeps in"];
    match Cluster::missing_policies() {
        Some(reason) => names.into_iter().fold(suite, |suite, name| suite.skip(name, reason.clone())),
        None => suite.case(names[0], || lets_in_whom_it_names(cluster)).case(names[1], || keeps_in(cluster)),
    }
}

async fn reaches(pod: &Pod, address: &str, port: u16) -> Result<bool> {
    let said = pod.exec(&format!("nc -w 1 {address} {port} < /dev/null")).await?;
    Ok(said.status.as_deref() == Some("Success"))
}

async fn wait_until(expected: bool, from: &Pod, address: &str, port: u16) -> Result<()> {
    wait::until(DEADLINE, "the policy", async || {
        let reached = reaches(from, address, port).await?;
        ensure!(reached == expected, "{address}:{port} is{} reached", if reached { "" } else { " not" });
        Ok(())
    })
    .await
}

async fn create(namespace: &Namespace, name: &str, spec: Value) -> Result<()> {
    let policy = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    namespace.api::<NetworkPolicy>().create(&PostParams::default(), &policy).await?;
    Ok(())
}

async fn lets_in_whom_it_names(cluster: &Shared<Cluster>) -> Result<()> {
    let cluster = cluster.get(Cluster::shared).await?;
    let namespace = Namespace::create(&cluster, "policy-ingress").await?;
    let server = namespace.run("server", BUSYBOX, SERVE).await?;
    let client = namespace.run("client", BUSYBOX, "sleep 600").await?;
    let other = namespace.run("other", BUSYBOX, "sleep 600").await?;
    namespace.expose("web", "server", 80, 8080).await?;
    let address = server.address().await?;
    for pod in [&client, &other] {
        wait_until(true, pod, &address, 8080).await?;
        wait_until(true, pod, "web", 80).await?;
    }
    let start = Instant::now();
    create(&namespace, "deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]})).await?;
    wait_until(false, &client, &address, 8080).await?;
    println!("a policy was in force after {:.1} s", start.elapsed().as_secs_f64());
    ensure!(!reaches(&client, "web", 80).await?, "the service is reached, though its pod is not");
    ensure!(reaches(&server, &address, 8080).await?, "a pod does not reach itself");
    let mut from_node = cluster.node().command("busybox")?;
    from_node.args(["nc", "-w", "1", &address, "8080"]);
    tokio::task::spawn_blocking(|| process::run(from_node)).await?.context("reach the pod from its node")?;
    let allow = json!({
        "podSelector": {"matchLabels": {"app": "server"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 8080}]}],
    });
    create(&namespace, "allow", allow).await?;
    wait_until(true, &client, &address, 8080).await?;
    wait_until(true, &client, "web", 80).await?;
    ensure!(!reaches(&other, &address, 8080).await?, "a pod without the label is let in");
    for name in ["deny", "allow"] {
        namespace.api::<NetworkPolicy>().delete(name, &DeleteParams::default()).await?;
    }
    wait_until(true, &other, &address, 8080).await?;
    namespace.delete().await
}

async fn keeps_in(cluster: &Shared<Cluster>) -> Result<()> {
    let cluster = cluster.get(Cluster::shared).await?;
    let namespace = Namespace::create(&cluster, "policy-egress").await?;
    let server = namespace.run("server", BUSYBOX, SERVE).await?.address().await?;
    let client = namespace.run("client", BUSYBOX, "sleep 600").await?;
    let machine = TcpListener::bind((cluster.node().outer_address(), 0)).await?;
    let (outside, port) = (machine.local_addr()?.ip().to_string(), machine.local_addr()?.port());
    let _accepting = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        // Whoever connects is told that by the end of the connection.
        while machine.accept().await.is_ok() {}
    }));
    let api_server = "kubernetes.default.svc.cluster.local";
    wait_until(true, &client, &server, 8080).await?;
    ensure!(reaches(&client, &outside, port).await?, "the machine is not reached");
    let except = json!([format!("{outside}/32")]);
    let egress = json!({
        "podSelector": {"matchLabels": {"app": "client"}},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": except}}]}],
    });
    create(&namespace, "except", egress).await?;
    wait_until(false, &client, &outside, port).await?;
    ensure!(reaches(&client, &server, 8080).await?, "what is not excepted is denied");
    ensure!(reaches(&client, api_server, 443).await?, "the API server is not reached");
    create(&namespace, "deny", json!({"podSelector": {}, "policyTypes": ["Egress"]})).await?;
    namespace.api::<NetworkPolicy>().delete("except", &DeleteParams::default()).await?;
    wait_until(false, &client, &server, 8080).await?;
    ensure!(!reaches(&client, "10.96.0.1", 443).await?, "the API server is reached");
    namespace.delete().await
}
