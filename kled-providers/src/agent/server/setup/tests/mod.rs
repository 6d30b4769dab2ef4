//! Set-ups through the agent's client, with real processes and real repositories.

mod dotfiles;
mod fixture;

use kled_core::ErrorKind;
use kled_core::provider::{ExecRequest, TerminalSize, Variables};
use kled_core::setup::{GitIdentity, IgnoredReason, Phase};

use self::fixture::{SOON, Workspace, eventually};
use crate::agent::server::account::Account;
use crate::agent::{SetupOptions, SetupProgress};

#[tokio::test]
async fn a_creation_is_done_once_and_a_start_every_time() {
    let workspace = Workspace::new(&[(
        ".devcontainer/devcontainer.json",
        r#"{
            "containerEnv": {"GREETING": "hello from ${containerWorkspaceFolderBasename}"},
            "onCreateCommand": "echo on $GREETING >> log",
            "updateContentCommand": ["sh", "-c", "echo $0 >> log", "update $GREETING"],
            "postCreateCommand": "echo post >> log",
            "postStartCommand": "echo start >> log",
            "postAttachCommand": "echo attach >> log"
        }"#,
    )]);
    let created = "on hello from checkout\nupdate $GREETING\npost\nstart\n";
    let first = workspace.agent().await;
    let summary = first.set_up(Phase::Create).await.unwrap();
    assert_eq!(summary.file.as_deref(), Some(".devcontainer/devcontainer.json"));
    assert_eq!(summary.variables, ["GREETING"]);
    assert!(summary.ignored.is_empty(), "{:?}", summary.ignored);
    assert_eq!(workspace.read("log"), created);
    for phase in [Phase::Create, Phase::Start, Phase::Create] {
        first.set_up(phase).await.unwrap();
    }
    assert_eq!(workspace.read("log"), created);
    first.set_up(Phase::Attach).await.unwrap();
    assert_eq!(workspace.read("log"), format!("{created}attach\n"));

    // Started again: another agent with the same folders. The environment is there before anybody asks.
    let second = workspace.agent().await;
    assert_eq!(second.shell("echo $GREETING").await, "hello from checkout\n");
    second.set_up(Phase::Start).await.unwrap();
    second.set_up(Phase::Create).await.unwrap();
    assert_eq!(workspace.read("log"), format!("{created}attach\nstart\n"));
}

#[tokio::test]
async fn a_failed_step_is_told_exactly_and_run_again() {
    let workspace = Workspace::new(&[(
        ".devcontainer.json",
        r#"{
  "remoteEnv": {"IN_FORCE": "yes"},
  "onCreateCommand": "echo on >> log",
  "updateContentCommand": "echo from https://me:hunter2@h.example/x; echo last >&2; test -e fixed || exit 3",
  "postCreateCommand": "echo post >> log"
}"#,
    )]);
    let agent = workspace.agent().await;
    let mut lines = Vec::new();
    let options = SetupOptions::new(Phase::Create);
    let failed = agent.client.set_up(&options, |progress| lines.push(format!("{progress:?}"))).await;
    let error = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SetupFailed);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("create the workspace again")));
    let message = error.to_string();
    let expected = "updateContentCommand of .devcontainer.json, line 4, failed with exit code 3: ";
    assert!(message.starts_with(expected), "{message}");
    assert!(message.contains("last") && message.contains("[redacted]@h.example"), "{message}");
    assert!(!format!("{lines:?} {message}").contains("hunter2"));
    assert!(lines.iter().any(|line| line.contains("from https://")), "{lines:?}");
    assert_eq!(workspace.read("log"), "on\n");
    assert_eq!(agent.shell("echo $IN_FORCE").await, "yes\n");

    workspace.write("fixed", "");
    // Also when the agent has ended meanwhile.
    workspace.agent().await.set_up(Phase::Create).await.unwrap();
    assert_eq!(workspace.read("log"), "on\npost\n");
}

