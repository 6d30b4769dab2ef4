//! What containers do beyond the promises that every backend keeps.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use kled_core::provider::{
    CreateOptions, DownloadRequest, ExecRequest, Faults, Progress, Provider as _, ProviderExt, StatusOptions,
    UploadRequest,
};
use kled_core::workspace::{StopReason, WorkspaceSpec, WorkspaceStatus};
use kled_core::{ErrorKind, WorkspaceName};
use kled_providers::local::LocalProvider;
use kled_providers::local::container::ContainerProvider;
use kled_tests::containers::{Containers, USER_IMAGE};
use kled_tests::suite::{Shared, Suite};
use kled_tests::wait;
use kled_tests::workspaces::repository;

static CONTAINERS: Shared<Containers> = Shared::new();

fn main() -> ExitCode {
    Suite::new("containers")
        .case("files-belong-to-the-user-of-the-image", files_belong_to_the_user)
        .case("limits-are-kept", limits_are_kept)
        .case("a-killed-container-says-so", killed)
        .case("a-missing-image-says-so-and-leaves-nothing", missing_image)
        .case("an-image-without-a-shell-has-an-agent", no_shell)
        .case("an-image-without-a-shell-and-no-agent-leave-nothing", no_shell_no_agent)
        .case("a-missing-repository-leaves-nothing", missing_repository)
        .case("what-is-not-kept-is-refused", refused)
        .case("a-volume-of-somebody-else-is-left-alone", foreign_volume)
        .case("an-engine-that-is-away-is-no-absence", engine_away)
        .case("a-set-up-is-carried-out", set_up)
        .case("a-set-up-that-failed-is-gone-on-with", set_up_failed)
        .case("the-token-is-in-memory-alone", token)
        .case("a-provider-without-the-program-reaches-the-agent", reached_by_another)
        .case("a-driver-that-is-gone-leaves-no-process", driver_gone)
        .case("what-was-made-without-an-agent-says-so", without_agent)
        .case("a-stopped-workspace-expires-at-the-next-look", expired_when_stopped)
        .case("a-large-file-is-copied-through-the-engine", large_copy)
        .skip_all_if(Containers::missing())
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
    let (containers, provider) = open().await?;
    let name = name("no-shell")?;
    provider.create(&name, &empty(&containers).await?).await?;
    let output = provider.run(&name, ["kled-agent", "--version"]).await?;
    ensure!(output.stdout.starts_with(b"kled-agent "), "{output:?}");
    let error = provider.run(&name, ["sh"]).await.err().context("an error")?;
    ensure!(error.kind() == ErrorKind::CommandNotFound, "{error:?}");
    removed(&containers, &provider, &name).await
}

/// A spec with an image that has nothing in it.
async fn empty(containers: &Containers) -> Result<WorkspaceSpec> {
    const IMAGE: &str = "localhost/empty:1";
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("empty.tar");
    kled_tests::image::Image::new(IMAGE).directory("etc", 0o755).write(&archive)?;
    containers.podman().load_image(&archive).await?;
    Ok(containers.builder("one").image(IMAGE).build()?)
}

async fn no_shell_no_agent() -> Result<()> {
    let (containers, _) = open().await?;
    let provider = containers.open_plain(Faults::none()).await?;
    let name = name("no-shell-no-agent")?;
    let error = provider.create(&name, &empty(&containers).await?).await.err().context("an error")?;
    ensure!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::InvalidInput), "{error:?}");
    ensure!(error.hint_text().is_some(), "{error:?} has no hint");
    nothing_left(&containers, &name).await
}

async fn missing_repository() -> Result<()> {
    let (containers, _) = open().await?;
    fails_with(containers.builder("none"), "no-repository", &[ErrorKind::RepositoryNotFound]).await
}

