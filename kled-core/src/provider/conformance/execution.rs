//! What a command gets, and how it ends.

use super::trial::{Outcome, Trial, ensure, equal};
use super::{Case, case};
use crate::provider::{ExecRequest, ExitStatus, Signal};
use crate::{ErrorKind, VariableName};

pub(super) const CASES: &[Case] = &[
    case!("arguments-are-exact", 1, arguments, [Exec], "no shell reads the arguments"),
    case!(
        "arguments-keep-their-bounds",
        1,
        argument_bounds,
        [Exec, Shell],
        "each argument arrives as one, byte for byte"
    ),
    case!("exit-codes-arrive", 1, exit_codes, [Exec], "success and failure are told apart"),
    case!("every-exit-code-arrives", 1, every_exit_code, [Exec, Shell], "the very exit code arrives"),
    case!(
        "signals-are-told-apart",
        1,
        signals,
        [Exec, Shell, Signals],
        "an end by a signal is no exit code, and signals can be sent"
    ),
    case!(
        "environment-arrives",
        1,
        environment,
        [Exec],
        "the variables of the spec and of the request, the latter first"
    ),
    case!(
        "working-directory-is-kept",
        1,
        working_directory,
        [Exec],
        "commands run in the checkout or where asked"
    ),
    case!(
        "unknown-command-is-said",
        1,
        unknown_command,
        [Exec],
        "a command that does not exist has an error of its own"
    ),
    case!(
        "streams-stay-apart",
        1,
        streams_apart,
        [Exec, Shell],
        "standard output and standard error are two streams"
    ),
];

/// What a shell would change. No backslash and no leading hyphen: implementations of `echo` differ in these.
const TRICKY: &[&str] =
    &["a  b", "", "it's", "\"quoted\"", "$HOME", "${x}", "*", "~", "x\ny", ";", "| &&", "$(id)", "é", " "];

async fn arguments(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let arguments: Vec<&str> = std::iter::once("echo").chain(TRICKY.iter().copied()).collect();
    let echoed = trial.text(&provider, &name, &arguments).await?;
    equal("echo of what a shell would change", &format!("{}\n", TRICKY.join(" ")), &echoed)
}

async fn argument_bounds(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let tricky: Vec<&str> = TRICKY.iter().copied().chain(["-n", "\\n", "--", "%s"]).collect();
    let script = "for argument in \"$@\"; do printf '%s\\000' \"$argument\"; done";
    let arguments: Vec<&str> = ["sh", "-c", script, "sh"].into_iter().chain(tricky.iter().copied()).collect();
    let printed = trial.text(&provider, &name, &arguments).await?;
    let came: Vec<&str> = printed.split_terminator('\0').collect();
    equal("the arguments", &tricky, &came)
}

async fn exit_codes(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    for (command, code) in [("true", 0), ("false", 1)] {
        let output = trial.run(&provider, &name, &[command]).await?;
        equal(command, &ExitStatus::Exited(code), &output.status)?;
    }
    Ok(())
}

async fn every_exit_code(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    // 130 and 137 are what shells make of signals: as exit codes they must stay exit codes.
    for code in [2, 7, 126, 127, 130, 137, 255] {
        let output = trial.run(&provider, &name, &["sh", "-c", &format!("exit {code}")]).await?;
        equal(format_args!("exit {code}"), &ExitStatus::Exited(code), &output.status)?;
    }
    Ok(())
}

async fn signals(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let output = trial.run(&provider, &name, &["sh", "-c", "kill -KILL $$"]).await?;
    equal("a command that kills itself", &ExitStatus::Signaled(Signal::Kill.number()), &output.status)?;
    let call = async {
        let mut session = provider.exec(&name, ExecRequest::new(["sleep", "600"])).await?;
        session.signal(Signal::Term).await?;
        session.wait().await
    };
    let status = trial.ok("a command that is sent TERM", call).await?;
    equal("a command that is sent TERM", &ExitStatus::Signaled(Signal::Term.number()), &status)
}

