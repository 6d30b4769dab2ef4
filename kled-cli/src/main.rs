//! The program `kled`. All of it is in the library, so that others can build their own.

use std::process::ExitCode;

use kled_cli::{Runner, Supervisor};

fn main() -> ExitCode {
    Runner::new(Supervisor::this_program()).run(std::env::args_os())
}