async fn refused() -> Result<()> {
    let (containers, _) = open().await?;
    let provider = containers.open_plain(Faults::none()).await?;
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

/// For what happens in milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(60);

/// A spec of a repository with this file.
fn project(containers: &Containers, repository_name: &str, path: &str, text: &str) -> Result<WorkspaceSpec> {
    let folder = containers.repositories().join(repository_name);
    let file = folder.join(path);
    std::fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    std::fs::write(file, text)?;
    repository(&folder, 0)?;
    Ok(containers.builder(repository_name).build()?)
}

async fn set_up() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("set-up")?;
    let text = "environment:\n  PROJECT: kled\nsetup:\n  create: echo made | tee made\n  start: echo started >> starts\n";
    let spec = project(&containers, "set-up", ".kled.yaml", text)?;
    let (progress, events) = Progress::channel(1024);
    let options = CreateOptions { progress, ..CreateOptions::default() };
    provider.create_workspace(&name, &spec, options).await?;
    let events: Vec<_> = events.collect().await;
    ensure!(events.iter().any(|event| event.reason == "SettingUp" && event.message == "made"), "{events:?}");
    ensure!(output(&provider, &name, "cat made starts; echo $PROJECT").await? == "made\nstarted\nkled");
    provider.stop(&name).await?;
    provider.start(&name).await?;
    ensure!(
        output(&provider, &name, "cat made starts; echo $PROJECT").await? == "made\nstarted\nstarted\nkled"
    );
    removed(&containers, &provider, &name).await
}

async fn set_up_failed() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("set-up-failed")?;
    let text = r#"{
        "onCreateCommand": "echo first >> steps",
        "postCreateCommand": "test -e again || { touch again; echo no tool; exit 7; }",
        "postStartCommand": "echo started >> steps"
    }"#;
    let spec = project(&containers, "set-up-failed", ".devcontainer.json", text)?;
    let error = provider.create(&name, &spec).await.err().context("an error")?;
    ensure!(error.kind() == ErrorKind::SetupFailed && error.to_string().contains("no tool"), "{error:?}");
    // Another process knows it from the engine.
    let other = containers.open(Faults::none()).await?;
    let status = other.status(&name).await?.status;
    ensure!(
        matches!(&status, WorkspaceStatus::Interrupted { message: Some(message), .. } if message.contains("no tool")),
        "{status:?}"
    );
    let conflict =
        other.create(&name, &containers.builder("one").build()?).await.err().context("an error")?;
    ensure!(conflict.kind() == ErrorKind::Conflict, "{conflict:?}");
    let workspace = other.create(&name, &spec).await?;
    ensure!(workspace.status.is_running() && workspace.checkout.is_some(), "{workspace:?}");
    let steps = output(&other, &name, "cat steps").await?;
    ensure!(steps == "first\nstarted", "{steps:?}");
    removed(&containers, &other, &name).await
}

async fn token() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("token")?;
    provider.create(&name, &containers.builder("one").image(USER_IMAGE).build()?).await?;
    let seen = output(&provider, &name, "ls -ln /run/kled/token; cat /run/kled/token").await?;
    let (listed, token) = seen.split_once('\n').context("two lines")?;
    ensure!(listed.starts_with("-rw-------") && listed.contains("65534"), "{listed}");
    ensure!(token.len() == 64, "the token has {} characters", token.len());
    let podman = containers.podman();
    let inspected = podman.podman(&["inspect", "kled-token"]).await?;
    ensure!(!inspected.contains(token), "the engine's record of the container has the token");
    let logged = podman.podman(&["logs", "kled-token"]).await?;
    ensure!(!logged.contains(token), "the log has the token");
    let exported = podman.directory().join("exported.tar");
    podman.podman(&["export", "--output", exported.to_str().context("UTF-8")?, "kled-token"]).await?;
    let bytes = std::fs::read(&exported)?;
    std::fs::remove_file(&exported)?;
    let found = bytes.windows(token.len()).any(|window| window == token.as_bytes());
    ensure!(!found, "the container's files have the token");
    // A new one at each start.
    provider.stop(&name).await?;
    provider.start(&name).await?;
    ensure!(output(&provider, &name, "cat /run/kled/token").await? != token, "the token is the old one");
    removed(&containers, &provider, &name).await
}

