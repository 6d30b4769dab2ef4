//! The suite runs cases, skips with a reason, cleans up and keeps deadlines: shown on itself.

use std::env;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kled_tests::suite::{Shared, Suite};

/// Set for a process that shall run the sample instead.
const SAMPLE: &str = "KLED_TEST_SAMPLE_SUITE";

static STARTED: AtomicUsize = AtomicUsize::new(0);
static FIXTURE: Shared<usize> = Shared::new();

async fn fixture() -> Result<usize> {
    Ok(STARTED.fetch_add(1, Ordering::SeqCst))
}

async fn shares_the_fixture() -> Result<()> {
    let first = FIXTURE.get(fixture).await?;
    let second = FIXTURE.get(fixture).await?;
    ensure!(first == second, "the fixture was started twice");
    ensure!(STARTED.load(Ordering::SeqCst) == 1, "the fixture was started more than once");
    Ok(())
}

/// A suite with every kind of ending, among them the bad ones.
fn sample() -> ExitCode {
    Suite::new("sample")
        .deadline(Duration::from_millis(200))
        .case("passes", async || Ok(()))
        .case("fails", async || Err(anyhow::anyhow!("the cause").context("the error")))
        .case("panics", async || bail!("{}", Vec::<String>::new()[0]))
        .case("hangs", std::future::pending)
        .skip("cannot", "no such server")
        .after(async || {
            println!("cleaned up");
            Ok(())
        })
        .run()
}

/// What the sample says, and whether it ended well.
fn run_sample(arguments: &[&str]) -> Result<(String, bool)> {
    let mut command = Command::new(env::current_exe()?);
    let output = command.args(arguments).env(SAMPLE, "1").env("RUST_BACKTRACE", "0").output()?;
    Ok((String::from_utf8(output.stdout).context("read the sample's output")?, output.status.success()))
}

async fn counts_every_ending() -> Result<()> {
    let (said, success) = run_sample(&[])?;
    ensure!(said.contains("1 passed; 3 failed; 1 ignored"), "{said}");
    ensure!(!success, "a suite with failures ended well");
    ensure!(said.contains("the error\n  because: the cause"), "{said}");
    ensure!(said.contains("still running after its deadline"), "{said}");
    ensure!(said.contains("cleaned up"), "{said}");
    Ok(())
}

async fn says_why_it_skipped() -> Result<()> {
    let (said, _) = run_sample(&[])?;
    ensure!(said.lines().any(|line| line == "skipped sample::cannot: no such server"), "{said}");
    let (said, _) = run_sample(&["--list"])?;
    ensure!(!said.contains("skipped"), "a list is for machines: {said}");
    Ok(())
}

async fn follows_the_command_line() -> Result<()> {
    let (said, success) = run_sample(&["sample::passes"])?;
    ensure!(said.contains("1 passed; 0 failed; 0 ignored"), "{said}");
    ensure!(success && !said.contains("skipped"), "{said}");
    Ok(())
}

async fn fails_what_is_forced_without_its_server() -> Result<()> {
    let (said, success) = run_sample(&["--include-ignored", "cannot"])?;
    ensure!(said.contains("0 passed; 1 failed") && !success, "{said}");
    Ok(())
}

fn main() -> ExitCode {
    if env::var_os(SAMPLE).is_some() {
        return sample();
    }
    Suite::new("suite")
        .deadline(Duration::from_secs(30))
        .case("cases share a fixture", shares_the_fixture)
        .case("a later case gets the same fixture", shares_the_fixture)
        .case("every ending is counted", counts_every_ending)
        .case("a skipped case says why", says_why_it_skipped)
        .case("the command line's filters hold", follows_the_command_line)
        .case("a forced case without its server fails", fails_what_is_forced_without_its_server)
        .after(async || {
            FIXTURE.release().await;
            Ok(())
        })
        .run()
}
