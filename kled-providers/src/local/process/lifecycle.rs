//! Start, stop and delete.

use std::time::Duration;

use kled_core::provider::{Deletion, Progress, Severity};
use kled_core::workspace::{Decision, Operation, StopReason, Workspace};
use kled_core::{Result, WorkspaceName};

use super::layout::{Lock, blocking, write_json};
use super::record::{Observed, Record, Stop, Unprepared};
use super::{ProcessProvider, journal, removal, socket};

/// What the process inside gets beyond the grace period to kill what is left and to end.
const END_LIMIT: Duration = Duration::from_secs(10);

impl ProcessProvider {
    pub(super) async fn start(&self, name: &WorkspaceName, progress: &Progress) -> Result<Workspace> {
        self.0.faults.at(Operation::Start, "look").await?;
        let (_lock, record, observed) = self.locked(name).await?;
        let status = record.status(&observed);
        match status.decide(Operation::Start) {
            Decision::Satisfied if observed.unprepared.is_none() => {
                return Ok(self.workspace(&(record, observed)));
            }
            Decision::Refuse | Decision::Wait => return Err(status.refusal(Operation::Start, name)),
            Decision::Satisfied | Decision::Act => {}
        }
        let folder = self.0.root.folder(name);
        let sandbox = self.sandbox_for(&record.spec).await?;
        // One that runs has all but its set-up.
        if observed.running().is_none() {
            self.0.faults.at(Operation::Start, "sweep").await?;
            self.sweep(&record).await?;
            self.0.faults.at(Operation::Start, "launch").await?;
            self.note_unprepared(&folder, &record, Some(Unprepared::default())).await?;
            self.launch(&folder, &record, sandbox).await?;
        }
        self.0.faults.at(Operation::Start, "set-up").await?;
        self.set_up_at_start(&folder, &record, sandbox, progress).await?;
        let event = journal::event(name, Operation::Start, Severity::Normal, "Started", "started".into());
        journal::append(&folder.events(), &event);
        progress.report(event);
        let (record, observed) = self.found(name).await?;
        // The lock is this call's own.
        Ok(self.workspace(&(record, Observed { operation: false, ..observed })))
    }

    pub(super) async fn stop(
        &self,
        name: &WorkspaceName,
        grace: Duration,
        progress: &Progress,
    ) -> Result<Workspace> {
        self.0.faults.at(Operation::Stop, "look").await?;
        let (_lock, record, observed) = self.locked(name).await?;
        let status = record.status(&observed);
        match status.decide(Operation::Stop) {
            // A crash may have left processes behind: what is stopped has none.
            Decision::Satisfied => {
                self.sweep(&record).await?;
                return Ok(self.workspace(&(record, observed)));
            }
            Decision::Refuse | Decision::Wait => return Err(status.refusal(Operation::Stop, name)),
            Decision::Act => {}
        }
        self.0.faults.at(Operation::Stop, "shut down").await?;
        let folder = self.0.root.folder(name);
        let asked = tokio::time::timeout(grace + END_LIMIT, async {
            socket::shut_down(&folder, grace).await?;
            self.until_unsupervised(name).await
        })
        .await;
        if !matches!(asked, Ok(Ok(()))) {
            tracing::warn!(workspace = %name, "it did not end when asked: killing it");
        }
        self.0.faults.at(Operation::Stop, "sweep").await?;
        self.sweep(&record).await?;
        self.record_stop(name, &observed).await?;
        // The supervisor has kept the event.
        progress.report(journal::event(name, Operation::Stop, Severity::Normal, "Stopped", "stopped".into()));
        Ok(self.workspace(&self.found(name).await?))
    }

    /// Kills what is left of a run, also of one whose supervisor was killed.
    async fn sweep(&self, record: &Record) -> Result<()> {
        let folder = self.0.root.folder(&record.name);
        removal::end_run(&folder, record.id, &self.0.hierarchy).await?;
        Ok(())
    }

    async fn until_unsupervised(&self, name: &WorkspaceName) -> Result<()> {
        let path = self.0.root.folder(name).supervisor_lock();
        loop {
            let looked = path.clone();
            if !blocking(move || Lock::is_held(&looked)).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A supervisor that was killed has not recorded that the stop was asked for.
    async fn record_stop(&self, name: &WorkspaceName, before: &Observed) -> Result<()> {
        let Some(run) = before.run.clone() else { return Ok(()) };
        let path = self.0.root.folder(name).stop_record();
        blocking(move || {
            let recorded =
                super::read_json::<Stop>(&path)?.is_some_and(|stop| stop.supervisor == run.supervisor);
            if recorded {
                return Ok(());
            }
            let reason = StopReason::Requested;
            write_json(&path, &Stop { supervisor: run.supervisor, since: jiff::Timestamp::now(), reason })
        })
        .await
    }

    pub(super) async fn delete(&self, name: &WorkspaceName, progress: &Progress) -> Result<Deletion> {
        self.0.faults.at(Operation::Delete, "free the name").await?;
        let (root, looked) = (self.0.root.clone(), name.clone());
        let trashed = blocking(move || removal::put_into_trash(&root, &looked)).await?;
        let existed = trashed.is_some();
        // Also what an earlier delete of this name, that was cut short, left in the trash.
        let (root, looked) = (self.0.root.clone(), name.clone());
        let folders = blocking(move || root.trashed(&looked)).await?;
        let mut removed = Vec::new();
        for folder in folders {
            self.0.faults.at(Operation::Delete, "empty the trash").await?;
            removed.extend(removal::empty(&folder, &self.0.hierarchy).await?);
            removed.push(format!("folder {}", self.0.root.folder(name).path().display()));
        }
        let (root, looked) = (self.0.root.clone(), name.clone());
        blocking(move || removal::remove_remade(&root, &looked)).await?;
        if existed {
            let message = format!("removed {}", removed.join(", "));
            progress.report(journal::event(name, Operation::Delete, Severity::Normal, "Deleted", message));
        }
        Ok(Deletion { existed, removed })
    }

    /// The lock on operations, and the workspace as it is while nobody else changes it.
    async fn locked(&self, name: &WorkspaceName) -> Result<(Lock, Record, Observed)> {
        loop {
            let (record, _) = self.found(name).await?;
            let folder = self.0.root.folder(name);
            let Some(lock) = self.lock_operation(&folder, record.id).await? else { continue };
            let (record, observed) = self.found(name).await?;
            return Ok((lock, record, Observed { operation: false, ..observed }));
        }
    }
}
