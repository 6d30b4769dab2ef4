//! What surrounds a run: streams, environment, working directory.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use kled_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Where standard input comes from.
#[derive(Clone, Debug)]
pub enum Input {
    /// The process's own.
    Process,
    /// These bytes.
    Bytes(Vec<u8>),
}

impl Input {
    /// True when somebody types there.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Process) && io::stdin().is_terminal()
    }

    pub(crate) fn reader(&self) -> Reader {
        match self {
            Self::Process => Box::new(tokio::io::stdin()),
            Self::Bytes(bytes) => Box::new(io::Cursor::new(bytes.clone())),
        }
    }
}

/// Where an output goes.
#[derive(Clone)]
pub enum Sink {
    /// The process's standard output.
    Stdout,
    /// The process's standard error.
    Stderr,
    /// A buffer that its clones share.
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Sink {
    /// An empty buffer.
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// True when somebody looks at it.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
            Self::Memory(_) => false,
        }
    }

    /// What a buffer holds; nothing for the process's own streams.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        match self {
            Self::Stdout | Self::Stderr => Vec::new(),
            Self::Memory(bytes) => bytes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Writes all of `bytes` at once and flushes.
    ///
    /// # Errors
    /// What the stream answers, for example that its reader is gone.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        fn through(mut stream: impl Write, bytes: &[u8]) -> io::Result<()> {
            stream.write_all(bytes)?;
            stream.flush()
        }
        match self {
            Self::Stdout => through(io::stdout().lock(), bytes),
            Self::Stderr => through(io::stderr().lock(), bytes),
            Self::Memory(buffer) => {
                through(&mut *buffer.lock().unwrap_or_else(PoisonError::into_inner), bytes)
            }
        }
    }

    pub(crate) fn writer(&self) -> Writer {
        match self {
            Self::Stdout => Box::new(tokio::io::stdout()),
            Self::Stderr => Box::new(tokio::io::stderr()),
            Self::Memory(buffer) => Box::new(MemoryWriter(Arc::clone(buffer))),
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stdout => "Stdout",
            Self::Stderr => "Stderr",
            Self::Memory(_) => "Memory",
        })
    }
}

struct MemoryWriter(Arc<Mutex<Vec<u8>>>);

impl AsyncWrite for MemoryWriter {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

/// What a run sees of the outside. Commands read nothing else, so a test or a service can supply its own.
///
/// `Debug` shows the names of variables only.
#[derive(Clone)]
pub struct Surroundings {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// Relative paths are relative to this.
    pub working_directory: PathBuf,
    /// Standard input.
    pub stdin: Input,
    /// Results.
    pub stdout: Sink,
    /// Progress and errors.
    pub stderr: Sink,
    /// Whether Ctrl-C and the request to terminate are caught.
    pub catches_signals: bool,
    /// What time it is, for ages.
    pub clock: fn() -> Timestamp,
}

impl Surroundings {
    /// Those of this process. Variables that are not UTF-8 are left out: none of Kled's has such a value.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn of_process() -> Result<Self> {
        let working_directory = std::env::current_dir().map_err(|cause| {
            Error::new(ErrorKind::InvalidInput, "the working directory cannot be found")
                .hint("change to a folder that exists")
                .because(cause)
        })?;
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Ok(Self {
            variables: std::env::vars_os().filter_map(text).collect(),
            working_directory,
            stdin: Input::Process,
            stdout: Sink::Stdout,
            stderr: Sink::Stderr,
            catches_signals: true,
            clock: Timestamp::now,
        })
    }

    /// No variables, no input, outputs in memory; the clock stands at the Unix epoch.
    #[must_use]
    pub fn in_memory(working_directory: impl Into<PathBuf>) -> Self {
        Self {
            variables: BTreeMap::new(),
            working_directory: working_directory.into(),
            stdin: Input::Bytes(Vec::new()),
            stdout: Sink::memory(),
            stderr: Sink::memory(),
            catches_signals: false,
            clock: || Timestamp::UNIX_EPOCH,
        }
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Surroundings")
            .field("variables", &self.variables.keys())
            .field("working_directory", &self.working_directory)
            .field("stdin", &self.stdin.is_terminal())
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .field("catches_signals", &self.catches_signals)
            .finish()
    }
}
