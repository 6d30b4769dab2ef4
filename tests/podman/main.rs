//! The podman fixture runs containers, and nothing of it stays behind.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use kled_tests::image::Image;
use kled_tests::podman::PodmanService;
use kled_tests::suite::Suite;
use kled_tests::traces::{self, Held, Machine, Traces};
use kled_tests::{slot, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PORT_DEADLINE: Duration = Duration::from_secs(20);

async fn with_busybox() -> Result<PodmanService> {
    let podman = PodmanService::start().await?;
    let archive = podman.directory().join("busybox.tar");
    Image::busybox("localhost/busybox:1")?.write(&archive)?;
    podman.load_image(&archive).await?;
    Ok(podman)
}

async fn runs_a_container() -> Result<()> {
    let podman = with_busybox().await?;
    let said = podman
        .podman(&["run", "--rm", "localhost/busybox:1", "sh", "-c", "echo hello from $(id -u)"])
        .await?;
    ensure!(said.trim() == "hello from 0", "the container said {said:?}");
    Ok(())
}

async fn publishes_a_port() -> Result<()> {
    let podman = with_busybox().await?;
    let serve = "mkdir /www && echo served > /www/index.html && httpd -f -p 80 -h /www";
    podman
        .podman(&["run", "--detach", "--publish", "8080:80", "localhost/busybox:1", "sh", "-c", serve])
        .await?;
    let address = podman.address();
    let answer = wait::until(PORT_DEADLINE, "the published port", async || {
        let mut stream = TcpStream::connect((address, 8080)).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.contains("200 OK"), "it said {answer:?}");
        Ok(answer)
    })
    .await?;
    ensure!(answer.contains("served"), "it said {answer:?}");
    Ok(())
}

async fn limits_memory() -> Result<()> {
    let podman = with_busybox().await?;
    podman
        .podman(&[
            "run",
            "--detach",
            "--memory",
            "64m",
            "--name",
            "small",
            "localhost/busybox:1",
            "sleep",
            "600",
        ])
        .await?;
    let limit = podman.podman(&["inspect", "--format", "{{.HostConfig.Memory}}", "small"]).await?;
    ensure!(limit.trim() == "67108864", "the limit is {limit}");
    Ok(())
}

async fn hold() -> Result<(PodmanService, Traces)> {
    let podman = with_busybox().await?;
    podman
        .podman(&["run", "--detach", "--publish", "8080:80", "localhost/busybox:1", "sleep", "600"])
        .await?;
    let traces = podman.traces()?;
    Ok((podman, traces))
}

async fn leaves_nothing() -> Result<()> {
    let before = Machine::look()?;
    let (podman, traces) = hold().await?;
    drop(podman);
    traces.wait_until_gone().await?;
    let after = Machine::look()?;
    ensure!(before == after, "the machine changed from {before:#?} to {after:#?}");
    Ok(())
}

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
    Suite::new("podman")
        .skip_all_if(PodmanService::missing())
        .case("runs a container", runs_a_container)
        .case("publishes a port", publishes_a_port)
        .case("limits memory", limits_memory)
        .case("leaves nothing", leaves_nothing)
        .case("a killed run is swept by the next", is_swept_after_a_kill)
        .run()
}
