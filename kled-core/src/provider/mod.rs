//! The [`Provider`] trait and what goes with it.
//!
//! | part | what it is |
//! |---|---|
//! | [`Provider`], [`ProviderExt`] | the full form of each operation, and the short one |
//! | [`CreateOptions`] and its kin | one options struct for each operation, each with a timeout |
//! | [`Progress`], [`Event`] | what a running operation reports, as a `Stream` |
//! | [`ExecRequest`], [`ExecSession`] | a command with its three byte streams |
//! | [`ConnectRequest`], [`UploadRequest`], [`DownloadRequest`] | connections to ports, copies of files |
//! | [`AgentStatus`] | what goes on in a workspace and what it uses |
//! | [`Capabilities`] | what a backend can do, as data |
//! | [`Registry`] | names to factories; the only place where an application lists its backends |
//! | [`MemoryProvider`] | the reference implementation |
//! | [`DeadlineProvider`], [`TracedProvider`], [`ReadOnlyProvider`] | wrappers that forward everything |
//! | [`Faults`] | a hook by which the conformance suite breaks an operation at any of its steps |

mod agent;
mod capabilities;
#[cfg(feature = "conformance")]
pub mod conformance;
mod deadline;
mod event;
mod exec;
mod ext;
mod faults;
mod logs;
mod memory;
mod options;
mod read_only;
mod registry;
mod traced;
mod transfer;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use agent::{AgentStatus, Usage};
pub use capabilities::{
    Capabilities, CommandCapabilities, Enforcement, LimitCapabilities, SandboxCapabilities,
};
pub use deadline::DeadlineProvider;
pub use event::{Event, EventStream, Progress, Severity, StepCount};
pub use exec::{
    Command, CommandControl, ExecRequest, ExecSession, ExitStatus, Output, Signal, StandardInput,
    TerminalSize, Variables,
};
pub use ext::{OperationStream, OperationUpdate, ProviderExt};
pub use faults::{Fault, FaultInjector, Faults};
pub use logs::{LogLine, LogStream};
pub use memory::{Clock, MemoryBackend, MemoryProvider, MemoryProviderBuilder};
pub use options::{
    CreateOptions, DeleteOptions, Deletion, EventsOptions, ListOptions, LogsOptions, StartOptions,
    StatusOptions, StopOptions,
};
pub use read_only::ReadOnlyProvider;
pub use registry::{ProviderFactory, ProviderSettings, Registry};
pub use traced::TracedProvider;
pub use transfer::{ByteReader, ByteStream, ConnectRequest, DownloadRequest, Duplex, UploadRequest};

use crate::workspace::{Operation, Workspace, WorkspaceSpec};
use crate::{Error, ErrorKind, ProviderName, Result, WorkspaceName};