#[tokio::test]
async fn what_is_written_otherwise_is_run_again() {
    let text = |command: &str| {
        format!(r#"{{"onCreateCommand": "{command}", "postCreateCommand": "echo p >> log"}}"#)
    };
    let workspace = Workspace::new(&[(".devcontainer.json", &text("echo a >> log"))]);
    let agent = workspace.agent().await;
    agent.set_up(Phase::Create).await.unwrap();
    workspace.write(".devcontainer.json", &text("echo b >> log"));
    agent.set_up(Phase::Create).await.unwrap();
    assert_eq!(workspace.read("log"), "a\np\nb\n");
}

#[tokio::test]
async fn commands_of_an_object_run_at_the_same_time() {
    // Each waits for the other.
    let wait = |own: &str, other: &str| {
        format!("touch {own}; until test -e {other}; do sleep 0.01; done; echo {own}")
    };
    let text = format!(
        r#"{{"postCreateCommand": {{"a": "{}", "b": "{}"}}}}"#,
        wait("one", "two"),
        wait("two", "one")
    );
    let workspace = Workspace::new(&[(".devcontainer.json", &text)]);
    let agent = workspace.agent().await;
    let mut lines = Vec::new();
    let options = SetupOptions::new(Phase::Create);
    let report = |progress: SetupProgress<'_>| {
        if let SetupProgress::Line(line) = progress {
            lines.push(line.to_owned());
        }
    };
    tokio::time::timeout(SOON, agent.client.set_up(&options, report)).await.unwrap().unwrap();
    lines.sort();
    assert_eq!(lines, ["a: one", "b: two", "running postCreateCommand"]);
}

#[tokio::test]
async fn what_is_given_to_the_commands_of_a_set_up_is_for_them_alone() {
    let text = "environment: {LEVEL: project}\nsetup:\n  create: echo $LEVEL $TOKEN > seen\n";
    let workspace = Workspace::new(&[(".kled.yaml", text)]);
    let agent = workspace.agent().await;
    let mut options = SetupOptions::new(Phase::Create);
    options
        .environment
        .0
        .extend([("TOKEN", "hunter2"), ("LEVEL", "owner")].map(|(name, value)| (name.into(), value.into())));
    agent.client.set_up(&options, |_| {}).await.unwrap();
    assert_eq!(workspace.read("seen"), "owner hunter2\n");
    assert_eq!(agent.shell("echo $LEVEL $TOKEN").await, "project\n");
    assert!(!workspace.state("setup.json").contains("hunter2"));
}

#[tokio::test]
async fn progress_is_in_the_log_too() {
    let workspace = Workspace::new(&[(".kled.yaml", "setup:\n  create: echo fetching\n")]);
    workspace.agent().await.set_up(Phase::Create).await.unwrap();
    assert!(workspace.logged("running setup.create") && workspace.logged("fetching"));
}

