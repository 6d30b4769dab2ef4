//! The suite runs cases, skips with a reason, cleans up and keeps deadlines: shown on itself.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use kled_tests::suite::{Shared, Suite};

static STARTED: AtomicUsize = AtomicUsize::new(0);
static FIXTURE: Shared<usize> = Shared::new();

async fn fixture() -> anyhow::Result<usize> {
    Ok(STARTED.fetch_add(1, Ordering::SeqCst))
}

async fn shares_the_fixture() -> anyhow::Result<()> {
    let first = FIXTURE.get(fixture).await?;
    let second = FIXTURE.get(fixture).await?;
    ensure!(first == second, "the fixture was started twice");
    ensure!(STARTED.load(Ordering::SeqCst) == 1, "the fixture was started more than once");
    Ok(())
}

fn main() -> ExitCode {
    Suite::new("suite")
        .deadline(Duration::from_secs(30))
        .case("a passing case passes", || async { Ok(()) })
        .case("cases share a fixture", shares_the_fixture)
        .case("a later case gets the same fixture", shares_the_fixture)
        .case("the runtime has a clock", || async {
            let ending = tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
            ensure!(ending.is_err(), "a pending future ended");
            Ok(())
        })
        .after(|| async {
            FIXTURE.release().await;
            Ok(())
        })
        .run()
}
