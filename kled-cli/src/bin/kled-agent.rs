//! The program `kled-agent`, which runs beside every workspace.

use std::ffi::OsString;
use std::process::ExitCode;

use kled_providers::agent::delivery;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(answered) = delivery::answer(&arguments) {
        return answered;
    }
    match arguments.first().and_then(|argument| argument.to_str()) {
        Some("--version" | "-V") => {
            println!("kled-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: kled-agent --version | digest | install DIGEST PLACE");
            ExitCode::from(2)
        }
    }
}
