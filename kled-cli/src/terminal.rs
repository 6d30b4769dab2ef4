//! The terminal that the user sits at: raw mode and size.

use std::io;

use kled_core::provider::TerminalSize;
use kled_core::{Error, ErrorKind, Result};
use rustix::termios::{self, OptionalActions, Termios};

/// Passes every key on as it is typed. The terminal gets its old mode back when this is dropped: at the end of the
/// command, on an error, on a signal that is caught, while a panic unwinds.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// # Errors
    /// When standard input is no terminal.
    pub(crate) fn enter() -> Result<Self> {
        let no_terminal = |cause: rustix::io::Errno| {
            Error::new(ErrorKind::InvalidInput, "the terminal cannot be put into raw mode")
                .hint("standard input must be a terminal")
                .because(io::Error::from(cause))
        };
        let stdin = rustix::stdio::stdin();
        let before = termios::tcgetattr(stdin).map_err(no_terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        // What was typed ahead stays: it is meant for the command.
        termios::tcsetattr(stdin, OptionalActions::Drain, &raw).map_err(no_terminal)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone has no mode to restore.
        let _gone = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// The size of the terminal of standard output, else of standard input. Nothing where neither is one.
pub(crate) fn size() -> Option<TerminalSize> {
    let of = |size: termios::Winsize| TerminalSize { rows: size.ws_row, columns: size.ws_col };
    // A serial line answers 0 × 0, which no program can draw on.
    let usable = |size: &TerminalSize| size.rows > 0 && size.columns > 0;
    let stdout = termios::tcgetwinsize(rustix::stdio::stdout()).ok().map(of).filter(usable);
    stdout.or_else(|| termios::tcgetwinsize(rustix::stdio::stdin()).ok().map(of).filter(usable))
}
