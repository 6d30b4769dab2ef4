//! The public suite that holds any provider to the promises of [`Provider`].
//!
//! Whoever writes a backend or a wrapper gives the suite a [`Fixture`] and runs every [`Case`], each as a test of its own
//! (with `libtest-mimic`, say) or all in one call of [`check`]. A case that needs what the provider's
//! [`Capabilities`] do not have is skipped with the reason.
//!
//! ```
//! use std::sync::Arc;
//! use async_trait::async_trait;
//! use kled_core::provider::conformance::{self, Fixture};
//! use kled_core::provider::{Faults, MemoryBackend, MemoryProvider, Provider};
//! use kled_core::workspace::WorkspaceSpec;
//! use kled_core::{Result, WorkspaceName};
//!
//! struct Memory(MemoryBackend);
//!
//! #[async_trait]
//! impl Fixture for Memory {
//!     async fn provider(&self, faults: Faults) -> Result<Arc<dyn Provider>> {
//!         Ok(Arc::new(MemoryProvider::builder().backend(self.0.clone()).faults(faults).build()))
//!     }
//!
//!     fn spec(&self) -> WorkspaceSpec {
//!         WorkspaceSpec::builder("https://example.com/one").build().unwrap()
//!     }
//!
//!     fn other_spec(&self) -> WorkspaceSpec {
//!         WorkspaceSpec::builder("https://example.com/other").build().unwrap()
//!     }
//!
//!     async fn residue(&self, name: &WorkspaceName) -> Result<Vec<String>> {
//!         Ok(self.0.held(name))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let report = conformance::check(Arc::new(Memory(MemoryBackend::default()))).await;
//! assert!(report.is_success(), "{report}");
//! # }
//! ```
//!
//! # How faults are driven
//!
//! The suite first runs an operation undisturbed and notes at which steps it asks its [`Faults`]. Then, for each of
//! these steps, it makes the operation fail there, or hang there and be dropped, which is what a killed process leaves
//! to the next one. So a provider is checked at as many moments as it names.

mod concurrency;
mod deadlines;
mod disturbance;
mod execution;
mod interruption;
mod lifecycle;
mod observation;
mod project;
mod sessions;
mod setup;
mod transfer;
mod trial;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{Capabilities, Faults, Provider};
use crate::workspace::WorkspaceSpec;
use crate::{Result, Secret, SecretReference, WorkspaceName};
pub use project::Project;
pub use trial::Failure;
use trial::{Outcome, Trial};

/// What the suite needs to know of a provider to try it.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// A new handle on the same backend, as a new process would open it, with these faults.
    ///
    /// # Errors
    /// When there is none to be had; the case then fails.
    async fn provider(&self, faults: Faults) -> Result<Arc<dyn Provider>>;

    /// A spec that the provider accepts. Cases add labels, variables and times to it.
    fn spec(&self) -> WorkspaceSpec;

    /// Another spec that the provider accepts, not equal to [`spec`](Self::spec).
    fn other_spec(&self) -> WorkspaceSpec;

    /// Everything that the backend still has of a workspace, found without the provider: folders, processes,
    /// containers, volumes. Must not be empty while the workspace exists.
    ///
    /// # Errors
    /// When the backend cannot be asked; the case then fails.
    async fn residue(&self, name: &WorkspaceName) -> Result<Vec<String>>;

    /// Removes what a process keeps for itself: caches, files that are not the backend. Nothing by default.
    ///
    /// # Errors
    /// When it cannot be removed; the case then fails.
    async fn wipe_local_state(&self) -> Result<()> {
        Ok(())
    }

    /// A file of the checkout of [`spec`](Self::spec), relative to it, and what is in it.
    fn expected_file(&self) -> Option<(String, Vec<u8>)> {
        None
    }

    /// A spec whose repository has the [`file`](Project::file) of this project. The cases of the set-up need all of them.
    fn project_spec(&self, _project: Project) -> Option<WorkspaceSpec> {
        None
    }

    /// A reference that the provider resolves, and the secret behind it.
    fn secret(&self) -> Option<(SecretReference, Secret)> {
        None
    }

    /// Whether the provider asks its [`Faults`]. Without that the cases of faults are skipped.
    fn injects_faults(&self) -> bool {
        true
    }

    /// The longest that any one undisturbed call may take on this backend.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// How many times the patience a whole case may take, so that the suite always ends.
const CASE_PATIENCES: u32 = 10;

/// What a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Exec,
    Shell,
    Terminal,
    Signals,
    Detach,
    Copy,
    Connect,
    Agent,
    Checkout,
    Setup,
    Logs,
    Events,
    IdleTimeout,
    TimeToLive,
    Faults,
    Secret,
    ExpectedFile,
    Projects,
}

