//! What a sandboxed command can reach.

use anyhow::{Result, ensure};
use kled_core::ErrorKind;
use kled_core::provider::{ExecRequest, Provider as _, ProviderExt as _};
use kled_providers::agent::{AgentClient, Token};
use kled_providers::local::{Sandbox, SupervisorProgram};
use kled_tests::suite::Suite;

use crate::scene::{CREDENTIALS, Scene, add_case};

type Check = fn(Scene, Sandbox) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// The cases, each in a scene of its own.
const CHECKS: [(&str, Check); 9] = [
    ("whoever-cannot-read-the-token-is-refused", |scene, _| Box::pin(token(scene))),
    ("credentials-cannot-be-read", |scene, _| Box::pin(credentials(scene))),
    ("credentials-of-the-machine-cannot-be-read", |scene, _| Box::pin(machine_credentials(scene))),
    ("nothing-outside-can-be-written", |scene, _| Box::pin(writes(scene))),
    ("own-folders-can-be-written", |scene, _| Box::pin(own_folders(scene))),
    ("other-workspaces-cannot-be-read", |scene, _| Box::pin(other_workspaces(scene))),
    ("processes-of-others-are-out-of-reach", |scene, sandbox| Box::pin(other_processes(scene, sandbox))),
    ("toolchains-are-usable-and-read-only", |scene, _| Box::pin(toolchains(scene))),
    ("the-environment-of-the-caller-stays-outside", |scene, _| Box::pin(environment(scene))),
];

pub(crate) fn add(mut suite: Suite, name: &str, sandbox: Sandbox, supervisor: &SupervisorProgram) -> Suite {
    for (case, check) in CHECKS {
        let supervisor = supervisor.clone();
        suite = add_case(suite, name, case, sandbox, move || async move {
            check(Scene::new(supervisor, sandbox).await?, sandbox).await
        });
    }
    suite
}

async fn credentials(scene: Scene) -> Result<()> {
    let (name, workspace) = scene.create("one").await?;
    let condition = workspace.condition("Sandboxed");
    ensure!(condition.is_some_and(|condition| condition.message.contains("only")), "{condition:?}");
    for credential in CREDENTIALS {
        let path = scene.home().join(credential);
        scene.fails(&name, &format!("cat {}", path.display())).await?;
        scene.fails(&name, &format!("cat ~/{credential}")).await?;
    }
    let found =
        scene.shell(&name, &format!("grep -rs a-credential {} ~ /tmp", scene.home().display())).await?;
    ensure!(found.stdout.is_empty(), "{found:?}");
    scene.delete(&name).await
}

async fn machine_credentials(scene: Scene) -> Result<()> {
    let (name, _) = scene.create("one").await?;
    // Readable for root outside, so that the refusal is the sandbox's.
    let readable = std::fs::read("/etc/shadow").is_ok_and(|shadow| !shadow.is_empty());
    ensure!(readable || !rustix::process::geteuid().is_root(), "/etc/shadow proves nothing here");
    let seen = scene.shell(&name, "cat /etc/shadow").await?;
    ensure!(seen.stdout.is_empty(), "{seen:?}");
    scene.succeeds(&name, "cat /etc/passwd").await?;
    scene.delete(&name).await
}

async fn writes(scene: Scene) -> Result<()> {
    let (name, workspace) = scene.create("one").await?;
    for folder in ["/usr", "/etc", "/opt", "/usr/local/bin"] {
        scene.fails(&name, &format!("touch {folder}/kled-was-here")).await?;
        ensure!(!std::path::Path::new(folder).join("kled-was-here").exists(), "{folder} was written");
    }
    // What a write into the home or a folder beside the checkout changes is the workspace's own, or nothing.
    let beside =
        workspace.checkout.map(|checkout| format!("{}/../kled-was-here", checkout.path)).unwrap_or_default();
    scene.shell(&name, &format!("touch {beside}; touch {}/kled-was-here", scene.home().display())).await?;
    ensure!(!scene.home().join("kled-was-here").exists(), "the home folder was written");
    ensure!(
        !scene.root().join("workspaces").join(name.as_str()).join("kled-was-here").exists(),
        "the record's folder was written"
    );
    scene.delete(&name).await
}

async fn own_folders(scene: Scene) -> Result<()> {
    let (name, workspace) = scene.create("one").await?;
    scene
        .succeeds(&name, "echo a > file && echo b > ~/file && echo c > /$TMPDIR/file && test -w .git")
        .await?;
    let checkout = workspace.checkout.map(|checkout| checkout.path).unwrap_or_default();
    ensure!(
        std::fs::read_to_string(format!("{checkout}/file"))? == "a\n",
        "the checkout is not the one outside"
    );
    scene
        .succeeds(
            &name,
            "git status && git -c user.name=a -c user.email=a@b commit -qam second --allow-empty",
        )
        .await?;
    scene.delete(&name).await
}

