//! What containers do beyond the promises that every backend keeps.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kled_core::provider::{Faults, ProviderExt};
use kled_core::workspace::{StopReason, WorkspaceStatus};
use kled_core::{ErrorKind, WorkspaceName};
use kled_providers::local::LocalProvider;
use kled_providers::local::container::ContainerProvider;
use kled_tests::containers::{Containers, USER_IMAGE};
use kled_tests::podman::PodmanService;
use kled_tests::suite::{Shared, Suite};

static CONTAINERS: Shared<Containers> = Shared::new();

fn main() -> ExitCode {
    Suite::new("containers")
        .case("files-belong-to-the-user-of-the-image", files_belong_to_the_user)
        .case("limits-are-kept", limits_are_kept)
        .case("a-killed-container-says-so", killed)
        .case("a-missing-image-says-so-and-leaves-nothing", missing_image)
        .case("an-image-without-a-shell-leaves-nothing", no_shell)
        .case("a-missing-repository-leaves-nothing", missing_repository)
        .case("what-is-not-kept-is-refused", refused)
        .case("a-volume-of-somebody-else-is-left-alone", foreign_volume)
        .case("an-engine-that-is-away-is-no-absence", engine_away)
        .skip_all_if(PodmanService::missing())
        .after(|| async {
            CONTAINERS.release().await;
            Ok(())
        })
        .run()
}

async fn open() -> Result<(Arc<Containers>, LocalProvider)> {
    let containers = CONTAINERS.get(Containers::start).await?;
    let provider = containers.open(Faults::none()).await?;
    Ok((containers, provider))
}

fn name(text: &str) -> Result<WorkspaceName> {
    Ok(WorkspaceName::new(text)?)
}

async fn output(provider: &LocalProvider, name: &WorkspaceName, script: &str) -> Result<String> {
    let output = provider.run(name, ["sh", "-c", script]).await?;
    ensure!(output.status.is_success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn removed(containers: &Containers, provider: &LocalProvider, name: &WorkspaceName) -> Result<()> {
    provider.delete(name).await?;
    nothing_left(containers, name).await
}

async fn nothing_left(containers: &Containers, name: &WorkspaceName) -> Result<()> {
    let left = containers.left(name).await?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

async fn files_belong_to_the_user() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("user")?;
    provider.create(&name, &containers.builder("one").image(USER_IMAGE).build()?).await?;
    let seen = output(
        &provider,
        &name,
        "id -u; ls -ldn . README.md .git | grep -c 65534; touch new && echo written",
    );
    let seen = seen.await?;
    ensure!(seen == "65534\n3\nwritten", "{seen:?}");
    removed(&containers, &provider, &name).await
}

async fn limits_are_kept() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("limits")?;
    let spec = containers.builder("one").memory("64Mi").cpu("500m").disk("1Gi").build()?;
    let workspace = provider.create(&name, &spec).await?;
    for (condition, holds) in [("MemoryLimited", "True"), ("CpuLimited", "True"), ("DiskLimited", "False")] {
        let found = workspace.condition(condition).context("a condition for each limit")?;
        ensure!(format!("{:?}", found.status) == holds, "{found:?}");
    }
    let limit = containers
        .podman()
        .podman(&["inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", "kled-limits"])
        .await?;
    ensure!(limit.trim() == format!("{} 500000000", 64 << 20), "{limit:?}");
    // More than the limit: the command is killed, and the workspace goes on.
    let greedy =
        provider.run(&name, ["sh", "-c", "head -c 200000000 /dev/zero | tail -c 190000000 | wc -c"]).await?;
    ensure!(!String::from_utf8_lossy(&greedy.stdout).contains("190000000"), "{greedy:?}");
    ensure!(output(&provider, &name, "echo on").await? == "on", "it runs on");
    removed(&containers, &provider, &name).await
}

async fn killed() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("killed")?;
    provider.create(&name, &containers.builder("one").build()?).await?;
    containers.podman().podman(&["kill", "--signal=KILL", "kled-killed"]).await?;
    let status = provider.status(&name).await?.status;
    let crashed = matches!(&status, WorkspaceStatus::Stopped { reason: StopReason::Crashed { .. }, .. });
    ensure!(crashed, "{status}");
    provider.start(&name).await?;
    ensure!(
        output(&provider, &name, "cat README.md").await?.starts_with("a repository"),
        "its data is there"
    );
    // By somebody's own hand, not ours: asked for all the same.
    containers.podman().podman(&["stop", "kled-killed"]).await?;
    let status = provider.status(&name).await?.status;
    ensure!(matches!(&status, WorkspaceStatus::Stopped { reason: StopReason::Requested, .. }), "{status}");
    removed(&containers, &provider, &name).await
}