impl Need {
    /// Why it is missing, when it is.
    fn missing(self, capabilities: &Capabilities, fixture: &dyn Fixture) -> Option<&'static str> {
        let commands = &capabilities.commands;
        let (is_there, reason) = match self {
            Self::Exec => (commands.exec, "the provider runs no commands"),
            Self::Shell => (commands.shell, "the provider's workspaces have no shell"),
            Self::Terminal => (commands.terminal, "the provider has no terminals"),
            Self::Signals => (commands.signals, "the provider has no signals"),
            Self::Detach => (commands.detach, "the provider detaches no commands"),
            Self::Copy => (capabilities.copy, "the provider copies no files"),
            Self::Connect => (capabilities.connect, "the provider connects to no ports"),
            Self::Agent => (capabilities.agent, "the provider's workspaces have no agent"),
            Self::Checkout => (capabilities.checkout, "the provider checks no repository out"),
            Self::Setup => (capabilities.setup, "the provider carries out no set-up of the project"),
            Self::Logs => (capabilities.logs, "the provider keeps no logs"),
            Self::Events => (capabilities.events, "the provider keeps no events"),
            Self::IdleTimeout => (capabilities.idle_timeout, "the provider keeps no idle timeouts"),
            Self::TimeToLive => (capabilities.time_to_live, "the provider keeps no times to live"),
            Self::Faults => (fixture.injects_faults(), "the provider asks no faults"),
            Self::Secret => (fixture.secret().is_some(), "the fixture has no secret"),
            Self::ExpectedFile => {
                (fixture.expected_file().is_some(), "the fixture names no file of the checkout")
            }
            Self::Projects => {
                let has_all = Project::ALL.into_iter().all(|project| fixture.project_spec(project).is_some());
                (has_all, "the fixture has no projects with a set-up")
            }
        };
        (!is_there).then_some(reason)
    }
}

/// One thing that every provider has to do right.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    promise: u8,
    description: &'static str,
    needs: &'static [Need],
    body: fn(Arc<Trial>) -> BoxFuture<'static, Outcome>,
}

impl Case {
    /// Its name, in kebab case, unique in the suite.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The number of the promise of [`Provider`] that it checks most of all.
    #[must_use]
    pub const fn promise(&self) -> u8 {
        self.promise
    }

    /// What has to be true.
    #[must_use]
    pub const fn description(&self) -> &'static str {
        self.description
    }

    /// Whether it can be run against a provider with these capabilities.
    ///
    /// # Errors
    /// The reason why it has to be skipped.
    pub fn requires(&self, capabilities: &Capabilities, fixture: &dyn Fixture) -> Result<(), &'static str> {
        match self.needs.iter().find_map(|need| need.missing(capabilities, fixture)) {
            None => Ok(()),
            Some(reason) => Err(reason),
        }
    }

    /// Runs it on workspaces of its own and removes them. Ends within ten times the fixture's patience, and the
    /// removal within one more for each workspace.
    ///
    /// # Errors
    /// What was expected and what came instead.
    pub async fn run(&self, fixture: Arc<dyn Fixture>) -> Result<(), Failure> {
        let deadline = fixture.patience() * CASE_PATIENCES;
        let trial = Arc::new(Trial::new(fixture));
        let outcome =
            tokio::time::timeout(deadline, (self.body)(Arc::clone(&trial))).await.unwrap_or_else(|_| {
                Err(Failure::new("the whole case", format!("an end within {deadline:?}"), "no end"))
            });
        let removed = trial.remove_all().await;
        outcome.and(removed).map_err(|failure| failure.at(self.name))
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Case")
            .field("name", &self.name)
            .field("promise", &self.promise)
            .finish_non_exhaustive()
    }
}

/// One entry of a list of cases.
macro_rules! case {
    ($name:literal, $promise:literal, $function:path, [$($need:ident),*], $description:literal) => {
        $crate::provider::conformance::Case {
            name: $name,
            promise: $promise,
            description: $description,
            needs: &[$($crate::provider::conformance::Need::$need),*],
            body: |trial| Box::pin(async move { $function(&trial).await }),
        }
    };
}
use case;

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    [
        lifecycle::CASES,
        observation::CASES,
        deadlines::CASES,
        interruption::CASES,
        concurrency::CASES,
        execution::CASES,
        sessions::CASES,
        transfer::CASES,
        setup::CASES,
    ]
    .concat()
}

/// What came of all cases.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The names of those that passed.
    pub passed: Vec<&'static str>,
    /// The names of those that were skipped, with the reasons.
    pub skipped: Vec<(&'static str, &'static str)>,
    /// Those that failed.
    pub failed: Vec<Failure>,
}

impl Report {
    /// True when none failed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, skipped, failed) = (self.passed.len(), self.skipped.len(), self.failed.len());
        write!(formatter, "{passed} passed, {skipped} skipped, {failed} failed")?;
        for (name, reason) in &self.skipped {
            write!(formatter, "\nskipped {name}: {reason}")?;
        }
        self.failed.iter().try_for_each(|failure| write!(formatter, "\nfailed {failure}"))
    }
}

/// Runs every case, one after the other.
pub async fn check(fixture: Arc<dyn Fixture>) -> Report {
    let mut report = Report::default();
    let capabilities = match fixture.provider(Faults::none()).await {
        Ok(provider) => provider.capabilities_of(&fixture.spec()),
        Err(error) => {
            report.failed.push(Failure::new("opening the provider", "success", error));
            return report;
        }
    };
    for case in cases() {
        match case.requires(&capabilities, fixture.as_ref()) {
            Err(reason) => report.skipped.push((case.name, reason)),
            Ok(()) => match case.run(Arc::clone(&fixture)).await {
                Ok(()) => report.passed.push(case.name),
                Err(failure) => report.failed.push(failure),
            },
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_promises_exist() {
        let mut names: Vec<_> = cases().iter().map(Case::name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(cases().iter().all(|case| (1..=9).contains(&case.promise())));
        let promised: std::collections::BTreeSet<_> = cases().iter().map(Case::promise).collect();
        assert_eq!(promised.len(), 9, "every promise has a case: {promised:?}");
    }
}
