//! What goes on in a workspace, now and from now on.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::unfold;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::commands::Commands;
use super::usage::usage;
use crate::agent::protocol::messages::{StatusResponse, Usage};

/// How often a driver may ask to be told the same again: at most, and at least.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// Between two answers, so that a thousand short commands do not make a thousand of them.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the file system may take to answer.
const USAGE_LIMIT: Duration = Duration::from_secs(2);

/// The status with what the workspace uses.
pub(super) async fn status(commands: &Commands) -> StatusResponse {
    let configuration = &commands.configuration;
    let folder = configuration.checkout.as_ref().unwrap_or(&configuration.working_directory).clone();
    let read = tokio::task::spawn_blocking(move || usage(&folder));
    // What a file system that hangs does not say is not known.
    let usage: Option<Usage> = tokio::time::timeout(USAGE_LIMIT, read).await.ok().and_then(Result::ok);
    StatusResponse { usage, ..commands.status() }
}

/// The status at once, then whenever a command or connection begins or ends, and at least in every interval, until the
/// workspace ends.
pub(super) fn watch(
    commands: &Arc<Commands>,
    interval_milliseconds: u64,
) -> impl futures::Stream<Item = Result<StatusResponse, Status>> + Send + use<> {
    let interval = Duration::from_millis(interval_milliseconds).clamp(INTERVALS.0, INTERVALS.1);
    let watcher = Watcher { commands: Arc::clone(commands), changes: commands.changes(), said: None };
    unfold(watcher, move |mut watcher| async move {
        watcher.wait(interval).await?;
        let status = status(&watcher.commands).await;
        Some((Ok(status), watcher))
    })
}

struct Watcher {
    commands: Arc<Commands>,
    changes: watch::Receiver<()>,
    /// When it was last said.
    said: Option<Instant>,
}

impl Watcher {
    /// Waits until there is something to say; `None` when the workspace has ended.
    async fn wait(&mut self, interval: Duration) -> Option<()> {
        if let Some(said) = self.said {
            let changed = async {
                // The sender lives as long as the commands.
                let _changed = self.changes.changed().await;
                tokio::time::sleep_until(said + PAUSE).await;
            };
            tokio::select! {
                biased;
                () = self.commands.ended_by_request() => return None,
                () = changed => {}
                () = tokio::time::sleep_until(said + interval) => {}
            }
        }
        self.said = Some(Instant::now());
        Some(())
    }
}