async fn reached_by_another() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("by-another")?;
    provider.create(&name, &containers.builder("one").build()?).await?;
    let other = containers.open_plain(Faults::none()).await?;
    let status = other.agent_status(&name, StatusOptions::default()).await?;
    ensure!(status.version == env!("CARGO_PKG_VERSION"), "{status:?}");
    other.stop(&name).await?;
    let error = provider.run(&name, ["true"]).await.err().context("an error")?;
    ensure!(error.kind() == ErrorKind::InvalidState, "{error:?}");
    removed(&containers, &other, &name).await
}

async fn driver_gone() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("driver-gone")?;
    provider.create(&name, &containers.builder("one").build()?).await?;
    output(&provider, &name, "true").await?;
    let ways = async || {
        let listed = containers.podman().podman(&["exec", "kled-driver-gone", "ps", "-o", "args"]).await?;
        Ok::<_, anyhow::Error>(listed.lines().filter(|line| line.contains("kled-agent connect")).count())
    };
    ensure!(ways().await? == 1, "one way to the agent");
    drop(provider);
    wait::until(SOON, "the way to the agent to end", async || {
        let left = ways().await?;
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await?;
    let (_, provider) = open().await?;
    removed(&containers, &provider, &name).await
}

async fn without_agent() -> Result<()> {
    let (containers, provider) = open().await?;
    let plain = containers.open_plain(Faults::none()).await?;
    let name = name("without-agent")?;
    let made = plain.create(&name, &containers.builder("one").build()?).await?;
    let condition = made.condition("Agent").context("a condition")?;
    ensure!(format!("{:?}", condition.status) == "False", "{condition:?}");
    // One that has the program does not pretend.
    ensure!(output(&provider, &name, "cat README.md").await?.starts_with("a repository"));
    let error = provider.agent_status(&name, StatusOptions::default()).await.err().context("an error")?;
    ensure!(error.kind() == ErrorKind::Unsupported && error.hint_text().is_some(), "{error:?}");
    removed(&containers, &provider, &name).await
}

async fn expired_when_stopped() -> Result<()> {
    let (containers, provider) = open().await?;
    let name = name("expired")?;
    let spec = containers.builder("one").time_to_live("6s").build()?;
    provider.create(&name, &spec).await?;
    provider.stop(&name).await?;
    // Nobody looks: it is still there, and the next look removes it.
    wait::until(SOON, "the end of the time to live", async || {
        let left = provider.list().await?.into_iter().filter(|workspace| workspace.name == name).count();
        ensure!(left == 0, "it is listed");
        Ok(())
    })
    .await?;
    nothing_left(&containers, &name).await
}

async fn large_copy() -> Result<()> {
    const SIZE: u64 = 300 << 20;
    let (containers, provider) = open().await?;
    let name = name("large")?;
    provider.create(&name, &containers.builder("one").build()?).await?;
    let made = "dd if=/dev/urandom of=large bs=1M count=300 2>/dev/null && sha256sum large | cut -c-64";
    let digest = output(&provider, &name, made).await?;
    let begun = std::time::Instant::now();
    let archive = provider.download(&name, DownloadRequest::new("large")).await?;
    let uploaded = provider.upload(&name, UploadRequest::new("copied", archive)).await?;
    ensure!(uploaded > SIZE, "{uploaded} bytes");
    println!("{SIZE} bytes out and in at once: {:.1?}", begun.elapsed());
    let copied = output(&provider, &name, "sha256sum copied/large | cut -c-64").await?;
    ensure!(copied == digest, "{copied} instead of {digest}");
    // Other calls go on meanwhile: nothing is left hanging.
    let mut session = provider.exec(&name, ExecRequest::new(["cat"]).piped_stdin()).await?;
    drop(session.stdin.take());
    ensure!(session.wait().await?.is_success());
    removed(&containers, &provider, &name).await
}