#[tokio::test]
async fn a_workspace_whose_checkout_is_made_outside_remembers_its_set_up() {
    let mut workspace = Workspace::new(&[(".kled.yaml", "setup:\n  create: echo once >> log\n")]);
    workspace.check_out_from_outside();
    for _ in 0..2 {
        workspace.agent().await.set_up(Phase::Create).await.unwrap();
    }
    assert_eq!(workspace.read("log"), "once\n");
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_told_as_such() {
    let workspace = Workspace::new(&[(".kled.yaml", "setup:\n  create: {tool: [no-such-program]}\n")]);
    let error = workspace.agent().await.set_up(Phase::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound);
    let message = error.to_string();
    assert!(message.starts_with("setup.create.tool of .kled.yaml cannot be started: "), "{message}");
}

#[tokio::test]
async fn a_driver_that_goes_ends_what_was_running() {
    let text = r#"{"onCreateCommand": "echo $$ > process; sleep 1000", "postCreateCommand": "touch next"}"#;
    let workspace = Workspace::new(&[(".devcontainer.json", text)]);
    let agent = workspace.agent().await;
    let options = SetupOptions::new(Phase::Create);
    let process = {
        let setting_up = agent.client.set_up(&options, |_| {});
        let begun =
            eventually(|| workspace.try_read("process").and_then(|text| text.trim().parse::<u32>().ok()));
        tokio::select! {
            ended = setting_up => panic!("{ended:?}"),
            process = begun => process,
        }
    };
    eventually(|| (!crate::agent::proc::running(process)).then_some(())).await;
    // The next one has its turn, and begins with what was not done.
    workspace.write(".devcontainer.json", r#"{"onCreateCommand": "echo again >> log"}"#);
    tokio::time::timeout(SOON, agent.set_up(Phase::Create)).await.unwrap().unwrap();
    assert_eq!(workspace.read("log"), "again\n");
    assert_eq!(workspace.try_read("next"), None);
}

#[tokio::test]
async fn what_a_step_leaves_running_goes_on_and_writes_to_the_log() {
    let script = "(until test -e go; do sleep 0.01; done; echo late line; touch done) & echo begun";
    let text = format!(r#"{{"postStartCommand": "{script}"}}"#);
    let workspace = Workspace::new(&[(".devcontainer.json", &text)]);
    let agent = workspace.agent().await;
    tokio::time::timeout(SOON, agent.set_up(Phase::Start)).await.unwrap().unwrap();
    assert_eq!(workspace.try_read("done"), None);
    workspace.write("go", "");
    eventually(|| workspace.try_read("done")).await;
    eventually(|| workspace.logged("late line").then_some(())).await;
}

#[tokio::test]
async fn a_server_that_is_never_silent_does_not_hold_the_set_up() {
    let text = r#"{"postStartCommand": "(while sleep 0.01; do echo request; done) & echo begun"}"#;
    let workspace = Workspace::new(&[(".devcontainer.json", text)]);
    let agent = workspace.agent().await;
    tokio::time::timeout(SOON, agent.set_up(Phase::Start)).await.unwrap().unwrap();
    eventually(|| workspace.logged("request").then_some(())).await;
}

#[tokio::test]
async fn the_workspace_is_ready_where_the_project_says_so() {
    let text = r#"{
        "onCreateCommand": "echo 1", "updateContentCommand": "echo 2", "postCreateCommand": "echo 3",
        "postStartCommand": "echo 4", "waitFor": "updateContentCommand"
    }"#;
    let workspace = Workspace::new(&[(".devcontainer.json", text)]);
    let agent = workspace.agent().await;
    let mut said = Vec::new();
    let report = |progress: SetupProgress<'_>| match progress {
        SetupProgress::Line(line) if line.starts_with("running") => {}
        SetupProgress::Line(line) => said.push(line.to_owned()),
        SetupProgress::Ready => said.push("ready".to_owned()),
    };
    agent.client.set_up(&SetupOptions::new(Phase::Create), report).await.unwrap();
    assert_eq!(said, ["1", "2", "ready", "3", "4"]);
}

#[tokio::test]
async fn two_creations_at_once_do_it_once() {
    let workspace =
        Workspace::new(&[(".devcontainer.json", r#"{"onCreateCommand": "echo on >> log; sleep 0.2"}"#)]);
    let agent = workspace.agent().await;
    let (one, two) = tokio::join!(agent.set_up(Phase::Create), agent.set_up(Phase::Create));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(workspace.read("log"), "on\n");
}

#[tokio::test]
async fn tools_and_environment_of_a_project_file_are_in_force() {
    let yaml = "environment:\n  WHERE: ${containerWorkspaceFolder}/x\ntools: [bin]\nports: [3000, {port: 5432, label: db}]\nsetup:\n  create: [tool]\n";
    let workspace =
        Workspace::new(&[(".kled.yaml", yaml), ("bin/tool", "#!/bin/sh\necho \"tool in $WHERE\" >> log\n")]);
    workspace.make_executable("bin/tool");
    let agent = workspace.agent().await;
    let summary = agent.set_up(Phase::Create).await.unwrap();
    assert_eq!(summary.variables, ["PATH", "WHERE"]);
    let ports: Vec<_> = summary.ports.iter().map(|port| (port.number.get(), port.label.as_deref())).collect();
    assert_eq!(ports, [(3000, None), (5432, Some("db"))]);
    agent.shell("tool").await;
    let line = format!("tool in {}/x\n", workspace.checkout().display());
    assert_eq!(workspace.read("log"), line.repeat(2));
}

#[tokio::test]
async fn commands_begin_in_the_projects_folder() {
    let text = r#"{"workspaceFolder": "${containerWorkspaceFolder}/web", "onCreateCommand": "pwd > here"}"#;
    let workspace = Workspace::new(&[(".devcontainer.json", text), ("web/index", "")]);
    let agent = workspace.agent().await;
    agent.set_up(Phase::Create).await.unwrap();
    let web = format!("{}/web\n", workspace.checkout().display());
    assert_eq!(workspace.read("web/here"), web);
    assert_eq!(agent.shell("pwd").await, web);
}

#[tokio::test]
async fn commands_run_as_the_projects_user_where_the_agent_may_become_one() {
    let text = r#"{"remoteUser": "nobody", "onCreateCommand": "id -un > who; id -G >> who"}"#;
    let workspace = Workspace::new(&[(".devcontainer.json", text), ("web/index", "")]);
    let script = "id -un; echo ${USER:-nobody}; touch web/new && echo made";
    let summary = workspace.agent().await.set_up(Phase::Create).await.unwrap();
    let runs = |user: Account| user.number() == Account::own_number() || user.can_be_entered();
    if !Account::find("nobody").is_some_and(runs) {
        assert_eq!(summary.ignored[0].reason, IgnoredReason::OtherUser);
        return;
    }
    assert!(summary.ignored.is_empty(), "{:?}", summary.ignored);
    assert!(workspace.read("who").starts_with("nobody\n"), "{}", workspace.read("who"));
    assert!(!workspace.read("who").lines().nth(1).unwrap().split(' ').any(|group| group == "0"));
    let next = workspace.agent().await;
    assert_eq!(next.shell(script).await, "nobody\nnobody\nmade\n");
    // What is copied in is the user's, too.
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("copied", workspace.checkout().join("web")).unwrap();
    next.client.upload(".", std::io::Cursor::new(archive.into_inner().unwrap())).await.unwrap();
    assert_eq!(next.shell("touch copied/new copied/index && echo written").await, "written\n");
    // On a terminal, which its programs can open by name.
    let request = ExecRequest::new(["sh", "-c", "id -un; : < $(tty) && echo opened"]);
    let session = next.client.exec(request.terminal(TerminalSize::default()).command).await.unwrap();
    let output = String::from_utf8(session.output(1024).await.unwrap().stdout).unwrap();
    assert_eq!(output, "nobody\r\nopened\r\n");
}

#[tokio::test]
async fn a_folder_that_is_not_there_hinders_no_command() {
    let text = r#"{"workspaceFolder": "${containerWorkspaceFolder}/web", "onCreateCommand": "pwd > here"}"#;
    let workspace = Workspace::new(&[(".devcontainer.json", text)]);
    let agent = workspace.agent().await;
    let summary = agent.set_up(Phase::Create).await.unwrap();
    let ignored: Vec<_> = summary.ignored.iter().map(|field| (field.field.as_str(), field.reason)).collect();
    assert_eq!(ignored, [("workspaceFolder", IgnoredReason::OutsideCheckout)]);
    assert_eq!(workspace.read("here"), format!("{}\n", workspace.checkout().display()));
}

#[tokio::test]
async fn git_commits_as_the_user() {
    let workspace = Workspace::new(&[]);
    let identity = "git config user.name; git config user.email";
    let first = workspace.agent().await;
    assert_eq!(first.shell(identity).await, "");
    let git_identity = Some(GitIdentity::new("Ada Lovelace", "ada@example.com").unwrap());
    let options = SetupOptions { git_identity, ..SetupOptions::new(Phase::Create) };
    let summary = first.client.set_up(&options, |_| {}).await.unwrap();
    assert_eq!(summary.file, None);
    assert_eq!(first.shell(identity).await, "Ada Lovelace\nada@example.com\n");
    first.set_up(Phase::Start).await.unwrap();
    assert_eq!(first.shell(identity).await, "Ada Lovelace\nada@example.com\n");
    assert_eq!(workspace.agent().await.shell(identity).await, "Ada Lovelace\nada@example.com\n");
}

#[tokio::test]
async fn variables_of_the_users_machine_are_kept_nowhere() {
    let workspace = Workspace::new(&[(
        ".devcontainer.json",
        r#"{"remoteEnv": {"TOKEN": "${localEnv:TOKEN:none}"}, "onCreateCommand": "true"}"#,
    )]);
    let agent = workspace.agent().await;
    let local_environment = Variables([("TOKEN".to_owned(), "hunter2".to_owned())].into());
    let options = SetupOptions { local_environment, ..SetupOptions::new(Phase::Create) };
    assert!(!format!("{options:?}").contains("hunter2"));
    let summary = agent.client.set_up(&options, |_| {}).await.unwrap();
    assert!(!format!("{summary:?}").contains("hunter2"));
    assert_eq!(agent.shell("echo $TOKEN").await, "hunter2\n");
    assert!(workspace.state("setup.json").contains("onCreateCommand"));
    assert!(!workspace.state("setup.json").contains("hunter2"));
    assert_eq!(workspace.agent().await.shell("echo $TOKEN").await, "none\n");
}

#[tokio::test]
async fn a_malformed_file_runs_nothing_and_says_where() {
    let workspace = Workspace::new(&[(
        ".devcontainer.json",
        "{\n\"onCreateCommand\": \"touch ran\",\n\"forwardPorts\": [0]}",
    )]);
    let agent = workspace.agent().await;
    let error = agent.set_up(Phase::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    for part in [".devcontainer.json", "line: 3", "forwardPorts[0]"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(workspace.try_read("ran"), None);
    assert_eq!(agent.shell("echo works").await, "works\n");
}

#[tokio::test]
async fn what_has_no_effect_is_told() {
    let workspace = Workspace::new(&[
        (".devcontainer.json", "{\"image\": \"x\", \"remoteUser\": \"no-such-user\",\n\"features\": {}}"),
        (".kled.yaml", ""),
    ]);
    let summary = workspace.agent().await.set_up(Phase::Create).await.unwrap();
    assert_eq!(summary.image.as_deref(), Some("x"));
    let ignored: Vec<_> =
        summary.ignored.iter().map(|field| (field.field.as_str(), field.line, field.reason)).collect();
    let expected = [
        ("features", Some(2), IgnoredReason::Features),
        (".kled.yaml", None, IgnoredReason::NotChosen),
        ("image", None, IgnoredReason::OtherImage),
        ("remoteUser", None, IgnoredReason::OtherUser),
    ];
    assert_eq!(ignored, expected);
}

#[tokio::test]
async fn a_project_cannot_hide_its_processes() {
    let text = r#"{"remoteEnv": {"KLED_WORKSPACE_ID": null, "PATH": "${containerEnv:PATH}"}}"#;
    let workspace = Workspace::new(&[(".devcontainer.json", text)]);
    let agent = workspace.agent().await;
    let before = agent.shell("echo $KLED_WORKSPACE_ID").await;
    assert!(before.len() > 30, "{before}");
    agent.set_up(Phase::Create).await.unwrap();
    assert_eq!(agent.shell("echo $KLED_WORKSPACE_ID").await, before);
}

#[tokio::test]
async fn a_broken_record_stops_the_set_up_and_no_command() {
    let workspace = Workspace::new(&[(".devcontainer.json", r#"{"onCreateCommand": "touch ran"}"#)]);
    workspace.write_state("setup.json", "{");
    let agent = workspace.agent().await;
    let error = agent.set_up(Phase::Create).await.unwrap_err();
    assert!(error.to_string().contains("setup.json"), "{error}");
    assert_eq!(workspace.try_read("ran"), None);
    assert_eq!(agent.shell("echo works").await, "works\n");
}
