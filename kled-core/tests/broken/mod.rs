//! Providers that break one promise each.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use kled_core::provider::conformance::{Fixture, Project};
use kled_core::provider::{
    Capabilities, CreateOptions, DeleteOptions, Deletion, Event, EventsOptions, ExecRequest, ExecSession,
    ExitStatus, Faults, ListOptions, LogLine, LogsOptions, Progress, Provider, ProviderExt, StartOptions,
    StatusOptions, StopOptions,
};
use kled_core::workspace::{Condition, Workspace, WorkspaceSpec, WorkspaceStatus};
use kled_core::{Error, ErrorKind, ProviderName, Result, Secret, SecretReference, WorkspaceName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{MemoryFixture, SECRET};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    TakesFailureForAbsence,
    ReusesUnderAnotherSpec,
    LosesDataAtStart,
    LeavesSomethingAtDelete,
    SaysNothingOfWhatItRemoved,
    IgnoresTimeouts,
    StartsAtCreate,
    CannotDeleteWhatIsGone,
    SplitsArguments,
    ListsNothing,
    IgnoresLabels,
    RefusesWhatWasInterrupted,
    LeaksWhenKilled,
    DeleteWaitsForCreate,
    ReportsNothing,
    ReportsAtTheEnd,
    MisjudgesFollowedStreams,
    ShowsSecrets,
    CutsOutput,
    LosesExitCodes,
    ForgetsWithItsHandle,
    AcceptsWhatItDenies,
    RunsCommandsWhenStopped,
    ForgetsTheEnvironment,
    LeavesTheSetupOut,
    SetsUpAtCreationAlone,
}

/// What the backend of a broken provider has besides the workspaces: names of leftovers.
type Leftovers = Arc<Mutex<BTreeSet<WorkspaceName>>>;

pub(crate) struct BrokenFixture {
    flaw: Flaw,
    inner: Arc<MemoryFixture>,
    leftovers: Leftovers,
}

impl BrokenFixture {
    pub(crate) fn new(flaw: Flaw) -> Arc<Self> {
        Arc::new(Self {
            flaw,
            inner: MemoryFixture::new(|inner| Arc::new(inner)),
            leftovers: Leftovers::default(),
        })
    }
}

#[async_trait]
impl Fixture for BrokenFixture {
    async fn provider(&self, faults: Faults) -> Result<Arc<dyn Provider>> {
        let inner = self.inner.provider(faults).await?;
        let (known, leftovers) = (Mutex::default(), Arc::clone(&self.leftovers));
        Ok(Arc::new(Broken { flaw: self.flaw, inner, known, leftovers }))
    }

    fn spec(&self) -> WorkspaceSpec {
        self.inner.spec()
    }

    fn other_spec(&self) -> WorkspaceSpec {
        self.inner.other_spec()
    }

    async fn residue(&self, name: &WorkspaceName) -> Result<Vec<String>> {
        let mut residue = self.inner.residue(name).await?;
        if self.leftovers.lock().unwrap().contains(name) {
            residue.push(format!("leftover of {name}"));
        }
        Ok(residue)
    }

    fn project_spec(&self, project: Project) -> Option<WorkspaceSpec> {
        self.inner.project_spec(project)
    }

    fn secret(&self) -> Option<(SecretReference, Secret)> {
        self.inner.secret()
    }

    fn patience(&self) -> Duration {
        // Flaws that make a call hang are found after this time.
        Duration::from_secs(2)
    }
}

#[derive(Debug)]
struct Broken {
    flaw: Flaw,
    inner: Arc<dyn Provider>,
    known: Mutex<BTreeSet<WorkspaceName>>,
    leftovers: Leftovers,
}

impl Broken {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    async fn state(&self, name: &WorkspaceName) -> Option<WorkspaceStatus> {
        self.inner.status(name).await.ok().map(|workspace| workspace.status)
    }

    /// What the steps of the project would have written.
    async fn write_steps(&self, name: &WorkspaceName) -> Result<()> {
        let tee = ExecRequest::new(["tee", "conformance-steps"]).piped_stdin();
        let mut session = self.inner.exec(name, tee).await?;
        session.stdin.take().unwrap().write_all(b"created from the project\nstarted\n").await.unwrap();
        session.output(1024).await.map(drop)
    }

