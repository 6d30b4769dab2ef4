//! What a command is given.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::sync::Arc;

use kled_core::provider::{Event, Progress, Provider, Registry};
use kled_core::{Error, ProviderName, Result};
use serde::Serialize;

use crate::arguments::GlobalArguments;
use crate::config::Settings;
use crate::output::{Failure, Look, ProgressReport, report};
use crate::{Exit, Surroundings, providers};

/// How many events of an operation wait to be shown.
const EVENTS_MAX: usize = 256;

/// What a command is given: settings, providers, and the ways to say something.
#[derive(Debug)]
pub struct Context {
    pub(crate) settings: Settings,
    pub(crate) registry: Registry,
    pub(crate) surroundings: Surroundings,
    pub(crate) global: GlobalArguments,
    /// The command line without the program, for the child that goes on in the background.
    pub(crate) arguments: Vec<OsString>,
    pub(crate) program: String,
    /// The whole command line as it is defined, with what an embedder added.
    pub(crate) definition: clap::Command,
}

impl Context {
    /// The settings of this run.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What surrounds this run.
    #[must_use]
    pub const fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// The providers that the application knows.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The provider that the settings name.
    ///
    /// # Errors
    /// What [`Registry::open`] answers.
    pub async fn provider(&self) -> Result<Arc<dyn Provider>> {
        self.open(&self.settings.provider).await
    }

    /// A provider by name, with its settings.
    ///
    /// # Errors
    /// What [`Registry::open`] answers.
    pub async fn open(&self, name: &ProviderName) -> Result<Arc<dyn Provider>> {
        self.registry.open(name, providers::settings_of(name, &self.settings)).await
    }

    /// Prints a result in the format that was asked for; `human` makes the table.
    ///
    /// # Errors
    /// When standard output cannot be written; a closed pipe ends the command quietly.
    pub fn print<T: Serialize>(&self, result: &T, human: impl FnOnce(Look) -> String) -> Result<(), Failure> {
        let text = self.settings.output.document(result)?.unwrap_or_else(|| human(self.look()));
        self.print_text(&text)
    }

    /// Prints one item of a stream in the format that was asked for.
    ///
    /// # Errors
    /// As [`print`](Self::print).
    pub fn print_item<T: Serialize>(
        &self,
        item: &T,
        human: impl FnOnce(Look) -> String,
    ) -> Result<(), Failure> {
        let text = self.settings.output.item(item)?.unwrap_or_else(|| human(self.look()));
        self.print_text(&text)
    }

    pub(crate) fn print_text(&self, text: &str) -> Result<(), Failure> {
        self.surroundings.stdout.write(text.as_bytes()).map_err(Failure::of_output)
    }

    /// Says something on standard error that is not part of the result, unless `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.global.quiet {
            let mut line = String::new();
            let _infallible = writeln!(line, "{text}");
            // Nobody reads it: that is no reason to fail.
            drop(self.surroundings.stderr.write(line.as_bytes()));
        }
    }

    /// Says on standard error what went wrong while the command goes on.
    pub(crate) fn report(&self, error: &Error) {
        let stderr = &self.surroundings.stderr;
        let color = self.settings.color.applies_to(stderr, &self.surroundings);
        let text = report(error, Exit::of_error(error), &self.program, self.settings.output, color);
        // Nobody reads it: that is no reason to fail.
        drop(stderr.write(text.as_bytes()));
    }

    /// Runs an operation and shows what it reports. `start` is given where to report.
    pub async fn with_progress<T, F>(&self, start: impl FnOnce(Progress) -> F) -> T
    where
        F: Future<Output = T>,
    {
        let (progress, events) = Progress::channel(EVENTS_MAX);
        let report = ProgressReport::new(&self.surroundings.stderr, self.global.quiet);
        report.watch(events, start(progress)).await
    }

    pub(crate) fn look(&self) -> Look {
        Look {
            color: self.settings.color.applies_to(&self.surroundings.stdout, &self.surroundings),
            now: (self.surroundings.clock)(),
        }
    }

    /// One event as a line; columns have fixed widths because a stream has no last line to measure.
    pub(crate) fn event_line(event: &Event) -> String {
        let time = event.time.strftime("%Y-%m-%dT%H:%M:%SZ");
        let message = crate::output::printable(&event.message).replace('\n', " ");
        format!("{time}   {:<8}{:<18} {message}\n", format!("{:?}", event.severity), event.reason)
    }
}
