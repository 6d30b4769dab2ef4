//! Builds the real servers and the workspace agent, runs every test of the workspace on them and sums up.
//!
//! ```sh
//! cargo run --package kled-tests                        # everything
//! cargo run --package kled-tests -- --package kled-core # what follows `--` goes to `cargo test`
//! cargo run --package kled-tests -- servers             # only build the servers and the agent
//! cargo run --package kled-tests -- sweep               # only remove what killed runs left
//! ```

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context as _, Result};
use kled_tests::cluster::Lender;
use kled_tests::programs::SERVERS_SWITCH;
use kled_tests::summary::Summary;
use kled_tests::{agent, servers, slot};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let ending = match arguments.first().map(String::as_str) {
        Some("servers") => build_servers(),
        Some("sweep") => sweep(),
        _ => run_tests(&arguments),
    };
    ending.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn build_servers() -> Result<ExitCode> {
    let missing = install()?;
    report(&missing);
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that tests run: the servers, and the agent's static program.
fn install() -> Result<Vec<String>> {
    let mut missing = servers::install()?;
    missing.extend(agent::install());
    Ok(missing)
}

fn sweep() -> Result<ExitCode> {
    println!("swept {} slots", slot::sweep_all()?);
    Ok(ExitCode::SUCCESS)
}

fn report(missing: &[String]) {
    for line in missing {
        eprintln!("missing: {line}");
    }
}

#[tokio::main]
async fn run_tests(arguments: &[String]) -> Result<ExitCode> {
    report(&tokio::task::spawn_blocking(install).await??);
    let lender = Lender::start()?;
    let command = cargo_test(arguments, &lender);
    let (status, summary) = tokio::task::spawn_blocking(|| watch(command)).await??;
    lender.stop().await;
    if !status.success() {
        eprintln!("error: cargo test ended with {status}");
    }
    print!("{summary}");
    let success = status.success() && summary.is_success();
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cargo_test(arguments: &[String], lender: &Lender) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--no-fail-fast", "--all-features"]);
    if !arguments.iter().any(|argument| argument == "--package" || argument == "-p") {
        command.arg("--workspace");
    }
    let (socket_variable, socket) = lender.environment();
    command.args(arguments).env(SERVERS_SWITCH, "1").env(socket_variable, socket);
    command
}

/// Runs the command, passing its output on as it comes.
fn watch(mut command: Command) -> Result<(ExitStatus, Summary)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut summary = Summary::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        summary.read(&line);
    }
    Ok((child.wait().context("wait for cargo test")?, summary))
}
