//! The podman fixture runs containers, and nothing of it stays behind.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use kled_tests::image::Image;
use kled_tests::podman::PodmanService;
use kled_tests::suite::Suite;

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
    let answer =
        kled_tests::wait::until(std::time::Duration::from_secs(20), "the published port", async || {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut stream = tokio::net::TcpStream::connect((address, 8080)).await?;
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

fn main() -> ExitCode {
    Suite::new("podman")
        .skip_all_if(PodmanService::missing())
        .case("runs a container", runs_a_container)
        .case("publishes a port", publishes_a_port)
        .case("limits memory", limits_memory)
        .run()
}
