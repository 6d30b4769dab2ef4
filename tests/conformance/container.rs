//! Holds the local provider's containers, on a real Podman, to the promises of `Provider`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use kled_core::provider::conformance::{Case, Fixture, cases};
use kled_core::provider::{Capabilities, Faults, Provider as _};
use kled_tests::containers::Containers;
use kled_tests::podman::PodmanService;
use kled_tests::suite::Suite;
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let missing = PodmanService::missing();
    if missing.is_some() {
        let suite = cases()
            .into_iter()
            .fold(Suite::new("container"), |suite, case| suite.case(case.name(), || async { Ok(()) }));
        return suite.skip_all_if(missing).run();
    }
    match start() {
        Ok((runtime, fixture, capabilities)) => {
            let code = suite(&fixture, &capabilities).run();
            // The engine is stopped by the last one who has it, before the runtime that started it.
            drop(fixture);
            drop(runtime);
            code
        }
        Err(error) => Suite::new("container").case("podman", || async { Err(error) }).run(),
    }
}

/// The engine is started before the cases are listed, because its capabilities say which of them are skipped.
fn start() -> anyhow::Result<(Runtime, Arc<Containers>, Capabilities)> {
    let runtime = Runtime::new().context("start a runtime")?;
    let fixture = Arc::new(runtime.block_on(Containers::start())?);
    let capabilities = runtime.block_on(fixture.open(Faults::none()))?.capabilities_of(&fixture.spec());
    Ok((runtime, fixture, capabilities))
}

fn suite(fixture: &Arc<Containers>, capabilities: &Capabilities) -> Suite {
    let mut suite = Suite::new("container");
    for case in cases() {
        suite = match case.requires(capabilities, fixture.as_ref()) {
            Err(reason) => suite.skip(case.name(), reason),
            Ok(()) => {
                let fixture = Arc::clone(fixture);
                suite.case(case.name(), move || run(case, fixture))
            }
        };
    }
    suite
}

async fn run(case: Case, fixture: Arc<Containers>) -> anyhow::Result<()> {
    Ok(case.run(fixture as Arc<dyn Fixture>).await?)
}
