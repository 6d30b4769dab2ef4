//! What a [`MemoryProvider`](super::MemoryProvider) is a handle of: the place that has the workspaces.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::lease::{Context, Lease};
use crate::provider::{Event, LogLine, LogStream};
use crate::workspace::{Decision, Operation, StopReason, Workspace, WorkspaceSpec, WorkspaceStatus};
use crate::{Error, ErrorKind, ProviderName, Result, WorkspaceId, WorkspaceName};

/// The shared memory that holds workspaces, as a cloud would. Clones are handles of the same one.
///
/// A provider keeps nothing of its own, so a second [`MemoryProvider`](super::MemoryProvider) on the same backend is
/// what a second process, or one that lost its local state, is to a real backend.
///
/// ```
/// use kled_core::WorkspaceName;
/// use kled_core::provider::{MemoryBackend, MemoryProvider, ProviderExt};
/// use kled_core::workspace::WorkspaceSpec;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kled_core::Result<()> {
/// let backend = MemoryBackend::default();
/// let name = WorkspaceName::new("demo")?;
/// let spec = WorkspaceSpec::builder("https://github.com/org/app").build()?;
/// MemoryProvider::builder().backend(backend.clone()).build().create(&name, &spec).await?;
///
/// let another_process = MemoryProvider::builder().backend(backend).build();
/// assert!(another_process.status(&name).await?.status.is_running());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MemoryBackend(Arc<Shared>);

#[derive(Default)]
struct Shared {
    records: Mutex<BTreeMap<WorkspaceName, Record>>,
    /// Counts changes, so that whoever waits for one can look again.
    changes: watch::Sender<u64>,
    claims: AtomicU64,
    clock: AtomicI64,
}

/// Everything that is kept of one workspace.
pub(super) struct Record {
    pub(super) id: WorkspaceId,
    pub(super) spec: WorkspaceSpec,
    pub(super) status: WorkspaceStatus,
    pub(super) created: Timestamp,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) events: Journal<Event>,
    pub(super) logs: Journal<LogLine>,
    /// Cancelled when the workspace stops, which ends its commands. None when nothing can run.
    pub(super) run: Option<CancellationToken>,
    /// Who works on it just now: create, start or stop.
    pub(super) claim: Option<Claim>,
    /// How many deletes are under way. A deleting record without any was left by a delete that was cut short.
    pub(super) deletes: usize,
}

/// The right of one call to change a record.
#[derive(Clone)]
pub(super) struct Claim {
    pub(super) number: u64,
    pub(super) cancelled: CancellationToken,
}

/// What an operation found.
pub(super) enum Found {
    /// It is true already.
    Satisfied(Box<Workspace>),
    /// This call is the one to act.
    Claimed(Lease),
    /// Another call acts on this workspace; look again after a change. Names the workspace that is being created.
    Busy(Option<WorkspaceId>),
}

impl Record {
    fn reserved(spec: WorkspaceSpec, created: Timestamp) -> Self {
        Self {
            id: WorkspaceId::random(),
            spec,
            status: WorkspaceStatus::Creating { step: "reserve".into() },
            created,
            files: BTreeMap::new(),
            events: Journal::default(),
            logs: Journal::default(),
            run: None,
            claim: None,
            deletes: 0,
        }
    }

    pub(super) fn workspace(&self, name: &WorkspaceName, provider: &ProviderName) -> Workspace {
        Workspace {
            name: name.clone(),
            id: self.id,
            provider: provider.clone(),
            spec: self.spec.clone(),
            status: self.status.clone(),
            created: self.created,
            checkout: None,
            conditions: Vec::new(),
        }
    }

    pub(super) fn log(&mut self, time: Timestamp, line: &str) {
        self.logs.push(LogLine { time, stream: LogStream::Supervisor, command: None, line: line.into() });
    }

    /// From here on commands can be run.
    pub(super) fn run(&mut self, now: Timestamp) {
        self.run = Some(CancellationToken::new());
        self.status = WorkspaceStatus::Running { since: now };
        self.log(now, "started");
    }

    /// Ends the commands that run now. Others can be run until it is stopped, as its status says.
    pub(super) fn end_commands(&mut self, now: Timestamp) {
        if let Some(run) = self.run.as_mut() {
            std::mem::take(run).cancel();
            self.log(now, "ended all commands");
        }
    }

    /// From here on no commands can be run.
    pub(super) fn stop(&mut self, now: Timestamp) {
        self.halt();
        self.status = WorkspaceStatus::Stopped { since: now, reason: StopReason::Requested };
        self.log(now, "stopped");
    }

    /// Ends everything that runs.
    pub(super) fn halt(&mut self) {
        if let Some(run) = self.run.take() {
            run.cancel();
        }
    }
}

impl MemoryBackend {
    /// What is held for a name, for people; empty when there is nothing. Found without a provider, so that a test of
    /// one can look behind its back.
    #[must_use]
    pub fn held(&self, name: &WorkspaceName) -> Vec<String> {
        self.records().get(name).map_or_else(Vec::new, |record| parts(name, record))
    }

