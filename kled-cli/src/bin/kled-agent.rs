//! The program `kled-agent`, which runs beside every workspace.

use std::process::ExitCode;

fn main() -> ExitCode {
    kled_providers::agent::program::main()
}
