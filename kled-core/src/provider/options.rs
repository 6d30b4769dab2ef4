//! One options struct for each operation. Build them with `..Default::default()`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Progress;
use crate::workspace::Workspace;
use crate::{LabelKey, LabelValue};

const MINUTE: Duration = Duration::from_secs(60);

/// Options of [`create_workspace`](super::Provider::create_workspace).
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The whole call. Default: 10 minutes, of which a clone takes the most.
    pub timeout: Duration,
    /// Where progress is reported.
    pub progress: Progress,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { timeout: 10 * MINUTE, progress: Progress::none() }
    }
}

/// Options of [`delete_workspace`](super::Provider::delete_workspace).
#[derive(Clone, Debug)]
pub struct DeleteOptions {
    /// The whole call. Default: 2 minutes.
    pub timeout: Duration,
    /// Where progress is reported.
    pub progress: Progress,
}

impl Default for DeleteOptions {
    fn default() -> Self {
        Self { timeout: 2 * MINUTE, progress: Progress::none() }
    }
}

/// What a delete found and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// False when there was nothing to delete.
    pub existed: bool,
    /// What was removed, for people: paths, containers, volumes.
    pub removed: Vec<String>,
}

/// Options of [`start_workspace`](super::Provider::start_workspace).
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The whole call. Default: 2 minutes.
    pub timeout: Duration,
    /// Where progress is reported.
    pub progress: Progress,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self { timeout: 2 * MINUTE, progress: Progress::none() }
    }
}

/// Options of [`stop_workspace`](super::Provider::stop_workspace).
#[derive(Clone, Debug)]
pub struct StopOptions {
    /// The whole call. Default: 1 minute.
    pub timeout: Duration,
    /// Between the request to end and the kill. Default: 5 seconds.
    pub grace_period: Duration,
    /// Where progress is reported.
    pub progress: Progress,
}

impl Default for StopOptions {
    fn default() -> Self {
        Self { timeout: MINUTE, grace_period: Duration::from_secs(5), progress: Progress::none() }
    }
}

/// Options of [`workspace_status`](super::Provider::workspace_status).
#[derive(Clone, Debug)]
pub struct StatusOptions {
    /// The whole call. Default: 5 seconds.
    pub timeout: Duration,
}

impl Default for StatusOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5) }
    }
}

/// Options of [`list_workspaces`](super::Provider::list_workspaces).
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Until the last item. Default: 30 seconds.
    pub timeout: Duration,
    /// Only workspaces that have all of these labels.
    pub labels: BTreeMap<LabelKey, LabelValue>,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), labels: BTreeMap::new() }
    }
}

impl ListOptions {
    /// True when `workspace` has all of the labels.
    #[must_use]
    pub fn matches(&self, workspace: &Workspace) -> bool {
        self.labels.iter().all(|(key, value)| workspace.spec.labels.get(key) == Some(value))
    }
}

/// Options of [`workspace_logs`](super::Provider::workspace_logs).
#[derive(Clone, Debug)]
pub struct LogsOptions {
    /// Until the stream is there; with `follow` the stream itself has no end. Default: 30 seconds.
    pub timeout: Duration,
    /// Goes on with new lines until the workspace stops.
    pub follow: bool,
    /// Only the last so many lines of what is there.
    pub tail: Option<usize>,
}

impl Default for LogsOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), follow: false, tail: None }
    }
}

/// Options of [`workspace_events`](super::Provider::workspace_events).
#[derive(Clone, Debug)]
pub struct EventsOptions {
    /// Until the stream is there; with `follow` the stream itself has no end. Default: 30 seconds.
    pub timeout: Duration,
    /// Goes on with new events until the workspace is deleted.
    pub follow: bool,
}

impl Default for EventsOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), follow: false }
    }
}