/// A backend that has workspaces.
///
/// # The nine promises
///
/// Every implementation, wrapper and fake keeps them; the suite in `conformance` checks them.
///
/// 1. **Complete.** Create, delete, start, stop, status, list, and a way to run commands and to move bytes (the three
///    streams of [`exec`](Self::exec)). Each method is the full form; short forms are in [`ProviderExt`].
/// 2. **Idempotent.** The same create again gives the same workspace; another spec under the same name is
///    [`Conflict`](crate::ErrorKind::Conflict), never a silent reuse; only a create that failed because its repository
///    or revision does not exist may give its name to another spec. Deleting what is gone, stopping what is stopped and starting what is started
///    are successes.
/// 3. **Nothing leaks.** Everything is marked before or while it is made, so a create that was cut short at any step
///    is finished by the next create or removed by delete: no orphan and no duplicate.
/// 4. **The backend is the truth.** A new instance with no local state finds every workspace from its marks.
/// 5. **Absence is proved.** Only the backend's own "no such thing" becomes
///    [`NotFound`](crate::ErrorKind::NotFound). A refused login, an internal error or a timeout never does.
/// 6. **Every call ends.** Each has a timeout; waiting is cancelled by dropping the future, which leaves nothing
///    half-made that the next call does not repair; long operations report [`Event`]s.
/// 7. **Delete works from any state**, at once, without waiting for readiness, also during a create.
/// 8. **Data survives stop and start**, from the first cycle on; delete removes it and says so ([`Deletion`]).
/// 9. **What a backend cannot do is data** ([`Capabilities`]), not a surprise: it answers
///    [`Unsupported`](crate::ErrorKind::Unsupported).
///
/// # Concurrency
///
/// Calls may overlap, also from several processes. Of concurrent creates of one name and spec all get the same
/// workspace; with different specs one wins and the others get a conflict. A delete during a create ends the create
/// with [`Cancelled`](crate::ErrorKind::Cancelled).
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync + 'static {
    /// The name under which this instance answers; it stands in every [`Workspace`].
    fn name(&self) -> &ProviderName;

    /// What this backend can do here, for a workspace of the default isolation.
    fn capabilities(&self) -> &Capabilities;

    /// What a workspace made from `spec` can do, where that depends on it: a container cannot do all that a process
    /// can. By default [`capabilities`](Self::capabilities).
    fn capabilities_of(&self, spec: &WorkspaceSpec) -> Capabilities {
        let _same_for_all = spec;
        self.capabilities().clone()
    }

    /// Makes the workspace, checks its repository out, starts it and, with [`Capabilities::setup`], carries out what the
    /// project asks for.
    ///
    /// Answers with the workspace as it is if it exists with an equal spec. A stopped one stays stopped. After a set-up
    /// that failed, the same create goes on where it failed.
    ///
    /// # Errors
    /// `Conflict` (another spec), `RepositoryNotFound`, `RevisionNotFound`, `Unauthenticated`, `SetupFailed` (with the
    /// command's last output), `StorageFull`, `QuotaExceeded`, `ImageUnavailable`, `Unsupported`, `Cancelled` (deleted
    /// meanwhile), `Timeout`, `Unavailable`.
    async fn create_workspace(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        options: CreateOptions,
    ) -> Result<Workspace>;

    /// Ends everything that runs in the workspace and removes all of it, its data included.
    ///
    /// # Errors
    /// `Timeout`, `Unavailable`, `PermissionDenied`. Never `NotFound`: what is gone was deleted.
    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion>;

    /// Starts a stopped workspace with the data that it had and, with [`Capabilities::setup`], carries out what the
    /// project asks for at each start.
    ///
    /// # Errors
    /// `NotFound`, `InvalidState` (its creation was cut short), `SetupFailed`, `Timeout`, `Unavailable`.
    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace>;

    /// Ends everything that runs in the workspace and keeps its data. Returns when it is stopped.
    ///
    /// # Errors
    /// `NotFound`, `InvalidState` (its creation was cut short), `Timeout`, `Unavailable`.
    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace>;

    /// What is true of the workspace now. Never waits for another operation.
    ///
    /// # Errors
    /// `NotFound` only when the backend says so; `Timeout`, `Unavailable`, `PermissionDenied`.
    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace>;

    /// All workspaces of this backend that match, in any order. An item that is an error does not end the stream.
    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>>;

    /// Runs a command without a shell. Dropping the session ends the command and all that it started.
    ///
    /// Requires [`Capabilities::commands`].
    ///
    /// # Errors
    /// `NotFound`, `InvalidState` (not running), `CommandNotFound`, `InvalidInput` (an empty command, a working
    /// directory that does not exist), `PermissionDenied`, `Unsupported`, `Timeout`.
    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession>;

    /// Connects to a TCP port on which something in the workspace listens.
    ///
    /// Requires [`Capabilities::connect`].
    ///
    /// # Errors
    /// `NotFound`, `InvalidState` (not running), `Unavailable` (nothing listens there), `Unsupported`, `Timeout`.
    async fn connect(&self, name: &WorkspaceName, request: ConnectRequest) -> Result<ByteStream> {
        let _not_served = request;
        Err(unsupported(Operation::Connect, name))
    }

    /// Unpacks a tar archive in the workspace, all of it or nothing. Answers how many bytes it had.
    ///
    /// Requires [`Capabilities::copy`].
    ///
    /// # Errors
    /// `NotFound`, `InvalidState` (not running), `InvalidInput` (no archive), `PermissionDenied`, `StorageFull`,
    /// `Unavailable` (cut off), `Unsupported`, `Timeout`.
    async fn upload(&self, name: &WorkspaceName, request: UploadRequest) -> Result<u64> {
        let _not_served = request;
        Err(unsupported(Operation::Upload, name))
    }

    /// Packs a file or folder of the workspace as a tar archive whose one top entry has its name. The reader ends
    /// without an error only when all of it arrived.
    ///
    /// Requires [`Capabilities::copy`].
    ///
    /// # Errors
    /// `NotFound` (also of the path), `InvalidState` (not running), `PermissionDenied`, `Unsupported`, `Timeout`.
    async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
        let _not_served = request;
        Err(unsupported(Operation::Download, name))
    }

    /// What goes on in the workspace and what it uses, as its agent says.
    ///
    /// Requires [`Capabilities::agent`].
    ///
    /// # Errors
    /// `NotFound`, `InvalidState` (not running), `Unavailable`, `Unsupported`, `Timeout`.
    async fn agent_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<AgentStatus> {
        let _not_served = options;
        Err(unsupported(Operation::AgentStatus, name))
    }

    /// What the workspace's supervisor and its detached commands wrote, oldest first.
    ///
    /// Requires [`Capabilities::logs`].
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`, `Timeout`, `Unavailable`.
    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>>;

    /// What happened to the workspace, oldest first.
    ///
    /// Requires [`Capabilities::events`].
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`, `Timeout`, `Unavailable`.
    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>>;
}

