//! What a running operation reports.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::Stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::WorkspaceName;
use crate::workspace::Operation;

/// How much an [`Event`] matters, in the terms of Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// As expected.
    #[default]
    Normal,
    /// Somebody should look.
    Warning,
}

/// Which of how many steps an operation is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepCount {
    /// From 1.
    pub number: u32,
    /// How many there are in all.
    pub total: u32,
}

/// Something that happened to a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// To which workspace.
    pub workspace: WorkspaceName,
    /// In which operation.
    pub operation: Operation,
    /// How much it matters.
    #[serde(rename = "type")]
    pub severity: Severity,
    /// What, in CamelCase, for programs: `Cloning`, `Started`.
    pub reason: String,
    /// What, for people.
    pub message: String,
    /// Which step, where the operation has a fixed number of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepCount>,
}

/// Where an operation reports its events. Reporting never waits: when the reader is so far behind that the queue is
/// full, events are left out and counted.
///
/// ```
/// use kled_core::provider::{CreateOptions, Progress};
///
/// let (progress, events) = Progress::channel(64);
/// let options = CreateOptions { progress, ..Default::default() };
/// // Give `options` to create_workspace and read `events` meanwhile.
/// # drop((options, events));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Progress(Option<Reporter>);

#[derive(Clone, Debug)]
struct Reporter {
    sender: mpsc::Sender<Event>,
    missed: Arc<AtomicU64>,
}

impl Progress {
    /// Reports to nobody.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Reports to a stream that holds at most `capacity` unread events (at least one).
    #[must_use]
    pub fn channel(capacity: usize) -> (Self, EventStream) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let missed = Arc::new(AtomicU64::new(0));
        (Self(Some(Reporter { sender, missed: Arc::clone(&missed) })), EventStream { receiver, missed })
    }

    /// Reports one event.
    pub fn report(&self, event: Event) {
        let Some(reporter) = &self.0 else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = reporter.sender.try_send(event) {
            reporter.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The events of one operation. It ends when the operation does.
#[derive(Debug)]
pub struct EventStream {
    receiver: mpsc::Receiver<Event>,
    missed: Arc<AtomicU64>,
}

impl EventStream {
    /// How many events were left out because the queue was full.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.receiver.poll_recv(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_leaves_events_out_and_counts_them() {
        let (progress, events) = Progress::channel(2);
        let event = Event {
            time: Timestamp::UNIX_EPOCH,
            workspace: WorkspaceName::new("demo").unwrap(),
            operation: Operation::Create,
            severity: Severity::Normal,
            reason: "Cloning".into(),
            message: "cloning".into(),
            step: None,
        };
        for _ in 0..5 {
            progress.report(event.clone());
        }
        assert_eq!(events.missed(), 3);
    }
}
