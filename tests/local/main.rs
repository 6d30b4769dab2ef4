//! What the processes of a local workspace can reach, which limits hold, and what a crash leaves.

mod correction;
mod crash;
mod full_disk;
mod limits;
mod sandbox;
mod scene;
mod set_up;

use std::process::ExitCode;

use kled_providers::local::{Sandbox, SupervisorProgram};
use kled_tests::suite::Suite;

fn main() -> ExitCode {
    let supervisor = SupervisorProgram::this_program();
    if let Some(code) = full_disk::scene(&supervisor) {
        return code;
    }
    let mut suite = Suite::new("local");
    for (name, sandbox) in [("bubblewrap", Sandbox::Bubblewrap), ("landlock", Sandbox::Landlock)] {
        suite = sandbox::add(suite, name, sandbox, &supervisor);
    }
    suite = limits::add(suite, &supervisor);
    suite = full_disk::add(suite);
    suite = correction::add(suite, &supervisor);
    suite = set_up::add(suite, &supervisor);
    crash::add(suite, &supervisor).run()
}
