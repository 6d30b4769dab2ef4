//! Signals to the program.

use kled_core::provider::Signal;
use kled_core::{Error, ErrorKind, Result};
use tokio::signal::unix::{self, SignalKind};

/// The signals that ask the program to end. From the first listening on they no longer end it by themselves.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: stream(SignalKind::interrupt())?,
            terminate: stream(SignalKind::terminate())?,
            hang_up: stream(SignalKind::hangup())?,
        })
    }

    /// The next of them. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::Int,
            Some(()) = self.terminate.recv() => Signal::Term,
            Some(()) = self.hang_up.recv() => Signal::Hup,
            // The runtime ends: nothing will come.
            else => std::future::pending().await,
        }
    }
}

/// Every arrival of a signal.
pub(crate) fn stream(kind: SignalKind) -> Result<unix::Signal> {
    unix::signal(kind)
        .map_err(|cause| Error::new(ErrorKind::Internal, "signals cannot be caught").because(cause))
}
