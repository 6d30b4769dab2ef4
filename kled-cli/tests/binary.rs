//! The program itself: help, completions, configuration, pipes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// The program in an environment of its own.
fn kled() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kled"));
    command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").stdin(Stdio::null());
    command
}

fn run(line: &str) -> Output {
    kled().args(line.split_whitespace()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_help_text() {
    let commands = [
        "",
        "workspace",
        "workspace create",
        "workspace list",
        "workspace status",
        "workspace start",
        "workspace stop",
        "workspace delete",
        "workspace exec",
        "workspace logs",
        "workspace shell",
        "workspace cp",
        "workspace port-forward",
        "workspace events",
        "agent",
        "agent status",
        "provider",
        "provider list",
        "image",
        "image save",
        "config",
        "config view",
        "completions",
        "version",
    ];
    for command in commands {
        let output = run(&format!("{command} --help"));
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(output.stderr.is_empty(), "{command}");
        let name = format!("help {command}").trim().replace(' ', "_");
        insta::assert_snapshot!(name, stdout(&output));
    }
}

#[test]
fn every_command_teaches_by_example() {
    let commands = [
        "create",
        "list",
        "status",
        "start",
        "stop",
        "delete",
        "exec",
        "logs",
        "shell",
        "cp",
        "port-forward",
        "events",
    ];
    for command in commands {
        let help = stdout(&run(&format!("workspace {command} -h")));
        assert!(help.contains(&format!("  kled workspace {command} ")), "{command}: {help}");
    }
}

#[test]
fn a_malformed_line_is_a_usage_error() {
    for line in ["", "nonsense", "workspace", "workspace status", "workspace status UPPER", "version -o xml"]
    {
        let output = run(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line}");
    }
    insta::assert_snapshot!(stderr(&run("workspace status UPPER")), @r#"
        error: invalid value 'UPPER' for '<NAME>': malformed workspace name: it must be at most 63 lower-case letters, digits and hyphens, beginning and ending with a letter or digit

        For more information, try '--help'.
    "#);
}

#[test]
fn the_version_is_that_of_the_crate() {
    assert_eq!(stdout(&run("version")), format!("kled {}\n", env!("CARGO_PKG_VERSION")));
    let json: serde_json::Value = serde_json::from_slice(&run("version -o json").stdout).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(&format!("completions {shell}"));
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = stdout(&output);
        assert!(script.contains("idle-timeout") && output.stderr.is_empty(), "{shell}");
    }
}

#[test]
fn bash_accepts_its_completions() {
    let script = run("completions bash").stdout;
    let mut bash =
        Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(&script).unwrap();
    let checked = bash.wait_with_output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", stderr(&checked));
}

#[test]
fn the_configuration_shows_where_each_value_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kled/config.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(
        &file,
        "output = \"yaml\"\nisolation = \"process\"\n\n[providers.other]\nregion = \"north\"\n",
    )
    .unwrap();
    let view = |arguments: &[&str]| {
        kled()
            .env("XDG_CONFIG_HOME", folder.path())
            .env("XDG_DATA_HOME", "/data")
            .env("KLED_ISOLATION", "none")
            .args(["config", "view"])
            .args(arguments)
            .output()
            .unwrap()
    };
    let table = stdout(&view(&["-o", "table"]));
    insta::assert_snapshot!(table.replace(folder.path().to_str().unwrap(), "<folder>"), @r#"
    KEY                      VALUE        ORIGIN
    provider                 local        default
    output                   table        flag --output
    color                    auto         default
    data-directory           /data/kled   default
    isolation                none         environment KLED_ISOLATION
    engine                   -            default
    kubernetes-context       -            default
    kubernetes-namespace     -            default
    create-timeout           10m          default
    start-timeout            2m           default
    stop-timeout             1m           default
    delete-timeout           2m           default
    providers.other.region   north        <folder>/kled/config.toml:5
    "#);
    let json: serde_json::Value = serde_json::from_slice(&view(&["-o", "json"]).stdout).unwrap();
    assert_eq!(json[1], serde_json::json!({ "key": "output", "value": "json", "origin": "flag --output" }));
    assert!(stdout(&view(&[])).starts_with("- key: provider\n"), "the file asks for yaml");
}

#[test]
fn a_mistake_in_the_file_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let view = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = kled().arg("--config").arg(&file).args(["config", "view"]).output().unwrap();
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""));
        stderr(&output).replace(file.to_str().unwrap(), "<file>")
    };
    let mistakes = ["provider = \"local\"\nprovdier = \"x\"\n", "provider = \n", "stop-timeout = \"soon\"\n"];
    insta::assert_snapshot!(mistakes.map(view).join("\n"), @r#"
    error: unknown key in the configuration file (file: <file>, line: 2, column: 1, key: provdier)
    hint: known keys: provider, output, color, data-directory, isolation, engine, kubernetes-context, kubernetes-namespace, create-timeout, start-timeout, stop-timeout, delete-timeout, providers

    error: the configuration file is malformed: string values must be quoted, expected literal string (file: <file>, line: 1, column: 12)

    error: malformed duration (value: "soon", key: stop-timeout, origin: <file>:1)
    hint: write a positive duration such as 90s, 30m or 1h 30m
    "#);
}

#[test]
fn colours_come_only_when_asked_for() {
    let colored = |change: fn(&mut Command) -> &mut Command| {
        let output = change(kled().args(["workspace", "list", "--provider", "nowhere"])).output().unwrap();
        stderr(&output).contains('\u{1b}')
    };
    assert!(!colored(|command| command));
    assert!(colored(|command| command.args(["--color", "always"])));
    assert!(colored(|command| command.env("KLED_COLOR", "always").env("NO_COLOR", "1")));
    assert!(!colored(|command| command.env("KLED_COLOR", "always").args(["--color", "never"])));
}

#[test]
fn a_reader_that_is_gone_ends_it_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = kled().args(["completions", "bash"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = kled().arg("version").stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("error: the result cannot be written\ncaused by: "),
        "{}",
        stderr(&output)
    );
}