    pub(super) fn records(&self) -> MutexGuard<'_, BTreeMap<WorkspaceName, Record>> {
        // No code that holds the lock leaves a record half-changed, so a panic elsewhere does not spoil it.
        self.0.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Wakes everybody who waits for a change. Call it after the lock is released.
    pub(super) fn changed(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// The default clock: one second after the Unix epoch, then one more at each reading.
    pub(super) fn tick(&self) -> Timestamp {
        let seconds = self.0.clock.fetch_add(1, Ordering::Relaxed) + 1;
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn claim(&self, record: &mut Record) -> Claim {
        let number = self.0.claims.fetch_add(1, Ordering::Relaxed);
        let claim = Claim { number, cancelled: CancellationToken::new() };
        record.claim = Some(claim.clone());
        claim
    }

    /// Changes the record of `name`, if it is there and still the one of `id`.
    pub(super) fn change<T>(
        &self,
        name: &WorkspaceName,
        id: WorkspaceId,
        change: impl FnOnce(&mut Record) -> T,
    ) -> Option<T> {
        let result = self.records().get_mut(name).filter(|record| record.id == id).map(change);
        self.changed();
        result
    }

    /// Reads the record of `name`, if it is there and still the one of `id`.
    pub(super) fn read<T>(
        &self,
        name: &WorkspaceName,
        id: WorkspaceId,
        read: impl FnOnce(&Record) -> T,
    ) -> Option<T> {
        self.records().get(name).filter(|record| record.id == id).map(read)
    }

    /// Decides what a create has to do, and reserves the name when it is this call that makes the workspace.
    ///
    /// `joined` is the workspace for whose creation by another call this one has waited.
    pub(super) fn find_or_reserve(
        &self,
        context: &Context,
        spec: &WorkspaceSpec,
        joined: Option<WorkspaceId>,
    ) -> Result<Found> {
        let name = &context.name;
        let mut records = self.records();
        let abandoned = |record: &Record| record.status == WorkspaceStatus::Deleting && record.deletes == 0;
        if records.get(name).is_some_and(abandoned) {
            // Somebody asked for the delete, so finishing it first is what both callers want.
            records.remove(name);
        }
        let deleted = |record: &Record, id| record.id != id || record.status == WorkspaceStatus::Deleting;
        if joined.is_some_and(|id| records.get(name).is_none_or(|record| deleted(record, id))) {
            return Err(deleted_meanwhile(context));
        }
        let record = match records.get_mut(name) {
            None => records.entry(name.clone()).or_insert(Record::reserved(spec.clone(), context.now())),
            Some(record) if record.status == WorkspaceStatus::Deleting => return Ok(Found::Busy(None)),
            Some(record) => {
                if let Some(conflict) = spec.conflict_with(name, &record.spec) {
                    return Err(conflict.during(Operation::Create.as_str()));
                }
                match record.status.decide(Operation::Create) {
                    Decision::Act if record.claim.is_none() => record,
                    Decision::Act | Decision::Wait => return Ok(Found::Busy(Some(record.id))),
                    Decision::Satisfied | Decision::Refuse => {
                        return Ok(Found::Satisfied(Box::new(record.workspace(name, &context.provider))));
                    }
                }
            }
        };
        let claim = self.claim(record);
        let lease = Lease::new(context.clone(), record.id, claim);
        Ok(Found::Claimed(lease))
    }

    /// Decides what start, stop and exec have to do.
    pub(super) fn find(&self, context: &Context) -> Result<Found> {
        let (name, operation) = (&context.name, context.operation);
        let mut records = self.records();
        let not_found = || Error::workspace_not_found(name).during(operation.as_str());
        let record = records.get_mut(name).ok_or_else(not_found)?;
        let abandoned = record.claim.is_none() && record.deletes == 0;
        match record.status.decide(operation) {
            Decision::Refuse => Err(record.status.refusal(operation, name)),
            Decision::Wait if abandoned => Err(record.status.refusal(operation, name)),
            Decision::Wait => Ok(Found::Busy(None)),
            // A start must not answer "running" while a stop is about to make that untrue.
            _ if record.claim.is_some() && operation != Operation::Exec => Ok(Found::Busy(None)),
            Decision::Satisfied => Ok(Found::Satisfied(Box::new(record.workspace(name, &context.provider)))),
            Decision::Act => {
                let claim = self.claim(record);
                Ok(Found::Claimed(Lease::new(context.clone(), record.id, claim)))
            }
        }
    }
}

pub(super) fn deleted_meanwhile(context: &Context) -> Error {
    Error::new(ErrorKind::Cancelled, "the workspace was deleted meanwhile")
        .during(context.operation.as_str())
        .with("workspace", &context.name)
}

/// The parts of a workspace, for people.
pub(super) fn parts(name: &WorkspaceName, record: &Record) -> Vec<String> {
    let runtime = record.run.is_some().then(|| format!("runtime of {name}"));
    let files = record.files.keys().map(|path| format!("file {path} of {name}"));
    std::iter::once(format!("reservation of {name}")).chain(runtime).chain(files).collect()
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.records();
        let states = records.iter().map(|(name, record)| (name.as_str(), record.status.state()));
        formatter.debug_map().entries(states).finish()
    }
}
