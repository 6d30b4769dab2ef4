//! What the set-up of a project may do and is given, and what is told of it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use kled_core::ErrorKind;
use kled_core::provider::{EventsOptions, LogsOptions, Provider as _, ProviderExt as _};
use kled_core::setup::{Dotfiles, GitIdentity};
use kled_providers::local::{Sandbox, SupervisorProgram};
use kled_tests::git_server::GitServer;
use kled_tests::suite::Suite;
use kled_tests::wait;
use kled_tests::workspaces::repository;

use crate::scene::{CREDENTIALS, Scene, add_case};

/// For what has to happen soon.
const LIMIT: Duration = Duration::from_secs(20);

type Check = fn(SupervisorProgram, Sandbox) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Each in every sandbox.
const CHECKS: [(&str, Check); 4] = [
    ("a-set-up-stays-in-the-sandbox", |supervisor, sandbox| Box::pin(confined(supervisor, sandbox))),
    ("a-set-up-gets-variables-and-secrets", |supervisor, sandbox| Box::pin(given(supervisor, sandbox))),
    ("dotfiles-and-identity-are-brought", |supervisor, sandbox| Box::pin(personal(supervisor, sandbox))),
    ("a-set-up-under-way-can-be-ended", |supervisor, sandbox| Box::pin(under_way(supervisor, sandbox))),
];

pub(crate) fn add(mut suite: Suite, supervisor: &SupervisorProgram) -> Suite {
    for (name, sandbox) in [("bubblewrap", Sandbox::Bubblewrap), ("landlock", Sandbox::Landlock)] {
        for (case, check) in CHECKS {
            let supervisor = supervisor.clone();
            suite = add_case(suite, name, case, sandbox, move || check(supervisor, sandbox));
        }
    }
    let (first, second) = (supervisor.clone(), supervisor.clone());
    suite
        .case("set-up/without-a-sandbox-it-is-left-out-and-told", move || left_out(first))
        .case("set-up/a-start-whose-set-up-failed-is-repeated", move || repeated(second))
}

async fn confined(supervisor: SupervisorProgram, sandbox: Sandbox) -> Result<()> {
    let read: Vec<String> =
        CREDENTIALS.iter().map(|credential| format!("cat $USER_HOME/{credential}")).collect();
    let text = format!(
        "setup:\n  create: |\n    ({}) > found 2>&1 || true\n    touch $USER_HOME/kled-was-here || true\n    touch done\n",
        read.join("; ")
    );
    let scene = Scene::with(supervisor, sandbox, &[(".kled.yaml", &text)], |builder| builder).await?;
    let name = kled_core::WorkspaceName::new(format!("confined-{sandbox:?}").to_lowercase())?;
    let spec = scene.spec().environment("USER_HOME", scene.home().display().to_string()).build()?;
    scene.provider.create(&name, &spec).await?;
    scene.succeeds(&name, "test -e done").await?;
    let found = scene.succeeds(&name, "cat found").await?;
    ensure!(found.lines().count() == CREDENTIALS.len() && !found.contains("a-credential"), "{found}");
    ensure!(!scene.home().join("kled-was-here").exists(), "the home folder was written");
    scene.delete(&name).await
}

