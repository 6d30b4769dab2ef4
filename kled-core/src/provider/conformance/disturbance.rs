//! Faults that the suite drives: noting the steps of an operation, and breaking it at one of them.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::trial::{Failure, Outcome, Trial, ensure};
use crate::provider::{
    ConnectRequest, CreateOptions, DeleteOptions, DownloadRequest, EventsOptions, ExecRequest, Fault,
    FaultInjector, Faults, ListOptions, LogsOptions, Provider, StartOptions, StatusOptions, StopOptions,
    UploadRequest,
};
use crate::workspace::{Operation, WorkspaceSpec};
use crate::{Error, ErrorKind, Result, WorkspaceName};

/// What is to happen at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// Nothing; only the moment is of interest.
    Nothing,
    /// It fails with an error of this kind.
    Fail(ErrorKind),
    /// It never ends.
    Hang,
}

/// Notes each step of one operation and breaks one of them.
#[derive(Debug)]
pub(super) struct Disturbance {
    operation: Operation,
    at: usize,
    what: Break,
    asked: AtomicUsize,
    steps: Mutex<Vec<String>>,
    reached: Notify,
}

impl Disturbance {
    /// Breaks `operation` when it asks for the `at`-th time, counted from 0.
    pub(super) fn new(operation: Operation, at: usize, what: Break) -> Arc<Self> {
        let (asked, steps, reached) = (AtomicUsize::new(0), Mutex::default(), Notify::new());
        Arc::new(Self { operation, at, what, asked, steps, reached })
    }

    pub(super) fn faults(self: &Arc<Self>) -> Faults {
        Faults::injected(Arc::clone(self) as Arc<dyn FaultInjector>)
    }

    /// Waits until the step is asked for.
    pub(super) async fn reached(&self) {
        self.reached.notified().await;
    }

    fn steps(&self) -> Vec<String> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl FaultInjector for Disturbance {
    fn fault(&self, operation: Operation, step: &str) -> Fault {
        if operation != self.operation {
            return Fault::None;
        }
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step.to_owned());
        if number < self.at {
            return Fault::None;
        }
        if number == self.at {
            self.reached.notify_one();
        }
        match self.what {
            Break::Nothing => Fault::None,
            // From there on every step fails: a provider that tries again does not get around it.
            Break::Fail(kind) => Fault::Fail(Error::new(kind, "fault of the conformance suite")),
            Break::Hang if number == self.at => Fault::Hang,
            Break::Hang => Fault::None,
        }
    }
}

/// The steps of an operation that nothing disturbed, and how long it took.
pub(super) struct Recorded {
    pub(super) steps: Vec<String>,
    pub(super) took: Duration,
}

/// Everything that can be asked of a workspace, as one call.
pub(super) fn perform(
    provider: Arc<dyn Provider>,
    operation: Operation,
    name: WorkspaceName,
    spec: WorkspaceSpec,
    timeout: Option<Duration>,
) -> BoxFuture<'static, Result<()>> {
    /// The default options of an operation with another timeout where one is asked for.
    macro_rules! options {
        ($options:ident) => {{
            let mut options = $options::default();
            options.timeout = timeout.unwrap_or(options.timeout);
            options
        }};
    }
    async move {
        match operation {
            Operation::Create => {
                provider.create_workspace(&name, &spec, options!(CreateOptions)).await.map(drop)
            }
            Operation::Start => provider.start_workspace(&name, options!(StartOptions)).await.map(drop),
            Operation::Stop => provider.stop_workspace(&name, options!(StopOptions)).await.map(drop),
            Operation::Delete => provider.delete_workspace(&name, options!(DeleteOptions)).await.map(drop),
            Operation::Status => provider.workspace_status(&name, options!(StatusOptions)).await.map(drop),
            Operation::List => {
                provider
                    .list_workspaces(options!(ListOptions))
                    .try_for_each(|_| std::future::ready(Ok(())))
                    .await
            }
            Operation::Exec => {
                let mut request = ExecRequest::new(["echo", "ready"]);
                request.start_timeout = timeout.unwrap_or(request.start_timeout);
                provider.exec(&name, request).await?.output(1024).await.map(drop)
            }
            Operation::Connect => {
                let mut request = ConnectRequest::new(NonZeroU16::MIN);
                request.timeout = timeout.unwrap_or(request.timeout);
                provider.connect(&name, request).await.map(drop)
            }
            Operation::Upload => {
                let mut request = UploadRequest::new(".", tokio::io::empty());
                request.timeout = timeout.unwrap_or(request.timeout);
                provider.upload(&name, request).await.map(drop)
            }
            Operation::Download => {
                let mut request = DownloadRequest::new(".");
                request.timeout = timeout.unwrap_or(request.timeout);
                provider.download(&name, request).await.map(drop)
            }
            Operation::AgentStatus => provider.agent_status(&name, options!(StatusOptions)).await.map(drop),
            Operation::Logs => {
                let mut lines = provider.workspace_logs(&name, options!(LogsOptions)).await?;
                lines.next().await.transpose().map(drop)
            }
            Operation::Events => {
                let mut events = provider.workspace_events(&name, options!(EventsOptions)).await?;
                events.next().await.transpose().map(drop)
            }
        }
    }
    .boxed()
}