async fn other_workspaces(scene: Scene) -> Result<()> {
    let (one, _) = scene.create("one").await?;
    let (other, workspace) = scene.create("other").await?;
    scene
        .succeeds(
            &other,
            "echo a-credential > file; echo a-credential > ~/file; echo a-credential > $TMPDIR/f",
        )
        .await?;
    let checkout = workspace.checkout.map(|checkout| checkout.path).unwrap_or_default();
    scene.fails(&one, &format!("cat {checkout}/file")).await?;
    scene.fails(&one, &format!("echo x > {checkout}/file")).await?;
    let found =
        scene.shell(&one, &format!("grep -rs a-credential {} /tmp /var/tmp", scene.root().display())).await?;
    ensure!(found.stdout.is_empty(), "{found:?}");
    scene.delete(&one).await?;
    ensure!(scene.succeeds(&other, "cat file").await? == "a-credential\n");
    scene.delete(&other).await
}

async fn other_processes(scene: Scene, sandbox: Sandbox) -> Result<()> {
    let (one, _) = scene.create("one").await?;
    let (other, _) = scene.create("other").await?;
    let request = ExecRequest::new(["sh", "-c", "echo started; exec sleep 98765"])
        .environment("HIDDEN", "a-credential");
    let mut sleeper = scene.provider.exec(&other, request).await?;
    let mut started = [0; 8];
    tokio::io::AsyncReadExt::read_exact(&mut sleeper.stdout, &mut started).await?;
    let seen = scene.shell(&one, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await?;
    let seen = String::from_utf8_lossy(&seen.stdout).contains("sleep 98765");
    ensure!(seen == (sandbox == Sandbox::Landlock), "with {sandbox:?} the process is seen: {seen}");
    let stolen = scene.shell(&one, "cat /proc/[0-9]*/environ").await?;
    ensure!(!String::from_utf8_lossy(&stolen.stdout).contains("HIDDEN"), "the environment was read");
    // What is not seen or not allowed stays alive. It may kill what serves its own workspace, and so end itself.
    let _killed_itself = scene.shell(&one, "for p in /proc/[0-9]*; do kill -9 ${p#/proc/}; done").await;
    ensure!(scene.succeeds(&other, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await?.contains("sleep 98765"));
    drop(sleeper);
    scene.delete(&one).await?;
    scene.delete(&other).await
}

async fn toolchains(scene: Scene) -> Result<()> {
    let (name, _) = scene.create("one").await?;
    let bin = scene.home().join(".cargo/bin");
    ensure!(
        scene.succeeds(&name, &format!("{}/tool", bin.display())).await? == "a tool of the home folder\n"
    );
    scene.fails(&name, &format!("echo x > {}/tool", bin.display())).await?;
    scene.fails(&name, &format!("touch {}/other", bin.display())).await?;
    ensure!(!bin.join("other").exists(), "the toolchain was written");
    scene.delete(&name).await
}

async fn environment(scene: Scene) -> Result<()> {
    // cargo sets it for tests; it stands for every variable that somebody's shell happens to hold.
    ensure!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "run by cargo test");
    let (name, _) = scene.create("one").await?;
    let seen = scene.succeeds(&name, "env; cat /proc/self/environ").await?;
    ensure!(!seen.contains("CARGO_MANIFEST_DIR") && seen.contains("PATH="), "{seen}");
    ensure!(!scene.provider.status(&name).await?.conditions.is_empty());
    scene.delete(&name).await
}

/// Landlock lets sockets be connected to, so reaching the socket must not be enough.
async fn token(scene: Scene) -> Result<()> {
    let (one, _) = scene.create("one").await?;
    let (other, _) = scene.create("other").await?;
    let run = scene.root().join("workspaces").join(other.as_str()).join("run");
    scene.fails(&one, &format!("cat {}/token.json", run.display())).await?;
    let stream = tokio::net::UnixStream::connect(run.join("agent.sock")).await?;
    let client = AgentClient::connect(stream, &Token::random()).await?;
    let answer = client.exec(ExecRequest::new(["touch", "reached"]).command).await;
    let refused = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    ensure!(refused, "{answer:?}");
    scene.fails(&other, "test -e reached").await?;
    scene.delete(&one).await?;
    scene.delete(&other).await
}
