//! The command line of Kled as a library: rebuild `kled` with providers and commands of your own.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::sync::Arc;
//!
//! use kled_cli::{Runner, Supervisor};
//! use kled_core::provider::{MemoryProvider, Provider, ProviderSettings};
//!
//! fn main() -> ExitCode {
//!     Runner::new(Supervisor::this_program())
//!         .program("acme")
//!         .provider("memory", |settings: ProviderSettings| async move {
//!             settings.finish()?;
//!             Ok(Arc::new(MemoryProvider::new()) as Arc<dyn Provider>)
//!         })
//!         .run(std::env::args_os())
//! }
//! ```
//!
//! | part | what it is |
//! |---|---|
//! | [`Runner`] | the program: providers, commands, what surrounds it |
//! | [`CustomCommand`], [`Context`] | a command of one's own, and what it is given |
//! | [`Exit`] | the exit codes, all in one place |
//! | [`config`] | settings by flag, environment, file and default, each with its origin |
//! | [`output`] | results on standard output, errors and progress on standard error |
//! | [`Surroundings`] | streams, environment and working directory, so that a test can supply its own |
//!
//! It holds no logic that an embedder of `kled-core` would miss: a command parses its arguments, makes one call to the
//! [`Provider`](kled_core::provider::Provider) and prints the answer.
#![cfg(feature = "cli")]

mod arguments;
mod commands;
pub mod config;
mod context;
mod exit;
pub mod output;
mod providers;
mod runner;
mod surroundings;
mod terminal;

pub use commands::CustomCommand;
pub use context::Context;
pub use exit::Exit;
pub use output::Failure;
pub use providers::Supervisor;
pub use runner::Runner;
pub use surroundings::{Input, Sink, Surroundings};

/// The parser of the command line, in the version that [`CustomCommand`] speaks.
pub use clap;
