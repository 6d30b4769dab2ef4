//! What the wrappers add, and that they add nothing else.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use kled_core::provider::{
    CreateOptions, DeadlineProvider, EventsOptions, ExecRequest, Fault, FaultInjector, Faults, ListOptions,
    LogsOptions, MemoryBackend, MemoryProvider, Provider, ProviderExt, ReadOnlyProvider, StatusOptions,
};
use kled_core::workspace::{Operation, WorkspaceSpec};
use kled_core::{ErrorKind, Result, WorkspaceName};

/// Lets every operation hang.
#[derive(Debug)]
struct Stuck;

impl FaultInjector for Stuck {
    fn fault(&self, _: Operation, _: &str) -> Fault {
        Fault::Hang
    }
}

fn demo() -> (WorkspaceName, WorkspaceSpec) {
    (WorkspaceName::new("demo").unwrap(), WorkspaceSpec::builder("https://example.com/app").build().unwrap())
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_provider_that_would_wait_longer() {
    let stuck = MemoryProvider::builder().faults(Faults::injected(Arc::new(Stuck))).build();
    let provider = DeadlineProvider::new(stuck, Duration::from_secs(1));
    let (name, spec) = demo();
    let begun = tokio::time::Instant::now();
    // The options ask for minutes; the wrapper allows one second to each of these.
    let ends = [
        kind(provider.create_workspace(&name, &spec, CreateOptions::default()).await),
        kind(provider.start(&name).await),
        kind(provider.stop(&name).await),
        kind(provider.status(&name).await),
        kind(provider.list().await),
        kind(provider.exec(&name, ExecRequest::new(["true"])).await),
        kind(provider.workspace_logs(&name, LogsOptions::default()).await),
        kind(provider.workspace_events(&name, EventsOptions::default()).await),
        kind(provider.delete(&name).await),
    ];
    assert_eq!(ends, [Some(ErrorKind::Timeout); 9]);
    assert_eq!(begun.elapsed().as_secs(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_timeout_of_a_call_counts() {
    let stuck = MemoryProvider::builder().faults(Faults::injected(Arc::new(Stuck))).build();
    let provider = DeadlineProvider::new(stuck, Duration::from_secs(60));
    let begun = tokio::time::Instant::now();
    let options = StatusOptions { timeout: Duration::from_millis(200) };
    assert_eq!(kind(provider.workspace_status(&demo().0, options).await), Some(ErrorKind::Timeout));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn read_only_refuses_every_change_and_lets_reading_through() {
    let backend = MemoryBackend::default();
    let (name, spec) = demo();
    let writer = MemoryProvider::builder().backend(backend.clone()).build();
    let created = writer.create(&name, &spec).await.unwrap();
    let held = backend.held(&name);

    let provider = ReadOnlyProvider::new(writer);
    let refused = [
        kind(provider.create(&WorkspaceName::new("other").unwrap(), &spec).await),
        kind(provider.create(&name, &spec).await),
        kind(provider.start(&name).await),
        kind(provider.stop(&name).await),
        kind(provider.exec(&name, ExecRequest::new(["true"])).await),
        kind(provider.delete(&name).await),
    ];
    assert_eq!(refused, [Some(ErrorKind::PermissionDenied); 6]);
    assert!(!provider.capabilities().commands.exec);
    assert_eq!(backend.held(&name), held);

    assert_eq!(provider.status(&name).await.unwrap(), created);
    let listed: Vec<_> = provider.list_workspaces(ListOptions::default()).try_collect().await.unwrap();
    assert_eq!(listed, [created]);
    let lines = provider.workspace_logs(&name, LogsOptions::default()).await.unwrap();
    let lines: Vec<_> = lines.try_collect().await.unwrap();
    assert_eq!(lines.iter().map(|line| line.line.as_str()).collect::<Vec<_>>(), ["starting", "started"]);
    let events = provider.workspace_events(&name, EventsOptions::default()).await.unwrap();
    assert_eq!(events.try_collect::<Vec<_>>().await.unwrap().len(), 3);
}
