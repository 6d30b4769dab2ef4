//! Holds the Kubernetes provider, on a real node, to the promises of `Provider`.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kled_core::provider::conformance::{Case, Fixture, cases};
use kled_core::provider::{Capabilities, Faults};
use kled_tests::agent;
use kled_tests::cluster::Cluster;
use kled_tests::kubernetes::Pods;
use kled_tests::suite::Suite;
use tokio::runtime::Runtime;

/// Cases that run at a time: most of the time they wait for the kubelet.
const PARALLEL: usize = 8;

fn main() -> ExitCode {
    let missing = Cluster::missing().or_else(agent::missing);
    if missing.is_some() {
        let suite = cases()
            .into_iter()
            .fold(Suite::new("kubernetes"), |suite, case| suite.case(case.name(), || async { Ok(()) }));
        return suite.skip_all_if(missing).run();
    }
    match start() {
        Ok((runtime, fixture, capabilities)) => {
            let code = suite(&fixture, &capabilities).run();
            let removed = runtime.block_on(fixture.delete());
            // The cluster is stopped by the last one who has it, before the runtime that started it.
            drop(fixture);
            drop(runtime);
            match removed {
                Ok(()) => code,
                Err(error) => {
                    eprintln!("the namespace is not removed: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => Suite::new("kubernetes").case("cluster", || async { Err(error) }).run(),
    }
}

fn start() -> anyhow::Result<(Runtime, Arc<Pods>, Capabilities)> {
    let runtime = Runtime::new().context("start a runtime")?;
    let fixture = Arc::new(runtime.block_on(Pods::shared())?);
    let provider = runtime.block_on(Fixture::provider(fixture.as_ref(), Faults::none()))?;
    let capabilities = provider.capabilities_of(&Fixture::spec(fixture.as_ref()));
    Ok((runtime, fixture, capabilities))
}

fn suite(fixture: &Arc<Pods>, capabilities: &Capabilities) -> Suite {
    // Some cases make a workspace for each step of a create.
    let mut suite = Suite::new("kubernetes").deadline(Duration::from_secs(900));
    if let Some(threads) = NonZeroUsize::new(PARALLEL) {
        suite = suite.parallel(threads);
    }
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

async fn run(case: Case, fixture: Arc<Pods>) -> anyhow::Result<()> {
    Ok(case.run(fixture as Arc<dyn Fixture>).await?)
}