/// True where some file below has the text.
fn is_below(folder: &Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let has = match () {
            () if kind.is_dir() => is_below(&entry.path(), text)?,
            () if kind.is_file() => String::from_utf8_lossy(&std::fs::read(entry.path())?).contains(text),
            () => false,
        };
        if has {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn given(supervisor: SupervisorProgram, sandbox: Sandbox) -> Result<()> {
    let text = "environment: {LEVEL: of the project}\nsetup:\n  create: echo \"$LEVEL, $TOKEN\" | sha256sum > seen\n";
    let scene = Scene::with(supervisor, sandbox, &[(".kled.yaml", text)], |builder| builder).await?;
    let name = kled_core::WorkspaceName::new(format!("given-{sandbox:?}").to_lowercase())?;
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(secret.path(), "correct-horse-battery")?;
    let spec = scene.spec().environment("LEVEL", "of the spec");
    let spec = spec.secret("TOKEN", format!("file:{}", secret.path().display())).build()?;
    scene.provider.create(&name, &spec).await?;
    let expected = scene.succeeds(&name, "echo 'of the spec, correct-horse-battery' | sha256sum").await?;
    ensure!(scene.succeeds(&name, "cat seen").await? == expected, "the set-up has seen something else");
    ensure!(!is_below(&scene.root(), "correct-horse-battery")?, "the secret is kept");
    scene.delete(&name).await
}

async fn personal(supervisor: SupervisorProgram, sandbox: Sandbox) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dotfiles = folder.path().join("dotfiles");
    std::fs::create_dir_all(&dotfiles)?;
    std::fs::write(dotfiles.join(".toolrc"), "mine\n")?;
    repository(&dotfiles, 0)?;
    let server = GitServer::start(Ipv4Addr::LOCALHOST, folder.path()).await?;
    let dotfiles =
        Dotfiles { repository: server.url("dotfiles").parse()?, revision: None, install_command: None };
    let identity = GitIdentity::new("Ada", "ada@example.com")?;
    let text = "environment: {FROM_HERE: \"${localEnv:EDITOR:none}\"}\n";
    let scene = Scene::with(supervisor, sandbox, &[(".kled.yaml", text)], |builder| {
        builder.dotfiles(dotfiles).git_identity(identity).local_environment([("EDITOR", "ed")])
    })
    .await?;
    let (name, _) = scene.create("personal").await?;
    let seen = "cat ~/.toolrc; git config user.email; echo $FROM_HERE";
    ensure!(scene.succeeds(&name, seen).await? == "mine\nada@example.com\ned\n", "something is not brought");
    scene.provider.stop(&name).await?;
    scene.provider.start(&name).await?;
    ensure!(
        scene.succeeds(&name, seen).await? == "mine\nada@example.com\ned\n",
        "something is lost at a start"
    );
    scene.delete(&name).await
}

/// A create whose process ends, and one that a delete overtakes, while a command of the set-up runs.
async fn under_way(supervisor: SupervisorProgram, sandbox: Sandbox) -> Result<()> {
    let text = "setup:\n  create: |\n    echo begun >> begun\n    test -e go || exec sleep 7654\n";
    let scene = Scene::with(supervisor, sandbox, &[(".kled.yaml", text)], |builder| builder).await?;
    let spec = scene.spec().build()?;
    for (number, ending) in ["killed", "deleted"].into_iter().enumerate() {
        let name = kled_core::WorkspaceName::new(format!("{ending}-{sandbox:?}").to_lowercase())?;
        let checkout = scene.root().join("workspaces").join(name.as_str()).join("checkout");
        let begin = |times: usize| {
            let (provider, name, spec) = (scene.provider.clone(), name.clone(), spec.clone());
            let begun = checkout.join("begun");
            async move {
                let create = tokio::spawn(async move { provider.create(&name, &spec).await });
                wait::until(LIMIT, "the command to run", async || {
                    let lines = std::fs::read_to_string(&begun)?.lines().count();
                    ensure!(lines == times, "it ran {lines} times");
                    Ok(())
                })
                .await?;
                anyhow::Ok(create)
            }
        };
        let create = begin(1).await?;
        if number == 0 {
            create.abort();
            ensure!(create.await.is_err_and(|error| error.is_cancelled()), "the create ended by itself");
            // The next one begins the step anew.
            let create = begin(2).await?;
            create.abort();
            ensure!(create.await.is_err_and(|error| error.is_cancelled()), "the create ended by itself");
            std::fs::write(checkout.join("go"), "")?;
            ensure!(scene.provider.create(&name, &spec).await?.status.is_running());
        } else {
            scene.provider.delete(&name).await?;
            let error = tokio::time::timeout(LIMIT, create).await??.err().context("it was deleted")?;
            ensure!(error.kind() == ErrorKind::Cancelled, "{error:?}");
        }
        scene.delete(&name).await?;
    }
    Ok(())
}

async fn left_out(supervisor: SupervisorProgram) -> Result<()> {
    let files = [(".kled.yaml", "setup:\n  create: touch created\n  start: touch started\n")];
    let scene = Scene::with(supervisor.clone(), Sandbox::None, &files, |builder| builder).await?;
    let spec = scene.spec().build()?;
    ensure!(!scene.provider.capabilities_of(&spec).setup && scene.provider.capabilities().setup);
    let (name, workspace) = scene.create("left-out").await?;
    scene.fails(&name, "ls created").await?;
    let told = |workspace: &kled_core::workspace::Workspace| {
        workspace.condition("SetUp").is_some_and(|condition| condition.reason == "NotSandboxed")
    };
    ensure!(told(&workspace), "{:?}", workspace.conditions);
    scene.provider.stop(&name).await?;
    ensure!(told(&scene.provider.start(&name).await?), "the condition is gone after a start");
    scene.fails(&name, "ls started").await?;
    let events = scene.provider.workspace_events(&name, EventsOptions::default()).await?;
    let events: Vec<_> = events.try_collect().await?;
    ensure!(events.iter().any(|event| event.reason == "SetUpLeftOut"), "{events:?}");
    scene.delete(&name).await?;
    // Of a project that asks for nothing nothing is told.
    let scene = Scene::new(supervisor, Sandbox::None).await?;
    let (name, workspace) = scene.create("asks-nothing").await?;
    ensure!(workspace.condition("SetUp").is_none(), "{:?}", workspace.conditions);
    scene.delete(&name).await
}

async fn repeated(supervisor: SupervisorProgram) -> Result<()> {
    let text =
        "setup:\n  create: echo created >> steps\n  start: test ! -e broken && echo started >> steps\n";
    let scene = Scene::with(supervisor, Sandbox::None, &[(".kled.yaml", text)], |builder| {
        builder.set_up_without_sandbox(true)
    })
    .await?;
    let (name, workspace) = scene.create("repeated").await?;
    ensure!(workspace.condition("SetUp").is_none(), "{:?}", workspace.conditions);
    scene.succeeds(&name, "touch broken").await?;
    scene.provider.stop(&name).await?;
    for _ in 0..2 {
        let error = scene.provider.start(&name).await.err().context("its set-up fails")?;
        ensure!(error.kind() == ErrorKind::SetupFailed, "{error:?}");
        let workspace = scene.provider.status(&name).await?;
        let condition = workspace.condition("SetUp").context("no condition")?;
        ensure!(workspace.status.is_running() && condition.reason == "Failed", "{workspace:?}");
        ensure!(condition.message.contains("exit code 1"), "{condition:?}");
    }
    scene.succeeds(&name, "rm broken").await?;
    let started = scene.provider.start(&name).await?;
    ensure!(started.condition("SetUp").is_none(), "{:?}", started.conditions);
    ensure!(scene.succeeds(&name, "cat steps").await? == "created\nstarted\nstarted\n");
    let lines = scene.provider.workspace_logs(&name, LogsOptions::default()).await?;
    let lines: Vec<_> = lines.try_collect().await?;
    ensure!(lines.iter().any(|line| line.line == "running setup.start"), "{lines:?}");
    scene.delete(&name).await
}
