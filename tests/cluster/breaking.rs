//! A node and a control plane that fail and come back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kled_tests::cluster::{BUSYBOX, Cluster};
use kled_tests::wait;

use crate::pods::{Namespace, Pod};

const BACK_DEADLINE: Duration = Duration::from_secs(60);

async fn wait_until_kept(pod: &Pod) -> Result<()> {
    wait::until(BACK_DEADLINE, "exec to work again", async || {
        let said = pod.exec("cat /tmp/file").await?;
        ensure!(said.output == "kept\n", "the container is another: {said:?}");
        Ok(())
    })
    .await
}

pub(crate) async fn comes_back() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = Namespace::create(&cluster, "breaking").await?;
    let pod = namespace.run("sleeper", BUSYBOX, "sleep 600").await?;
    pod.exec("echo kept > /tmp/file").await?;

    cluster.kill_kubelet().await?;
    ensure!(cluster.kill_kubelet().await.is_err(), "it was killed twice");
    ensure!(pod.exec("true").await.is_err(), "exec works without a kubelet");
    let start = Instant::now();
    cluster.start_kubelet()?;
    ensure!(cluster.start_kubelet().is_err(), "it was started twice");
    wait_until_kept(&pod).await?;
    println!("exec works {:.1} s after the kubelet was started again", start.elapsed().as_secs_f64());
    namespace.run("another", BUSYBOX, "sleep 600").await?;

    cluster.kill_api_server().await?;
    ensure!(pod.address().await.is_err(), "a killed API server answers");
    let start = Instant::now();
    cluster.start_api_server().await?;
    println!("the API server was ready again after {:.1} s", start.elapsed().as_secs_f64());
    wait_until_kept(&pod).await?;
    cluster.restart_api_server().await?;
    wait_until_kept(&pod).await?;
    namespace.run("last", BUSYBOX, "sleep 600").await?;
    Ok(())
}
