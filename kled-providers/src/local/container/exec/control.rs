//! Signals, sizes and the end of a running command.

use std::time::Duration;

use async_trait::async_trait;
use kled_core::provider::{CommandControl, Signal, TerminalSize};
use kled_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

use super::script::{END, SIGNAL};
use super::{MEMORY_PATH, Running, resize, run_script};

/// What ending a command may take; the workspace's stop ends what is left then.
const END_WITHIN: Duration = Duration::from_secs(30);

/// What can be done to a running command.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) running: Running,
    pub(super) has_terminal: bool,
}

const fn name(signal: Signal) -> Option<&'static str> {
    Some(match signal {
        Signal::Hup => "HUP",
        Signal::Int => "INT",
        Signal::Quit => "QUIT",
        Signal::Term => "TERM",
        Signal::Kill => "KILL",
        _ => return None,
    })
}

#[async_trait]
impl CommandControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        if !self.has_terminal {
            return Err(Error::new(ErrorKind::InvalidState, "the command has no terminal"));
        }
        resize(&self.running, size).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let Some(name) = name(signal) else {
            return Err(Error::new(ErrorKind::Unsupported, "the signal is not known here"));
        };
        let Running { engine, container, process, .. } = &self.running;
        match run_script(engine, container, SIGNAL, &[name, &process.to_string()]).await? {
            0 => Ok(()),
            _ => Err(Error::new(ErrorKind::InvalidState, "the command has ended")),
        }
    }
}

/// Ends a command and all that it started, unless it is disarmed before.
#[derive(Debug)]
pub(super) struct EndOnDrop(Option<Running>);

impl EndOnDrop {
    pub(super) fn new(running: Running) -> Self {
        Self(Some(running))
    }

    pub(super) fn set(&mut self, running: Running) {
        self.0 = Some(running);
    }

    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        // Outside of a runtime nothing can be asked of the engine; the workspace's stop ends the command then.
        let (Some(running), Ok(runtime)) = (self.0.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            let process = running.process.to_string();
            let file = format!("{MEMORY_PATH}/{}", running.token);
            let arguments = [process.as_str(), &running.token, &file];
            let end = run_script(&running.engine, &running.container, END, &arguments);
            if !matches!(tokio::time::timeout(END_WITHIN, end).await, Ok(Ok(_))) {
                tracing::debug!(
                    container = running.container,
                    "a command could not be ended; its workspace may be gone"
                );
            }
        });
    }
}
