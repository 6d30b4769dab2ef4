//! The workspace commands on the in-memory provider: what they print, and how they end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

mod common;

use common::{Program, without_ids};
use kled_cli::{Context, CustomCommand, Exit, Failure, Surroundings, clap};
use kled_core::provider::ProviderSettings;
use kled_core::{Error, ErrorKind};

const CREATE: &str = "workspace create demo --repo https://example.com/org/app.git --branch main --env LEVEL=info \
                      --label team=a --cpu 500m";

#[tokio::test]
async fn a_workspace_from_create_to_delete() {
    let program = Program::default();
    let created = program.run(CREATE).await;
    insta::assert_snapshot!("create_table", created.transcript());

    let listed = program.run("workspace list -o json").await;
    insta::assert_snapshot!("list_json", without_ids(&listed.transcript()));
    insta::assert_snapshot!("list_yaml", without_ids(&program.run("ws ls -o yaml").await.transcript()));

    assert_eq!(program.run("workspace stop demo --quiet").await.code, 0);
    insta::assert_snapshot!(
        "status_stopped",
        without_ids(&program.run("workspace status demo").await.transcript())
    );
    let refused = program.run("workspace exec demo -- true").await;
    insta::assert_snapshot!("exec_in_stopped", refused.transcript());

    let started = program.run("workspace start demo -o json").await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&started.stdout).unwrap()["status"]["state"],
        "running"
    );

    insta::assert_snapshot!("delete_table", program.run("workspace delete demo gone").await.transcript());
    assert_eq!(program.run("workspace status demo").await.code, 3);
    assert_eq!(
        program.run("workspace list").await.transcript(),
        "exit code 0\n--- stdout\n--- stderr\nno workspaces\n"
    );
    assert_eq!(program.run("workspace list -o json").await.stdout, "[]\n");
}

#[tokio::test]
async fn a_deletion_is_an_array_of_what_was_removed() {
    let program = Program::default();
    program.run(CREATE).await;
    let deleted = program.run("workspace delete demo gone -o json --quiet").await;
    insta::assert_snapshot!("delete_json", deleted.transcript());
}

#[tokio::test]
async fn another_spec_under_the_same_name_is_a_conflict() {
    let program = Program::default();
    program.run(CREATE).await;
    assert_eq!(program.run(CREATE).await.code, 0, "the same create again is a success");
    let conflict =
        program.run("workspace create demo --repo https://example.com/org/other.git --quiet").await;
    insta::assert_snapshot!("conflict", conflict.transcript());
}

#[tokio::test]
async fn without_a_name_the_source_gives_one() {
    let program = Program::default();
    let line = "workspace create --repo https://example.com/org/app.git -o json --quiet";
    let created: serde_json::Value = serde_json::from_str(&program.run(line).await.stdout).unwrap();
    assert!(created["name"].as_str().unwrap().starts_with("app-"), "{created}");
}

#[tokio::test]
async fn a_local_path_is_stored_absolute() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("app/src")).unwrap();
    let program = Program::default();
    let mut names = Vec::new();
    for (place, repository) in [("app", "."), ("app/src", ".."), ("", "app"), ("app", "./src/..")] {
        let line = format!("workspace create --repo {repository} -o json --quiet");
        let run =
            program.run_with(&line, |surroundings| surroundings.working_directory = root.join(place)).await;
        let created: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(created["spec"]["source"]["repository"], root.join("app").to_str().unwrap());
        names.push(created["name"].as_str().unwrap().to_owned());
    }
    names.dedup();
    assert_eq!(names.len(), 1, "one folder has one name: {names:?}");
}

#[tokio::test]
async fn only_workspaces_with_all_labels_are_listed() {
    let program = Program::default();
    for (name, labels) in [("a", "--label x=1 --label y=1"), ("b", "--label x=1"), ("c", "")] {
        program.run(&format!("workspace create {name} --repo https://example.com/{name} {labels}")).await;
    }
    let listed = program.run("workspace list -l x=1 -l y=1 -o json").await;
    let names: Vec<serde_json::Value> = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(names.iter().map(|workspace| &workspace["name"]).collect::<Vec<_>>(), ["a"]);
    assert_eq!(program.run("workspace list -l x").await.code, 2);
}

#[tokio::test]
async fn exec_passes_streams_and_exit_codes() {
    let program = Program::default();
    program.run(CREATE).await;
    assert_eq!(program.run("workspace exec demo -- echo hello -o json").await.stdout, "hello -o json\n");
    assert_eq!(
        program.run("workspace exec demo -- false").await.transcript(),
        "exit code 1\n--- stdout\n--- stderr\n"
    );
    assert_eq!(program.run("workspace exec demo -e LEVEL=debug -- env").await.stdout, "LEVEL=debug\n");
    let input: Vec<_> = (0..300_000_u32).map(|number| b'a' + (number % 26) as u8).collect();
    let copied = program.run_with_input("workspace exec demo -- cat", &input).await;
    assert_eq!((copied.code, copied.stdout.as_bytes()), (0, &input[..]));
    let none = program.run_with_input("workspace exec demo --no-stdin -- cat", &input).await;
    assert_eq!((none.code, none.stdout.as_str()), (0, ""));
}

#[tokio::test]
async fn exec_errors_have_their_own_codes() {
    let program = Program::default();
    program.run(CREATE).await;
    insta::assert_snapshot!(
        "command_not_found",
        program.run("workspace exec demo -- missing").await.transcript()
    );
    assert_eq!(program.run("workspace exec gone -- true").await.code, 3);
    assert_eq!(program.run("workspace exec demo true").await.code, 2, "the command stands after --");
}