fn unsupported(operation: Operation, name: &WorkspaceName) -> Error {
    Error::new(ErrorKind::Unsupported, "this backend cannot do it")
        .during(operation.as_str())
        .with("workspace", name)
}

/// Forwards every method of [`Provider`] through a pointer.
macro_rules! forward_provider {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<P: Provider + ?Sized> Provider for $pointer<P> {
            fn name(&self) -> &ProviderName {
                (**self).name()
            }

            fn capabilities(&self) -> &Capabilities {
                (**self).capabilities()
            }

            fn capabilities_of(&self, spec: &WorkspaceSpec) -> Capabilities {
                (**self).capabilities_of(spec)
            }

            async fn create_workspace(
                &self,
                name: &WorkspaceName,
                spec: &WorkspaceSpec,
                options: CreateOptions,
            ) -> Result<Workspace> {
                (**self).create_workspace(name, spec, options).await
            }

            async fn delete_workspace(
                &self,
                name: &WorkspaceName,
                options: DeleteOptions,
            ) -> Result<Deletion> {
                (**self).delete_workspace(name, options).await
            }

            async fn start_workspace(
                &self,
                name: &WorkspaceName,
                options: StartOptions,
            ) -> Result<Workspace> {
                (**self).start_workspace(name, options).await
            }

            async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
                (**self).stop_workspace(name, options).await
            }

            async fn workspace_status(
                &self,
                name: &WorkspaceName,
                options: StatusOptions,
            ) -> Result<Workspace> {
                (**self).workspace_status(name, options).await
            }

            fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
                (**self).list_workspaces(options)
            }

            async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
                (**self).exec(name, request).await
            }

            async fn connect(&self, name: &WorkspaceName, request: ConnectRequest) -> Result<ByteStream> {
                (**self).connect(name, request).await
            }

            async fn upload(&self, name: &WorkspaceName, request: UploadRequest) -> Result<u64> {
                (**self).upload(name, request).await
            }

            async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
                (**self).download(name, request).await
            }

            async fn agent_status(
                &self,
                name: &WorkspaceName,
                options: StatusOptions,
            ) -> Result<AgentStatus> {
                (**self).agent_status(name, options).await
            }

            async fn workspace_logs(
                &self,
                name: &WorkspaceName,
                options: LogsOptions,
            ) -> Result<BoxStream<'static, Result<LogLine>>> {
                (**self).workspace_logs(name, options).await
            }

            async fn workspace_events(
                &self,
                name: &WorkspaceName,
                options: EventsOptions,
            ) -> Result<BoxStream<'static, Result<Event>>> {
                (**self).workspace_events(name, options).await
            }
        }
    };
}

forward_provider!(Arc);
forward_provider!(Box);