impl Trial {
    /// Runs an operation undisturbed and notes its steps. `prepare` brings a new workspace into the state for it.
    pub(super) async fn record(&self, operation: Operation, name: &WorkspaceName) -> Outcome<Recorded> {
        self.record_of(operation, name, &self.fixture.spec()).await
    }

    /// The same with another spec for a create.
    pub(super) async fn record_of(
        &self,
        operation: Operation,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
    ) -> Outcome<Recorded> {
        let notes = Disturbance::new(operation, usize::MAX, Break::Nothing);
        let provider = self.provider_with(notes.faults()).await?;
        let begun = Instant::now();
        let call = perform(provider, operation, name.clone(), spec.clone(), None);
        self.ok(format!("{operation} without faults"), call).await?;
        let (steps, took) = (notes.steps(), begun.elapsed());
        ensure(!steps.is_empty(), operation, "faults asked at its steps", "none asked")?;
        Ok(Recorded { steps, took })
    }

    /// Starts an operation as another process would and waits until it is at the disturbed step, or at its end.
    pub(super) async fn begin(
        &self,
        disturbance: &Arc<Disturbance>,
        name: &WorkspaceName,
    ) -> Outcome<JoinHandle<Result<()>>> {
        self.begin_of(disturbance, name, &self.fixture.spec()).await
    }

    /// The same with another spec for a create.
    pub(super) async fn begin_of(
        &self,
        disturbance: &Arc<Disturbance>,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
    ) -> Outcome<JoinHandle<Result<()>>> {
        let provider = self.provider_with(disturbance.faults()).await?;
        let operation = disturbance.operation;
        let call = perform(provider, operation, name.clone(), spec.clone(), None);
        let (ended, mut is_ended) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let result = call.await;
            // The trial may have gone on already.
            let _unheard = ended.send(());
            result
        });
        let moment = futures::future::select(Box::pin(disturbance.reached()), &mut is_ended);
        self.ends(format!("{operation} on its way to the step"), moment).await?;
        Ok(task)
    }

    /// Lets an operation hang at a step and drops it there, as the end of its process would.
    pub(super) async fn kill_at(&self, operation: Operation, at: usize, name: &WorkspaceName) -> Outcome {
        let task = self.begin(&Disturbance::new(operation, at, Break::Hang), name).await?;
        kill(task).await;
        Ok(())
    }

    /// Lets an operation fail at a step.
    pub(super) async fn fail_at(&self, operation: Operation, at: usize, name: &WorkspaceName) -> Outcome {
        let disturbance = Disturbance::new(operation, at, Break::Fail(ErrorKind::Unavailable));
        let provider = self.provider_with(disturbance.faults()).await?;
        let call = perform(provider, operation, name.clone(), self.fixture.spec(), None);
        self.fails(operation, &[ErrorKind::Unavailable], call).await?;
        Ok(())
    }
}

/// Drops the future of a task and waits until that is done.
pub(super) async fn kill(task: JoinHandle<Result<()>>) {
    task.abort();
    // It is cancelled, or it was done before.
    let _cancelled_or_done = task.await;
}

/// Names the moment in a failure.
pub(super) fn at_step(
    operation: Operation,
    what: &str,
    number: usize,
    steps: &[String],
) -> impl FnOnce(Failure) -> Failure {
    let step = steps.get(number).cloned().unwrap_or_default();
    let (number, total, what) = (number + 1, steps.len(), what.to_owned());
    move |failure| failure.at(format_args!("{operation} {what} at step {number} of {total} ({step})"))
}
