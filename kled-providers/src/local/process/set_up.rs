//! The project's set-up, carried out by the agent in the sandbox.

use std::path::PathBuf;

use kled_core::provider::{Progress, Severity};
use kled_core::setup::Phase;
use kled_core::workspace::{Condition, Operation};
use kled_core::{Error, ErrorKind, Failure, Result};

use super::layout::{Folder, blocking, read_json, remove_file, write_json};
use super::record::{Record, Unprepared};
use super::sandbox::Sandbox;
use super::{ProcessProvider, journal, socket};
use crate::agent::server::has_setup;
use crate::personal;
use crate::variables::variables_and_secrets;

/// The folder in which commands begin, and that has the project's file.
pub(super) fn working_directory(folder: &Folder, record: &Record) -> PathBuf {
    match &record.spec.source.path {
        Some(path) => folder.checkout().join(path.as_str()),
        None => folder.checkout(),
    }
}

impl ProcessProvider {
    /// Whether projects are set up in this sandbox: without one their commands have all rights of the user, which only
    /// the user can want.
    pub(super) fn sets_up(&self, sandbox: Sandbox) -> bool {
        sandbox != Sandbox::None || self.0.set_up_without_sandbox
    }

    /// Whether the project asks for something. It is not read here, outside of the sandbox.
    async fn project_asks(&self, folder: &Folder, record: &Record) -> Result<bool> {
        let place = working_directory(folder, record);
        blocking(move || Ok(has_setup(&place))).await
    }

    /// The condition of a workspace that is not set up although somebody asks for it.
    pub(super) async fn left_out(
        &self,
        folder: &Folder,
        record: &Record,
        sandbox: Sandbox,
    ) -> Result<Option<Condition>> {
        if self.sets_up(sandbox) {
            return Ok(None);
        }
        let is_asked = self.0.personal.asks() || self.project_asks(folder, record).await?;
        let message =
            "the project is not set up: without a sandbox its commands would have all rights of the user";
        Ok(is_asked.then(|| Condition::new("SetUp", false, "NotSandboxed", message)))
    }

    /// Carries out what is asked for at a create, or at a start, as far as it is not done.
    pub(super) async fn set_up(
        &self,
        record: &Record,
        sandbox: Sandbox,
        operation: Operation,
        progress: &Progress,
    ) -> Result<()> {
        let (name, folder) = (&record.name, self.0.root.folder(&record.name));
        let tell = |severity, reason: &str, message| {
            let event = journal::event(name, operation, severity, reason, message);
            // The log has the lines of commands; they are events for whoever waits alone.
            if severity == Severity::Warning {
                journal::append(&folder.events(), &event);
            }
            progress.report(event);
        };
        if !self.sets_up(sandbox) {
            if let Some(condition) = self.left_out(&folder, record, sandbox).await? {
                tell(Severity::Warning, "SetUpLeftOut", condition.message);
            }
            return Ok(());
        }
        let phase = if operation == Operation::Create { Phase::Create } else { Phase::Start };
        let mut options = self.0.personal.options(phase);
        // Who sets nothing up needs no secrets yet.
        if self.project_asks(&folder, record).await? || self.0.personal.asks() {
            options.environment = variables_and_secrets(&record.spec, self.0.secrets.as_ref()).await?;
        }
        personal::set_up(&socket::connect(&folder).await?, &options, tell).await
    }

    /// The set-up of a start. One that fails leaves the workspace running, and the next start repeats it.
    pub(super) async fn set_up_at_start(
        &self,
        folder: &Folder,
        record: &Record,
        sandbox: Sandbox,
        progress: &Progress,
    ) -> Result<()> {
        match self.set_up(record, sandbox, Operation::Start, progress).await {
            Ok(()) => self.note_unprepared(folder, record, None).await,
            Err(error) => {
                let failure = Some(Failure::from(&error));
                // What failed is the error; that it cannot be written down is not worth another.
                let _noted = self.note_unprepared(folder, record, Some(Unprepared { failure })).await;
                let (name, text) = (&record.name, error.to_string());
                let event = journal::event(name, Operation::Start, Severity::Warning, "SetUpFailed", text);
                journal::append(&folder.events(), &event);
                Err(error)
            }
        }
    }

    /// Notes, unless the workspace was deleted meanwhile, whether its start is without its set-up.
    pub(super) async fn note_unprepared(
        &self,
        folder: &Folder,
        record: &Record,
        unprepared: Option<Unprepared>,
    ) -> Result<()> {
        let (root, folder, id) = (self.0.root.clone(), folder.clone(), record.id);
        blocking(move || {
            // Under the lock that a delete takes, so nothing is noted of a workspace made anew.
            root.locked(|| {
                if read_json::<Record>(&folder.record())?.is_none_or(|stored| stored.id != id) {
                    return Err(Error::new(ErrorKind::Cancelled, "the workspace was deleted meanwhile"));
                }
                match &unprepared {
                    Some(unprepared) => write_json(&folder.unprepared_record(), unprepared),
                    None => remove_file(&folder.unprepared_record()),
                }
            })
        })
        .await
    }
}
