//! The commands that run in a workspace.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kled_core::provider::LogStream;
use kled_core::workspace::StopReason;
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::sync::watch;
use tokio::time::Instant;

use super::setup::Preparation;
use super::{Configuration, line};
use crate::agent::proc;
use crate::agent::protocol::messages::StatusResponse;

/// How long killed processes may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How exactly the last activity is known while bytes flow.
const ACTIVITY_RESOLUTION: Duration = Duration::from_millis(500);

/// The commands of one workspace, and when something was last done in it.
#[derive(Debug)]
pub(super) struct Commands {
    pub(super) configuration: Configuration,
    state: Mutex<State>,
    /// When nothing runs: since when. `None` while something runs.
    idle_since: watch::Sender<Option<Instant>>,
    end: watch::Sender<Option<StopReason>>,
    /// What commands begin with, and how far the workspace is set up.
    pub(super) preparation: Preparation,
    /// Tells whoever watches that a command or connection began or ended.
    changes: watch::Sender<()>,
    /// Held by whoever checks out.
    pub(super) checkout_turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    next_number: u64,
    /// Processes that somebody here waits for.
    running: BTreeSet<u32>,
    connections: u32,
    started: Timestamp,
    last_activity: Timestamp,
    /// The same on a clock that nobody sets.
    active: Instant,
}

impl State {
    fn is_active_now(&mut self) {
        self.last_activity = Timestamp::now();
        self.active = Instant::now();
    }
}

impl Commands {
    pub(super) fn new(configuration: Configuration) -> Self {
        let now = Timestamp::now();
        let state = State {
            next_number: 1,
            running: BTreeSet::new(),
            connections: 0,
            started: now,
            last_activity: now,
            active: Instant::now(),
        };
        Self {
            preparation: Preparation::new(&configuration),
            configuration,
            state: Mutex::new(state),
            idle_since: watch::Sender::new(Some(Instant::now())),
            end: watch::Sender::new(None),
            changes: watch::Sender::new(()),
            checkout_turn: tokio::sync::Mutex::new(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the numbers as they are, which is as good as it gets.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no other command of this run has.
    pub(super) fn next_number(&self) -> u64 {
        let mut state = self.state();
        state.next_number += 1;
        state.next_number - 1
    }

    pub(super) fn began(&self, process: u32) {
        let mut state = self.state();
        state.running.insert(process);
        state.is_active_now();
        self.idle_since.send_replace(None);
        self.changes.send_replace(());
    }

    pub(super) fn ended(&self, process: u32) {
        let mut state = self.state();
        state.running.remove(&process);
        state.is_active_now();
        if state.running.is_empty() {
            self.idle_since.send_replace(Some(Instant::now()));
        }
        self.changes.send_replace(());
    }

    /// Is told of changes from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Bytes were carried: as long as they are, the workspace is not idle.
    pub(super) fn touch(&self) {
        let mut state = self.state();
        if state.active.elapsed() < ACTIVITY_RESOLUTION {
            return;
        }
        state.is_active_now();
        self.idle_since.send_if_modified(|idle_since| {
            let idle = idle_since.is_some();
            *idle_since = idle.then(Instant::now);
            idle
        });
    }

    pub(super) fn connected(&self) {
        self.state().connections += 1;
        self.changes.send_replace(());
    }

    pub(super) fn disconnected(&self) {
        let mut state = self.state();
        state.connections = state.connections.saturating_sub(1);
        self.changes.send_replace(());
    }

    /// The status without what is used.
    pub(super) fn status(&self) -> StatusResponse {
        let idle_since = *self.idle_since.borrow();
        let state = self.state();
        StatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            commands: u32::try_from(state.running.len()).unwrap_or(u32::MAX),
            connections: state.connections,
            last_activity: state.last_activity.to_string(),
            started: state.started.to_string(),
            usage: None,
            idle_milliseconds: idle_since
                .map(|since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Writes a line to the workspace's log.
    pub(super) fn log(&self, stream: LogStream, command: Option<String>, text: String) {
        (self.configuration.log)(line(stream, command, text));
    }

    pub(super) fn announce_end(&self, reason: StopReason) {
        self.end.send_replace(Some(reason));
    }

    /// Waits until somebody announces the end.
    pub(super) async fn ended_by_request(&self) {
        // The sender lives as long as `self`.
        let mut end = self.end.subscribe();
        let _announced = end.wait_for(Option::is_some).await;
    }

    /// Waits until the workspace has to end: somebody asked for it, or it was idle for too long.
    pub(super) async fn ending(&self) -> StopReason {
        let mut end = self.end.subscribe();
        tokio::select! {
            ended = end.wait_for(Option::is_some) => {
                ended.ok().and_then(|reason| reason.clone()).unwrap_or(StopReason::Requested)
            }
            () = self.idle_for_too_long() => StopReason::Idle,
        }
    }

    async fn idle_for_too_long(&self) {
        let Some(timeout) = self.configuration.idle_timeout else { return std::future::pending().await };
        let mut idle_since = self.idle_since.subscribe();
        loop {
            let since = *idle_since.borrow_and_update();
            let passed = async {
                match since {
                    Some(since) => tokio::time::sleep_until(since + timeout).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = passed => return,
                // The sender lives as long as `self`.
                _ = idle_since.changed() => {}
            }
        }
    }

    /// Everything that runs in the workspace besides this process.
    fn others(&self) -> BTreeSet<u32> {
        let own = std::process::id();
        if self.configuration.has_own_processes {
            // The first process is the sandbox's own; all others descend from it.
            let mut others = proc::descendants(1);
            others.remove(&own);
            others
        } else {
            proc::descendants(own)
        }
    }

    /// Asks everything to end, waits for `grace`, and kills the rest.
    pub(super) async fn end_all(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        for process in self.others() {
            proc::send(process, Signal::TERM);
        }
        while !self.others().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.reap_orphans();
        }
        proc::kill_all(KILL_LIMIT, || {
            self.reap_orphans();
            self.others()
        })
        .await;
    }

    /// Takes note of the end of adopted processes, which nobody waits for.
    pub(super) fn reap_orphans(&self) {
        let running = self.state().running.clone();
        for orphan in proc::ended_orphans(&running) {
            let process = i32::try_from(orphan).ok().and_then(Pid::from_raw);
            // One that somebody else reaped meanwhile is reaped.
            let _reaped = process.map(|process| rustix::process::waitpid(Some(process), WaitOptions::NOHANG));
        }
    }
}
