//! Shows what a project asks for after its checkout, and runs nothing of it.
//!
//! ```sh
//! cargo run -p kled-examples --example project_setup -- path/to/project
//! ```
//!
//! Without an argument it takes the current folder.

use kled_core::setup::{Action, Done, Phase, plan};
use kled_providers::agent::server::read_setup;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).unwrap_or_else(|| ".".into());
    let setup = read_setup(folder.as_ref())?;
    println!("file: {}", setup.file.as_deref().unwrap_or("none"));
    for (name, value) in &setup.container_environment {
        println!("environment: {name}={value}");
    }
    for port in &setup.ports {
        println!("port: {port} {}", port.label.as_deref().unwrap_or_default());
    }
    for phase in [Phase::Create, Phase::Start, Phase::Attach] {
        // With a `Done` from an earlier run, only what is left is planned.
        for step in plan(&setup, phase, &Done::default()) {
            let Action::Run(set) = &step.action else { continue };
            for command in set.commands.values() {
                let when = if step.awaited { "before use" } else { "meanwhile" };
                println!("{phase:?}, {when}: {} {:?}", set.field, command.arguments());
            }
        }
    }
    for ignored in &setup.ignored {
        println!("no effect: {ignored}");
    }
    Ok(())
}
