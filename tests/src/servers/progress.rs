//! Plain lines with the time since the start, on standard error: they read well in a terminal and in a log.

use std::time::Instant;

/// Tells what is going on.
#[derive(Debug)]
pub(crate) struct Progress(Instant);

impl Progress {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Prints one line.
    pub(crate) fn say(&self, line: &str) {
        eprintln!("[{:6.1} s] {line}", self.0.elapsed().as_secs_f64());
    }
}
