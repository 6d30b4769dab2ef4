//! Holds the local provider's processes to the promises of `Provider`, in each sandbox that this machine has.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use kled_core::provider::conformance::{Case, Fixture, cases};
use kled_core::provider::{Faults, Provider as _};
use kled_providers::local::{Sandbox, SupervisorProgram};
use kled_tests::suite::Suite;
use kled_tests::workspaces::{Processes, control_groups};

fn main() -> ExitCode {
    let supervisor = SupervisorProgram::this_program();
    let before = control_groups();
    // Most of a case is waiting; the cases share nothing but the data folder.
    let mut suite = Suite::new("process").parallel(NonZeroUsize::MIN.saturating_add(5));
    for (name, sandbox) in
        [("bubblewrap", Sandbox::Bubblewrap), ("landlock", Sandbox::Landlock), ("none", Sandbox::None)]
    {
        suite = match Processes::new(supervisor.clone(), sandbox) {
            Ok(fixture) => add_cases(suite, name, sandbox, Arc::new(fixture)),
            Err(error) => suite.case(name, move || async move { Err(error) }),
        };
    }
    suite
        .after(move || async move {
            let left: Vec<_> = control_groups().difference(&before).cloned().collect();
            anyhow::ensure!(left.is_empty(), "control groups are left: {left:?}");
            Ok(())
        })
        .run()
}

fn add_cases(mut suite: Suite, name: &str, sandbox: Sandbox, fixture: Arc<Processes>) -> Suite {
    for case in cases() {
        let label = format!("{name}/{}", case.name());
        if sandbox != Sandbox::None && !sandbox.works() {
            suite = suite.skip(label, format!("{name} does not work on this machine"));
            continue;
        }
        let fixture = Arc::clone(&fixture);
        suite = suite.case(label, move || run(case, fixture));
    }
    suite
}

async fn run(case: Case, fixture: Arc<Processes>) -> anyhow::Result<()> {
    let provider = fixture.open(Faults::none()).await?;
    let fixture: Arc<dyn Fixture> = fixture;
    case.requires(&provider.capabilities_of(&fixture.spec()), fixture.as_ref())
        .map_err(anyhow::Error::msg)?;
    Ok(case.run(fixture).await?)
}
