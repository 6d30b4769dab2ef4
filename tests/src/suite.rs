//! Async test cases as trials of `libtest-mimic`, with skips that say why.
//!
//! `cargo test` knows "ignored" but a plain `#[test]` cannot decide at run time that it cannot run. A [`Suite`]
//! can: a case whose servers or privileges are missing is reported as ignored, and a line
//! `skipped SUITE::CASE: REASON` tells why, which the runner (`cargo run --package kled-tests`) repeats in its
//! summary. A skipped case never counts as passed.
//!
//! A test target that uses it says `harness = false` in its manifest, and is nothing but a `main`:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use kled_tests::suite::Suite;
//!
//! fn main() -> ExitCode {
//!     Suite::new("arithmetic")
//!         .case("adds", || async {
//!             anyhow::ensure!(1 + 1 == 2, "sums are broken");
//!             Ok(())
//!         })
//!         .skip("divides", "no divider on this machine")
//!         .run()
//! }
//! ```

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

/// How every line that reports a skipped case begins; the runner looks for it.
pub const SKIPPED: &str = "skipped ";

/// A case may take this long unless the suite says otherwise: every wait has a deadline.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(300);

type Running = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type Start = Box<dyn FnOnce() -> Running + Send>;

enum Outcome {
    Run(Start),
    Skip(String),
}

struct Case {
    name: String,
    outcome: Outcome,
}

/// A list of async cases that runs as one test binary.
///
/// All cases share one multi-threaded runtime, so fixtures made in one case (sockets, clients) stay usable in
/// the next. Cases run one at a time unless [`Suite::parallel`] allows more.
pub struct Suite {
    name: String,
    cases: Vec<Case>,
    threads: usize,
    deadline: Duration,
    skip_all: Option<String>,
    after: Vec<Start>,
}

impl Suite {
    /// An empty suite; `name` becomes the prefix of every case's name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cases: Vec::new(),
            threads: 1,
            deadline: DEFAULT_DEADLINE,
            skip_all: None,
            after: Vec::new(),
        }
    }

    /// Adds a case. It passes when the future gives `Ok`, and fails on an error, a panic or a missed deadline.
    #[must_use]
    pub fn case<Body, Ending>(mut self, name: impl Into<String>, body: Body) -> Self
    where
        Body: FnOnce() -> Ending + Send + 'static,
        Ending: Future<Output = Result<()>> + Send + 'static,
    {
        let outcome = Outcome::Run(Box::new(move || Box::pin(body())));
        self.cases.push(Case { name: name.into(), outcome });
        self
    }

    /// Adds a case that cannot run here, and why.
    #[must_use]
    pub fn skip(mut self, name: impl Into<String>, reason: impl Into<String>) -> Self {
        self.cases.push(Case { name: name.into(), outcome: Outcome::Skip(reason.into()) });
        self
    }

    /// Skips every case, whenever it was added, if a reason is given.
    ///
    /// Takes what the `missing` functions of the harness give, for instance
    /// [`PodmanService::missing`.
    #[must_use]
    pub fn skip_all_if(mut self, reason: Option<String>) -> Self {
        self.skip_all = self.skip_all.or(reason);
        self
    }

    /// Lets up to `threads` cases run side by side.
    #[must_use]
    pub fn parallel(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads.get();
        self
    }

    /// How long one case may take (five minutes unless said otherwise).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs once after the last case, pass or fail: the place to stop what the cases share.
    #[must_use]
    pub fn after<Body, Ending>(mut self, body: Body) -> Self
    where
        Body: FnOnce() -> Ending + Send + 'static,
        Ending: Future<Output = Result<()>> + Send + 'static,
    {
        self.after.push(Box::new(move || Box::pin(body())));
        self
    }

    /// Runs what the command line (`cargo test -- FILTER`) asks for and gives the process's exit code.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.try_run(Arguments::from_args()) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(101)
            }
        }
    }

    fn try_run(self, mut arguments: Arguments) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = Arc::new(runtime.context("start a tokio runtime")?);
        let Self { name, cases, threads, deadline, skip_all, after } = self;
        arguments.test_threads.get_or_insert(threads);
        let mut skipped = Vec::new();
        let mut trials = Vec::new();
        for case in cases {
            let full_name = format!("{name}::{}", case.name);
            let outcome = match &skip_all {
                Some(reason) => Outcome::Skip(reason.clone()),
                None => case.outcome,
            };
            match outcome {
                Outcome::Run(start) => {
                    trials.push(running_trial(full_name, start, deadline, runtime.clone()))
                }
                Outcome::Skip(reason) => {
                    trials.push(skipped_trial(full_name.clone(), &reason));
                    skipped.push((full_name, reason));
                }
            }
        }
        report_skipped(&arguments, &skipped);
        let conclusion = libtest_mimic::run(&arguments, trials);
        for end in after {
            runtime.block_on(within(deadline, end())).context("clean up after the last case")?;
        }
        Ok(conclusion.exit_code())
    }
}

