//! Processes that are told apart from later ones with the same number.

use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::agent::proc::{send, stat};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessId {
    /// The number, which the kernel uses again.
    pub(crate) number: u32,
    /// When it began, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// This process.
    pub(crate) fn own() -> Self {
        let number = std::process::id();
        Self::of(number).unwrap_or(Self { number, start_time: 0 })
    }

    /// The process that has this number now.
    pub(crate) fn of(number: u32) -> Option<Self> {
        stat(number).map(|stat| Self { number, start_time: stat.start_time })
    }

    /// True while it runs. A zombie has ended.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.number).is_some_and(|stat| stat.start_time == self.start_time && !stat.ended)
    }

    /// Sends a signal if it is still the same process.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            send(self.number, signal);
        }
    }
}

/// The boot of this kernel, so that what a record says of another boot is not taken for now.
pub(crate) fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Waits until all of these have ended, at most for `limit`. Says whether they have.
pub(crate) async fn ended(limit: Duration, processes: &[ProcessId]) -> bool {
    let deadline = tokio::time::Instant::now() + limit;
    while processes.iter().any(|process| process.is_alive()) {
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_a_reused_number_is_not() {
        let own = ProcessId::own();
        assert!(own.is_alive());
        assert!(!ProcessId { start_time: own.start_time + 1, ..own }.is_alive());
    }
}