#[tokio::test]
async fn logs_and_events_are_lines_or_arrays() {
    let program = Program::default();
    program.run(CREATE).await;
    insta::assert_snapshot!("logs", program.run("workspace logs demo").await.transcript());
    insta::assert_snapshot!("events", program.run("workspace events demo").await.transcript());
    let events: Vec<serde_json::Value> =
        serde_json::from_str(&program.run("workspace events demo -o json").await.stdout).unwrap();
    assert_eq!(events[0]["operation"], "create");
    program.run("workspace stop demo").await;
    let followed = program.run("workspace logs demo -f --tail 1 -o json").await;
    assert_eq!(followed.stdout.lines().count(), 1, "one object a line: {followed:?}");
}

#[tokio::test]
async fn malformed_values_are_usage_errors_and_secrets_are_not_repeated() {
    let program = Program::default();
    for options in
        ["--memory 4GB", "--env 1A=x", "--idle-timeout soon", "--path ../x", "--branch a..b", "--port 0"]
    {
        let run = program.run(&format!("workspace create demo --repo https://example.com/a {options}")).await;
        assert_eq!(run.code, 2, "{options}: {run:?}");
        assert!(run.stdout.is_empty() && run.stderr.starts_with("error: "), "{run:?}");
    }
    for options in ["--secret hunter2", "--secret TOKEN=hunter2", "--env hunter2"] {
        let run = program.run(&format!("workspace create demo --repo https://example.com/a {options}")).await;
        assert!(run.code == 2 && !run.stderr.contains("hunter2"), "{run:?}");
    }
    let run = program.run("workspace create demo --repo https://user:hunter2@example.com/a").await;
    assert!(run.code == 2 && !run.stderr.contains("hunter2"), "{run:?}");
}

#[tokio::test]
async fn what_a_provider_cannot_do_has_its_own_code() {
    let program = Program::default();
    let no_wait = program.run("workspace create demo --repo https://example.com/a --no-wait").await;
    insta::assert_snapshot!("no_wait_unsupported", no_wait.transcript());
}

#[tokio::test]
async fn errors_are_objects_for_programs() {
    let program = Program::default();
    insta::assert_snapshot!("error_json", program.run("workspace status gone -o json").await.transcript());
    insta::assert_snapshot!("error_yaml", program.run("workspace status gone -o yaml").await.transcript());
    insta::assert_snapshot!("usage_json", program.run("workspace status -o json").await.transcript());
    let unknown = program.run("workspace list --provider nowhere").await;
    // Which providers there are depends on the features.
    insta::assert_snapshot!("unknown_provider", unknown.transcript().replace("kubernetes, ", ""));
}

#[tokio::test]
async fn providers_are_listed_with_what_they_can_do() {
    let program = Program::default();
    let listed = program.run("provider list -o json").await;
    let providers: Vec<serde_json::Value> = serde_json::from_str(&listed.stdout).unwrap();
    let memory = providers.iter().find(|provider| provider["name"] == "memory").unwrap();
    assert_eq!(
        (&memory["default"], &memory["capabilities"]["commands"]["exec"]),
        (&true.into(), &true.into())
    );
    assert!(program.run("provider list").await.stdout.starts_with("NAME"), "{listed:?}");
}

#[tokio::test]
async fn settings_of_a_provider_reach_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[providers.memory]\nsize = 3\n").unwrap();
    let run = Program::default().run(&format!("workspace list --config {}", file.display())).await;
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("unknown provider setting (setting: size, provider: memory)"), "{run:?}");
}

struct Hello;

#[async_trait::async_trait]
impl CustomCommand for Hello {
    fn definition(&self) -> clap::Command {
        clap::Command::new("hello").about("Say hello").arg(clap::Arg::new("name").required(true))
    }

    async fn run(&self, context: &Context, matches: &clap::ArgMatches) -> Result<Exit, Failure> {
        let name: &String = matches.get_one("name").unwrap();
        context.print(&serde_json::json!({ "hello": name }), |_| format!("hello {name}\n"))?;
        Ok(Exit::SUCCESS)
    }
}

#[tokio::test]
async fn an_embedder_adds_a_command_and_names_the_program() {
    let run = async |line: &str| {
        let surroundings = Surroundings::in_memory("/");
        let runner = Program::default().runner().program("acme").version("7.0").command(Hello);
        let arguments = ["acme"].into_iter().chain(line.split(' ')).map(str::to_owned).collect::<Vec<_>>();
        let exit = runner.surroundings(surroundings.clone()).run_async(arguments).await;
        (exit, String::from_utf8(surroundings.stdout.contents()).unwrap())
    };
    assert_eq!(run("hello you").await, (Exit::SUCCESS, "hello you\n".into()));
    assert_eq!(
        run("hello you -o json").await.1,
        "{\n  \"hello\": \"you\"\n}\n",
        "global options come with it"
    );
    assert_eq!(run("version").await.1, "acme 7.0\n");
    let help = run("workspace exec --help").await.1;
    assert!(help.contains("  acme workspace exec demo -- cargo test\n") && !help.contains("kled "), "{help}");
    assert!(run("--help").await.1.contains("hello"), "it is in the help");
}

#[tokio::test]
async fn two_providers_of_one_name_are_an_error_of_the_run() {
    let factory = |_: ProviderSettings| async { Err(Error::new(ErrorKind::Internal, "never opened")) };
    let surroundings = Surroundings::in_memory("/");
    let runner = Program::default().runner().provider("memory", factory).surroundings(surroundings.clone());
    assert_eq!(runner.run_async(["kled", "workspace", "list"]).await, Exit::CONFLICT);
    let said = String::from_utf8(surroundings.stderr.contents()).unwrap();
    assert!(said.contains("a provider of this name is registered (provider: memory)"), "{said}");
}
