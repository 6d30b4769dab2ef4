//! Workspaces on this machine.
//!
//! A workspace is a checkout of a git repository with a home and a temporary folder of its own, and the processes that
//! run in it. On Linux they are sandboxed: they write only to these folders, see no other workspace and none of the
//! user's credentials, while toolchains installed in the home folder stay usable, read-only.
//!
//! | isolation | what it is | needs |
//! |---|---|---|
//! | `process` (default) | processes under a supervisor that outlives this one, in bubblewrap, else in Landlock | git |
//! | `container` (default where the spec names an image) | a container and a volume of Docker or Podman | an engine |
//! | `none` | processes without a sandbox; for trusted repositories only | git |
//!
//! See [`SupervisorProgram`] for the one line that a program needs in its `main`.

mod builder;
mod checkout;
mod process;
mod secrets;

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use kled_core::provider::{
    Capabilities, CreateOptions, DeleteOptions, Deletion, Event, EventsOptions, ExecRequest, ExecSession, ListOptions,
    LogLine, LogsOptions, Provider, StartOptions, StatusOptions, StopOptions,
};
use kled_core::workspace::{Workspace, WorkspaceSpec};
use kled_core::{ProviderName, Result, WorkspaceName};

pub use builder::LocalProviderBuilder;
pub use process::SupervisorProgram;
pub use secrets::EnvironmentAndFileSecrets;
