//! The right of one call to change a workspace, and what becomes of it when the call is cut short.

use jiff::Timestamp;

use super::Clock;
use super::backend::{Claim, MemoryBackend, Record, deleted_meanwhile, parts};
use crate::provider::{Deletion, Event, Faults, Progress, Severity, StepCount};
use crate::workspace::{Operation, Workspace, WorkspaceStatus};
use crate::{Error, ProviderName, Result, WorkspaceId, WorkspaceName};

/// What every step of one call needs.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) backend: MemoryBackend,
    pub(super) provider: ProviderName,
    pub(super) name: WorkspaceName,
    pub(super) operation: Operation,
    pub(super) progress: Progress,
    pub(super) faults: Faults,
    pub(super) clock: Clock,
}

/// A step of an operation.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// For programs and for faults.
    pub(super) name: &'static str,
    /// The reason of its event.
    pub(super) reason: &'static str,
    /// Which of how many.
    pub(super) number: u32,
    pub(super) total: u32,
}

impl Context {
    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn event(&self, step: Step) -> Event {
        Event {
            time: self.now(),
            workspace: self.name.clone(),
            operation: self.operation,
            severity: Severity::Normal,
            reason: step.reason.into(),
            message: format!("{} {}", step.reason.to_lowercase(), self.name),
            step: Some(StepCount { number: step.number, total: step.total }),
        }
    }

    fn failure(&self, error: &Error) -> Event {
        Event {
            time: self.now(),
            workspace: self.name.clone(),
            operation: self.operation,
            severity: Severity::Warning,
            reason: "Failed".into(),
            message: error.to_string(),
            step: None,
        }
    }

    fn report(&self, record: &mut Record, event: Event) {
        record.events.push(event.clone());
        self.progress.report(event);
    }
}

/// Held by the one create, start or stop that works on a workspace. Dropping it, as a killed process would, gives the
/// right back and leaves a creation that is not done `Interrupted`.
pub(super) struct Lease {
    context: Context,
    id: WorkspaceId,
    claim: Claim,
    failure: Option<String>,
}

impl Lease {
    pub(super) fn new(context: Context, id: WorkspaceId, claim: Claim) -> Self {
        Self { context, id, claim, failure: None }
    }

    /// Changes the record, unless a delete has taken it over.
    fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> Result<T> {
        let owned = |record: &mut Record| {
            record.claim.as_ref().is_some_and(|claim| claim.number == self.claim.number)
        };
        let changed = self
            .context
            .backend
            .change(&self.context.name, self.id, |record| owned(record).then(|| change(record)));
        changed.flatten().ok_or_else(|| deleted_meanwhile(&self.context))
    }

    /// Announces a step, lets a fault in, then has its effect.
    pub(super) async fn step(
        &mut self,
        step: Step,
        effect: impl FnOnce(&mut Record, Timestamp),
    ) -> Result<()> {
        let result = self.attempt(step, effect).await;
        if let Err(error) = &result {
            self.failure = Some(error.message().to_owned());
            let context = &self.context;
            // When the record is gone there is nobody left to tell.
            let _gone = self.change(|record| context.report(record, context.failure(error)));
        }
        result
    }

    async fn attempt(&self, step: Step, effect: impl FnOnce(&mut Record, Timestamp)) -> Result<()> {
        let context = &self.context;
        self.change(|record| {
            if matches!(record.status, WorkspaceStatus::Creating { .. } | WorkspaceStatus::Interrupted { .. })
            {
                record.status = WorkspaceStatus::Creating { step: step.name.into() };
            }
            context.report(record, context.event(step));
        })?;
        let fault = context.faults.at(context.operation, step.name);
        self.claim.cancelled.run_until_cancelled(fault).await.ok_or_else(|| deleted_meanwhile(context))??;
        self.change(|record| effect(record, context.now()))
    }

    /// The workspace as it is after the last step.
    pub(super) fn finish(self) -> Result<Workspace> {
        self.change(|record| record.workspace(&self.context.name, &self.context.provider))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let message = self.failure.take();
        // A delete that has taken over decides what becomes of the record.
        let _taken_over = self.change(|record| {
            record.claim = None;
            if let WorkspaceStatus::Creating { step } = &record.status {
                record.status = WorkspaceStatus::Interrupted { step: step.clone(), message };
            }
        });
        self.context.backend.changed();
    }
}

/// A delete under way. Several may be: their steps can be done twice without harm.
pub(super) struct DeleteLease {
    context: Context,
    id: WorkspaceId,
}

impl DeleteLease {
    /// Takes the workspace over from whoever works on it. None when there is nothing to delete.
    pub(super) fn take_over(context: Context) -> Option<Self> {
        let id = context.backend.records().get_mut(&context.name).map(|record| {
            record.status = WorkspaceStatus::Deleting;
            record.deletes += 1;
            if let Some(claim) = record.claim.take() {
                claim.cancelled.cancel();
            }
            record.id
        });
        context.backend.changed();
        id.map(|id| Self { context, id })
    }

    /// Announces a step, lets a fault in, then has its effect.
    pub(super) async fn step(&self, step: Step, effect: impl FnOnce(&mut Record, Timestamp)) -> Result<()> {
        let context = &self.context;
        let change =
            |change: &mut dyn FnMut(&mut Record)| context.backend.change(&context.name, self.id, change);
        // Another delete may have removed the record already; then this step is done.
        let _gone = change(&mut |record| context.report(record, context.event(step)));
        context.faults.at(context.operation, step.name).await?;
        let mut effect = Some(effect);
        let _gone = change(&mut |record| {
            if let Some(effect) = effect.take() {
                effect(record, context.now());
            }
        });
        Ok(())
    }

    /// Removes the record and says what was in it.
    pub(super) fn remove(self) -> Deletion {
        let mut records = self.context.backend.records();
        let name = &self.context.name;
        let mine = records.get(name).is_some_and(|record| record.id == self.id);
        let record = if mine { records.remove(name) } else { None };
        Deletion { existed: true, removed: record.map_or_else(Vec::new, |record| parts(name, &record)) }
    }
}

impl Drop for DeleteLease {
    fn drop(&mut self) {
        self.context.backend.change(&self.context.name, self.id, |record| record.deletes -= 1);
    }
}