async fn fails_with(
    spec: kled_core::workspace::WorkspaceSpecBuilder,
    text: &str,
    kinds: &[ErrorKind],
) -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name(text)?;
    let error = provider.create(&name, &spec.build()?).await.err().context("an error")?;
    ensure!(kinds.contains(&error.kind()), "{error:?}");
    ensure!(
        error.hint_text().is_some() || error.kind() == ErrorKind::RepositoryNotFound,
        "{error:?} has no hint"
    );
    nothing_left(&containers, &name).await
}

async fn missing_image() -> Result<()> {
    let (containers, _) = open().await?;
    let spec = containers.builder("one").image("localhost/no-such-image:1");
    fails_with(spec, "no-image", &[ErrorKind::ImageUnavailable]).await
}

async fn no_shell() -> Result<()> {
    let (containers, _) = open().await?;
    let archive = containers.podman().directory().join("empty.tar");
    kled_tests::image::Image::new("localhost/empty:1").directory("etc", 0o755).write(&archive)?;
    containers.podman().load_image(&archive).await?;
    let spec = containers.builder("one").image("localhost/empty:1");
    fails_with(spec, "no-shell", &[ErrorKind::Unavailable, ErrorKind::InvalidInput]).await
}

async fn missing_repository() -> Result<()> {
    let (containers, _) = open().await?;
    fails_with(containers.builder("none"), "no-repository", &[ErrorKind::RepositoryNotFound]).await
}

async fn refused() -> Result<()> {
    let (containers, provider) = open().await?;
    let builder = || containers.builder("one");
    for builder in
        [builder().idle_timeout("1h"), builder().time_to_live("1h"), builder().environment("A.B", "1")]
    {
        let error = provider.create(&name("refused")?, &builder.build()?).await.err().context("an error")?;
        ensure!(error.kind() == ErrorKind::Unsupported, "{error:?}");
    }
    nothing_left(&containers, &name("refused")?).await
}

async fn foreign_volume() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("foreign")?;
    containers.podman().podman(&["volume", "create", "kled-foreign"]).await?;
    let error = provider.status(&name).await.err().context("an error")?;
    ensure!(error.kind() == ErrorKind::NotFound, "{error:?}");
    let spec = containers.builder("one").build()?;
    let error = provider.create(&name, &spec).await.err().context("an error")?;
    ensure!(error.kind() == ErrorKind::Conflict, "{error:?}");
    provider.delete(&name).await?;
    let listed = containers.podman().podman(&["volume", "ls", "--format", "{{.Name}}"]).await?;
    ensure!(listed.contains("kled-foreign"), "{listed}");
    containers.podman().podman(&["volume", "rm", "kled-foreign"]).await?;
    Ok(())
}

async fn engine_away() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("silent.sock");
    let build =
        || ContainerProvider::builder().socket(&socket).probe_timeout(Duration::from_millis(300)).build();
    let error = build().await.err().context("an error")?;
    ensure!(error.kind() == ErrorKind::Unavailable, "{error:?}");
    let _listener = tokio::net::UnixListener::bind(&socket)?;
    let error = build().await.err().context("an error")?;
    ensure!(error.kind() == ErrorKind::Timeout, "{error:?}");
    Ok(())
}
