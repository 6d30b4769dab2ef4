//! Holds the local provider's containers, on a real Podman, to the promises of `Provider`: with the workspace agent, and
//! in what differs without it.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use kled_core::provider::Faults;
use kled_core::provider::conformance::{Case, Fixture, cases};
use kled_tests::containers::{Containers, PlainContainers};
use kled_tests::suite::Suite;
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let missing = Containers::missing();
    if missing.is_some() {
        let suite = cases()
            .into_iter()
            .fold(Suite::new("container"), |suite, case| suite.case(case.name(), || async { Ok(()) }));
        return suite.skip_all_if(missing).run();
    }
    match start() {
        Ok((runtime, containers)) => {
            let code = runtime
                .block_on(suite(&containers))
                .unwrap_or_else(|error| Suite::new("container").case("provider", || async { Err(error) }))
                .run();
            // The engine is stopped by the last one who has it, before the runtime that started it.
            drop(containers);
            drop(runtime);
            code
        }
        Err(error) => Suite::new("container").case("podman", || async { Err(error) }).run(),
    }
}

/// The engine is started before the cases are listed, because its capabilities say which of them are skipped.
fn start() -> anyhow::Result<(Runtime, Arc<Containers>)> {
    let runtime = Runtime::new().context("start a runtime")?;
    let containers = Arc::new(runtime.block_on(Containers::start())?);
    Ok((runtime, containers))
}

async fn suite(containers: &Arc<Containers>) -> anyhow::Result<Suite> {
    let known = |name: &&str| cases().iter().any(|case| case.name() == *name);
    let unknown: Vec<_> = WITHOUT_AGENT.iter().filter(|name| !known(name)).collect();
    anyhow::ensure!(unknown.is_empty(), "there are no cases {unknown:?}");
    let with_agent: Arc<dyn Fixture> = Arc::clone(containers) as Arc<dyn Fixture>;
    let plain: Arc<dyn Fixture> = Arc::new(PlainContainers(Arc::clone(containers)));
    // One at a time: cases wipe the state folder, which all have in common.
    let suite = add_cases(Suite::new("container"), "agent", &with_agent, |_| true).await?;
    add_cases(suite, "plain", &plain, |case| WITHOUT_AGENT.contains(&case.name())).await
}

async fn add_cases(
    mut suite: Suite,
    label: &str,
    fixture: &Arc<dyn Fixture>,
    is_wanted: impl Fn(&Case) -> bool,
) -> anyhow::Result<Suite> {
    let capabilities = fixture.provider(Faults::none()).await?.capabilities_of(&fixture.spec());
    for case in cases().into_iter().filter(is_wanted) {
        let name = format!("{label}/{}", case.name());
        suite = match case.requires(&capabilities, fixture.as_ref()) {
            Err(reason) => suite.skip(name, reason),
            Ok(()) => {
                let fixture = Arc::clone(fixture);
                suite.case(name, move || run(case, fixture))
            }
        };
    }
    Ok(suite)
}

async fn run(case: Case, fixture: Arc<dyn Fixture>) -> anyhow::Result<()> {
    Ok(case.run(fixture).await?)
}

/// What the engine and the image's shell do without an agent; all else is the same code.
const WITHOUT_AGENT: [&str; 27] = [
    "arguments-are-exact",
    "arguments-keep-their-bounds",
    "commands-run-side-by-side",
    "create-again-is-the-same",
    "data-survives-stop-and-start",
    "delete-ends-commands",
    "detached-command-outlives-its-session",
    "dropped-session-ends-its-tree",
    "environment-arrives",
    "every-exit-code-arrives",
    "exit-codes-arrive",
    "killed-create-is-finished",
    "large-input-is-exact",
    "large-output-is-exact",
    "logs-can-be-followed",
    "logs-can-be-read",
    "secrets-stay-hidden",
    "stdin-reaches-stdout",
    "stop-ends-background-processes",
    "stop-ends-commands",
    "stopped-runs-no-commands",
    "streams-stay-apart",
    "terminal-has-a-size",
    "unknown-command-is-said",
    "unread-input-is-no-hang",
    "unsupported-is-said",
    "working-directory-is-kept",
];