async fn environment(trial: &Trial) -> Outcome {
    let mut spec = trial.fixture.spec();
    for (name, value) in [("CONFORMANCE_SPEC", "from the spec"), ("CONFORMANCE_BOTH", "from the spec")] {
        let name =
            VariableName::new(name).map_err(|error| super::Failure::new("a variable", "success", error))?;
        spec.environment.insert(name, value.into());
    }
    let (name, provider, _) = trial.running_with(&spec).await?;
    let request = ExecRequest::new(["env"])
        .environment("CONFORMANCE_REQUEST", "a=b \"c\" $d")
        .environment("CONFORMANCE_BOTH", "from the request");
    let output = trial.output(&provider, &name, request).await?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let lines = [
        "CONFORMANCE_SPEC=from the spec",
        "CONFORMANCE_REQUEST=a=b \"c\" $d",
        "CONFORMANCE_BOTH=from the request",
    ];
    for line in lines {
        ensure(
            printed.lines().any(|printed| printed == line),
            "env",
            format_args!("{line:?}"),
            format_args!("{printed:?}"),
        )?;
    }
    let printed = trial.text(&provider, &name, &["env"]).await?;
    let left_over = printed.contains("CONFORMANCE_REQUEST");
    ensure(!left_over, "env of the next command", "nothing of the request before", "its variable")
}

async fn working_directory(trial: &Trial) -> Outcome {
    let (name, provider, created) = trial.running().await?;
    let checkout = trial.text(&provider, &name, &["pwd"]).await?;
    let checkout = checkout.trim_end_matches('\n');
    ensure(checkout.starts_with('/'), "pwd", "an absolute path", checkout)?;
    if let Some(said) = &created.checkout {
        equal("the path of the checkout", &said.path.as_str(), &checkout)?;
    }
    let mut places = vec![(checkout.to_owned(), checkout.to_owned()), (".".into(), checkout.to_owned())];
    if provider.capabilities_of(&trial.fixture.spec()).commands.shell {
        trial.text(&provider, &name, &["mkdir", "-p", "one/two words"]).await?;
        places.push(("one/two words".into(), format!("{checkout}/one/two words")));
        places.push((format!("{checkout}/one"), format!("{checkout}/one")));
    }
    for (asked, expected) in places {
        let output = trial
            .output(&provider, &name, ExecRequest::new(["pwd"]).working_directory(asked.as_str()))
            .await?;
        let printed = String::from_utf8_lossy(&output.stdout);
        equal(format_args!("pwd in {asked:?}"), &expected.as_str(), &printed.trim_end_matches('\n'))?;
    }
    for missing in ["no/such/folder", "/no/such/folder"] {
        let request = ExecRequest::new(["pwd"]).working_directory(missing);
        let call = async { provider.exec(&name, request).await?.output(1024).await };
        trial.fails(format!("exec in {missing:?}"), &[ErrorKind::InvalidInput], call).await?;
    }
    Ok(())
}

async fn unknown_command(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    for command in ["no-such-command-of-conformance", "./no-such-file", "/no/such/file"] {
        let call = async { provider.exec(&name, ExecRequest::new([command])).await?.output(1024).await };
        trial.fails(format!("exec {command}"), &[ErrorKind::CommandNotFound], call).await?;
    }
    let empty = provider.exec(&name, ExecRequest::new(Vec::<String>::new()));
    trial.fails("exec of nothing", &[ErrorKind::InvalidInput], empty).await?;
    Ok(())
}

async fn streams_apart(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let output =
        trial.run(&provider, &name, &["sh", "-c", "echo out; echo err >&2; echo out2; exit 3"]).await?;
    equal("standard output", &"out\nout2\n", &String::from_utf8_lossy(&output.stdout).as_ref())?;
    equal("standard error", &"err\n", &String::from_utf8_lossy(&output.stderr).as_ref())?;
    equal("the exit status", &ExitStatus::Exited(3), &output.status)
}