fn running_trial(name: String, start: Start, deadline: Duration, runtime: Arc<Runtime>) -> Trial {
    Trial::test(name, move || {
        runtime.block_on(within(deadline, start())).map_err(|error| Failed::from(causes(&error)))
    })
}

/// The error and what led to it, one cause a line. A backtrace would lead through the runtime, not to the case.
fn causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\n  because: ")
}

/// A trial that fails when it is forced with `--include-ignored`, because what it needs is still missing.
fn skipped_trial(name: String, reason: &str) -> Trial {
    let message = format!("cannot run here: {reason}");
    Trial::test(name, move || Err(Failed::from(message))).with_ignored_flag(true)
}

fn report_skipped(arguments: &Arguments, skipped: &[(String, String)]) {
    if arguments.list {
        return;
    }
    for (name, reason) in skipped.iter().filter(|(name, _)| is_selected(arguments, name)) {
        println!("{SKIPPED}{name}: {reason}");
    }
}

/// Whether the command line's filters leave the case in, by the rules of `cargo test`.
fn is_selected(arguments: &Arguments, name: &str) -> bool {
    let matches = |filter: &str| if arguments.exact { name == filter } else { name.contains(filter) };
    arguments.filter.as_deref().is_none_or(matches) && !arguments.skip.iter().any(|filter| matches(filter))
}

async fn within(deadline: Duration, case: Running) -> Result<()> {
    match tokio::time::timeout(deadline, case).await {
        Ok(ending) => ending,
        Err(_) => bail!("still running after its deadline of {} s", deadline.as_secs()),
    }
}

/// A fixture that the cases of one suite share: started by the first case that asks, dropped by
/// [`Shared::release`] in [`Suite::after`].
///
/// A `static` is never dropped, so without `release` the fixture would only end with the process.
///
/// ```no_run
/// use kled_tests::suite::{Shared, Suite};
/// use tokio::net::TcpListener;
///
/// static LISTENER: Shared<TcpListener> = Shared::new();
///
/// async fn listen() -> anyhow::Result<TcpListener> {
///     Ok(TcpListener::bind("127.0.0.1:0").await?)
/// }
///
/// fn main() -> std::process::ExitCode {
///     Suite::new("sockets")
///         .case("has a port", || async {
///             let listener = LISTENER.get(listen).await?;
///             anyhow::ensure!(listener.local_addr()?.port() != 0);
///             Ok(())
///         })
///         .after(|| async { LISTENER.release().await; Ok(()) })
///         .run()
/// }
/// ```
pub struct Shared<T>(Mutex<Option<Arc<T>>>);

impl<T> Shared<T> {
    /// A fixture that nobody has asked for yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::const_new(None))
    }

    /// The fixture, started with `start` if it isn't running.
    ///
    /// # Errors
    /// When `start` fails; the next call tries again.
    pub async fn get<Ending>(&self, start: impl FnOnce() -> Ending) -> Result<Arc<T>>
    where
        Ending: Future<Output = Result<T>>,
    {
        let mut slot = self.0.lock().await;
        if let Some(fixture) = slot.as_ref() {
            return Ok(fixture.clone());
        }
        let fixture = Arc::new(start().await?);
        *slot = Some(fixture.clone());
        Ok(fixture)
    }

    /// Lets go of the fixture; it is dropped once no case holds it.
    pub async fn release(&self) {
        self.0.lock().await.take();
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}
