//! Short forms of the operations.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{Stream, TryStreamExt};

use super::{
    CreateOptions, DeleteOptions, Deletion, Event, EventStream, ExecRequest, ListOptions, Output, Progress,
    Provider, StartOptions, StatusOptions, StopOptions,
};
use crate::workspace::{Workspace, WorkspaceSpec};
use crate::{Result, WorkspaceName};

/// The most that [`ProviderExt::run`] takes of each output: 16 MiB.
const OUTPUT_MAX: usize = 16 << 20;

/// How many events wait unread in an [`OperationStream`].
const EVENTS_MAX: usize = 64;

/// Short forms for every [`Provider`].
#[async_trait]
pub trait ProviderExt: Provider {
    /// [`Provider::create_workspace`] with default options.
    async fn create(&self, name: &WorkspaceName, spec: &WorkspaceSpec) -> Result<Workspace> {
        self.create_workspace(name, spec, CreateOptions::default()).await
    }

    /// [`Provider::create_workspace`] as a stream of its events that ends with its result.
    ///
    /// ```
    /// use futures::StreamExt;
    /// use kled_core::WorkspaceName;
    /// use kled_core::provider::{MemoryProvider, OperationUpdate, ProviderExt};
    /// use kled_core::workspace::WorkspaceSpec;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kled_core::Result<()> {
    /// let provider = MemoryProvider::new();
    /// let name = WorkspaceName::new("demo")?;
    /// let spec = WorkspaceSpec::builder("https://github.com/org/app").build()?;
    ///
    /// let mut updates = provider.create_with_events(&name, &spec);
    /// while let Some(update) = updates.next().await {
    ///     match update {
    ///         OperationUpdate::Event(event) => println!("{}", event.message),
    ///         OperationUpdate::Done(result) => assert!(result?.status.is_running()),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    fn create_with_events<'a>(
        &'a self,
        name: &'a WorkspaceName,
        spec: &'a WorkspaceSpec,
    ) -> OperationStream<'a, Workspace> {
        let (progress, events) = Progress::channel(EVENTS_MAX);
        let options = CreateOptions { progress, ..CreateOptions::default() };
        OperationStream { events, future: Some(self.create_workspace(name, spec, options)), result: None }
    }

    /// [`Provider::delete_workspace`] with default options.
    async fn delete(&self, name: &WorkspaceName) -> Result<Deletion> {
        self.delete_workspace(name, DeleteOptions::default()).await
    }

    /// [`Provider::start_workspace`] with default options.
    async fn start(&self, name: &WorkspaceName) -> Result<Workspace> {
        self.start_workspace(name, StartOptions::default()).await
    }

    /// [`Provider::stop_workspace`] with default options.
    async fn stop(&self, name: &WorkspaceName) -> Result<Workspace> {
        self.stop_workspace(name, StopOptions::default()).await
    }

    /// [`Provider::workspace_status`] with default options.
    async fn status(&self, name: &WorkspaceName) -> Result<Workspace> {
        self.workspace_status(name, StatusOptions::default()).await
    }

    /// All workspaces, ordered by name. Fails when one of them cannot be read.
    async fn list(&self) -> Result<Vec<Workspace>> {
        let mut workspaces: Vec<_> = self.list_workspaces(ListOptions::default()).try_collect().await?;
        workspaces.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(workspaces)
    }

    /// Runs a command to its end and collects what it wrote, at most 16 MiB of each stream.
    async fn run<I>(&self, name: &WorkspaceName, arguments: I) -> Result<Output>
    where
        I: IntoIterator + Send,
        I::Item: Into<String>,
    {
        let request = ExecRequest::new(arguments);
        self.exec(name, request).await?.output(OUTPUT_MAX).await
    }
}

impl<P: Provider + ?Sized> ProviderExt for P {}

/// An item of an [`OperationStream`].
#[derive(Debug)]
pub enum OperationUpdate<T> {
    /// Something happened.
    Event(Event),
    /// The operation ended; the last item.
    Done(Result<T>),
}

/// A running operation: its events, then its result. Dropping it cancels the operation.
pub struct OperationStream<'a, T> {
    events: EventStream,
    future: Option<BoxFuture<'a, Result<T>>>,
    result: Option<Result<T>>,
}

impl<T: Unpin> Stream for OperationStream<'_, T> {
    type Item = OperationUpdate<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(future) = &mut this.future
            && let Poll::Ready(result) = future.as_mut().poll(context)
        {
            this.result = Some(result);
            // Drops the sender with the options, so the events end below.
            this.future = None;
        }
        match Pin::new(&mut this.events).poll_next(context) {
            Poll::Ready(Some(event)) => Poll::Ready(Some(OperationUpdate::Event(event))),
            // A provider may keep its sender for longer than the call: the result does not wait for that.
            Poll::Ready(None) | Poll::Pending if this.future.is_none() => {
                Poll::Ready(this.result.take().map(OperationUpdate::Done))
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> std::fmt::Debug for OperationStream<'_, T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OperationStream")
            .field("done", &self.future.is_none())
            .finish_non_exhaustive()
    }
}
