//! The program `kled-agent`: one static file that runs in the containers of a workspace.
//!
//! | sub-command | what it does |
//! |---|---|
//! | `serve` | is the first process of the workspace's container: serves the [protocol](super::server) |
//! | `install DEST` | puts a copy of itself into a folder that another container sees |
//! | `sidecar` | stops and deletes the workspace when its time has come, from another container |
//! | `digest` | prints the SHA-256 of its own file |
//! | `take-place DIGEST PLACE` | renames its own file to the place after a delivery by [`deliver`](super::delivery::deliver), if that is its digest |
//! | `connect` | prints the token, then joins its standard input and output to the agent of this container |
//! | `status` | prints what the agent of this container says of itself, as JSON |
//!
//! It needs nothing of the image that it runs in: no shell, no C library, no entry in `/etc/passwd`. What it has to
//! know is in environment variables, which commands of the workspace do not inherit:
//!
//! | variable of `serve` | default | |
//! |---|---|---|
//! | `KLED_WORKSPACE` | required | name of the workspace; commands have it, too |
//! | `KLED_WORKSPACE_ID` | required | its identity; commands have it, too |
//! | `KLED_AGENT_LISTEN` | `127.0.0.1:7410` | where the protocol is served |
//! | `KLED_AGENT_HEALTH_LISTEN` | `0.0.0.0:7411` | where `grpc.health.v1.Health` is served, and nothing else, without a token; or `none` |
//! | `KLED_AGENT_TOKEN_FILE` | `/kled-token/token` | what a driver has to know; read once |
//! | `KLED_AGENT_MAKES_TOKEN` | `false` | `true`: the agent makes the token at its start and writes it to the file |
//! | `KLED_AGENT_CHECKOUT` | `/workspace` | the folder of the checkout |
//! | `KLED_AGENT_WORKING_DIRECTORY` | the checkout | where commands begin |
//! | `KLED_AGENT_HOME` | `/home/kled` | the home folder where the image has none that can be written to |
//! | `KLED_AGENT_STATE` | `/var/lib/kled` | what the agent remembers, `cache/` and `credentials/` |
//! | `KLED_AGENT_GRACE_SECONDS` | `25` | between the request to end and the kill of what is left |
//! | `KLED_AGENT_CACHE_BYTES` | 2 GiB | what `cache/` may keep when the workspace ends |
//! | `KLED_AGENT_IDLE_MILLISECONDS` | never | ends the workspace after so long without activity |
//! | `KLED_AGENT_EXPIRES` | never | ends the workspace at this time (RFC 3339) |
//!
//! Told to terminate, `serve` asks all commands to end, waits for the grace, kills the rest, removes `credentials/`,
//! drops the oldest of `cache/`, and exits with 0; with 80 when it was idle for too long, with 81 when its time was over.
//! Its log is on standard output, a
//! [`LogLine`](kled_core::provider::LogLine) as JSON in each line.

mod cleanup;
mod connect;
mod environment;
mod health;
mod install;
mod log;
mod serve;
mod settings;
pub mod sidecar;
mod status;

use std::error::Error as _;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use kled_core::{Error, ErrorKind, Result};

use super::delivery;

const USAGE: &str = "\
usage: kled-agent serve | sidecar | install DEST | take-place DIGEST PLACE | digest | connect | status | --version";

/// Exit code of a wrong command line.
const WRONG_USAGE: u8 = 2;

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(answered) = delivery::answer(&arguments) {
        return answered;
    }
    let arguments: Vec<String> =
        arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match *arguments {
        ["--version" | "-V"] => print(concat!("kled-agent ", env!("CARGO_PKG_VERSION"))),
        ["--help" | "-h"] => print(USAGE),
        ["install", destination] => install::install(Path::new(destination)),
        ["serve"] => return ended(serve::main()),
        ["connect"] => connect::main(),
        ["sidecar"] => sidecar::main(),
        ["status"] => status::main(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(WRONG_USAGE);
        }
    };
    ended(result.map(|()| ExitCode::SUCCESS))
}

fn ended(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kled-agent: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}")
        .map_err(|cause| Error::new(ErrorKind::Internal, "cannot write to standard output").because(cause))
}

/// An error with its causes: nobody else will print them.
fn one_line(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        line.push_str(": ");
        line.push_str(&next.to_string());
        cause = next.source();
    }
    line
}

/// A runtime on this thread: the agent waits for others nearly all the time, and each thread would cost memory.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| Error::new(ErrorKind::Internal, "cannot start the runtime").because(cause))
}