    fn leak(&self, name: &WorkspaceName) {
        self.leftovers.lock().unwrap().insert(name.clone());
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[async_trait]
impl Provider for Broken {
    fn name(&self) -> &ProviderName {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn capabilities_of(&self, spec: &WorkspaceSpec) -> Capabilities {
        self.inner.capabilities_of(spec)
    }

    async fn create_workspace(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        mut options: CreateOptions,
    ) -> Result<Workspace> {
        self.known.lock().unwrap().insert(name.clone());
        let state = self.state(name).await;
        match self.flaw {
            Flaw::RefusesWhatWasInterrupted if matches!(state, Some(WorkspaceStatus::Interrupted { .. })) => {
                return Err(Error::new(ErrorKind::InvalidState, "half-made"));
            }
            Flaw::StartsAtCreate if matches!(state, Some(WorkspaceStatus::Stopped { .. })) => {
                return self.inner.start(name).await;
            }
            Flaw::IgnoresTimeouts => options.timeout = HOUR,
            Flaw::ReportsNothing => options.progress = Progress::none(),
            Flaw::LeaksWhenKilled => self.leak(name),
            _ => {}
        }
        if self.has(Flaw::ReportsAtTheEnd) {
            let (progress, mut events) = Progress::channel(64);
            let reader = std::mem::replace(&mut options.progress, progress);
            let result = self.inner.create_workspace(name, spec, options).await;
            while let Some(event) = events.next().await {
                reader.report(event);
            }
            return result;
        }
        let mut result = self.inner.create_workspace(name, spec, options).await;
        if self.has(Flaw::LeaksWhenKilled) {
            self.leftovers.lock().unwrap().remove(name);
        }
        if self.has(Flaw::SetsUpAtCreationAlone) {
            self.write_steps(name).await?;
        }
        if self.has(Flaw::ReusesUnderAnotherSpec) && result.is_err() {
            result = self.inner.status(name).await;
        }
        result
    }

    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        while self.has(Flaw::DeleteWaitsForCreate)
            && matches!(self.state(name).await, Some(WorkspaceStatus::Creating { .. }))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if self.has(Flaw::CannotDeleteWhatIsGone) {
            self.inner.status(name).await?;
        }
        let mut deletion = self.inner.delete_workspace(name, options).await?;
        match self.flaw {
            Flaw::LeavesSomethingAtDelete => self.leak(name),
            Flaw::SaysNothingOfWhatItRemoved => deletion.removed.clear(),
            _ => {}
        }
        Ok(deletion)
    }

    async fn start_workspace(&self, name: &WorkspaceName, mut options: StartOptions) -> Result<Workspace> {
        if self.has(Flaw::IgnoresTimeouts) {
            options.timeout = HOUR;
        }
        if self.has(Flaw::LosesDataAtStart) {
            let spec = self.inner.status(name).await?.spec;
            self.inner.delete(name).await?;
            return self.inner.create(name, &spec).await;
        }
        self.inner.start_workspace(name, options).await
    }

    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        self.inner.stop_workspace(name, options).await
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        if self.has(Flaw::ForgetsWithItsHandle) && !self.known.lock().unwrap().contains(name) {
            return Err(Error::workspace_not_found(name));
        }
        let mut workspace = match self.inner.workspace_status(name, options).await {
            Err(_) if self.has(Flaw::TakesFailureForAbsence) => return Err(Error::workspace_not_found(name)),
            result => result?,
        };
        if self.has(Flaw::ShowsSecrets) {
            workspace.conditions.push(Condition::new("Secret", true, "Resolved", SECRET));
        }
        Ok(workspace)
    }

    fn list_workspaces(&self, mut options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        match self.flaw {
            Flaw::ListsNothing => return futures::stream::empty().boxed(),
            Flaw::IgnoresLabels => options.labels.clear(),
            _ => {}
        }
        self.inner.list_workspaces(options)
    }

    async fn exec(&self, name: &WorkspaceName, mut request: ExecRequest) -> Result<ExecSession> {
        match self.flaw {
            Flaw::SplitsArguments => {
                let line = request.command.arguments.join(" ");
                request.command.arguments = line.split_whitespace().map(Into::into).collect();
            }
            Flaw::AcceptsWhatItDenies => {
                request.command.terminal = None;
                request.command.detached = false;
            }
            Flaw::RunsCommandsWhenStopped => {
                self.inner.start(name).await?;
            }
            Flaw::ForgetsTheEnvironment => request.command.environment.0.clear(),
            _ => {}
        }
        let mut session = self.inner.exec(name, request).await?;
        let control = Box::new(Forgotten);
        let empty = || Box::pin(tokio::io::empty());
        let stdin = session.stdin.take();
        let stdout = std::mem::replace(&mut session.stdout, empty());
        let stderr = std::mem::replace(&mut session.stderr, empty());
        match self.flaw {
            Flaw::CutsOutput => {
                let stdout = Box::pin(stdout.take(1 << 20));
                let exit = Box::pin(async move { session.wait().await });
                Ok(ExecSession::new(stdin, stdout, stderr, control, exit))
            }
            Flaw::LosesExitCodes => {
                let exit = Box::pin(async move { session.wait().await.map(|_| ExitStatus::Exited(0)) });
                Ok(ExecSession::new(stdin, stdout, stderr, control, exit))
            }
            _ => {
                (session.stdin, session.stdout, session.stderr) = (stdin, stdout, stderr);
                Ok(session)
            }
        }
    }

    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        if self.has(Flaw::MisjudgesFollowedStreams) && options.follow {
            // A stream that ends never, which is as wrong as one that ends too early.
            return Ok(futures::stream::pending().boxed());
        }
        self.inner.workspace_logs(name, options).await
    }

    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        mut options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        if self.has(Flaw::MisjudgesFollowedStreams) {
            options.follow = false;
        }
        self.inner.workspace_events(name, options).await
    }
}

/// The control of a session whose streams were changed; built-in programs have none.
#[derive(Debug)]
struct Forgotten;

#[async_trait]
impl kled_core::provider::CommandControl for Forgotten {
    async fn resize(&self, _: kled_core::provider::TerminalSize) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "no terminal"))
    }

    async fn signal(&self, _: kled_core::provider::Signal) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "no signals"))
    }
}
