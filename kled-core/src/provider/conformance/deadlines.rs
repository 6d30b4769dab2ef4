//! Calls that fail or hang, and times that pass.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::disturbance::{Break, Disturbance, at_step, kill, perform};
use super::trial::{Failure, Outcome, Trial, ensure, equal, explained, runs};
use super::{Case, case};
use crate::provider::{Provider, ProviderExt};
use crate::workspace::{Operation, StopReason, WorkspaceSpec, WorkspaceStatus};
use crate::{ErrorKind, WorkspaceName};

pub(super) const CASES: &[Case] = &[
    case!(
        "failure-is-not-absence",
        5,
        failure_is_not_absence,
        [Faults],
        "a failed look-up keeps its kind and is never not-found"
    ),
    case!(
        "deadlines-hold",
        6,
        deadlines_hold,
        [Faults],
        "every operation that hangs ends at its timeout and can be repeated"
    ),
    case!(
        "create-deadline-holds-at-each-step",
        6,
        create_deadline,
        [Faults],
        "a create that hangs at any step ends at its timeout and can be repeated"
    ),
    case!(
        "status-does-not-wait",
        6,
        status_does_not_wait,
        [Faults],
        "status and list answer while a create hangs"
    ),
    case!("idle-timeout-stops", 9, idle_timeout, [IdleTimeout], "an idle workspace is stopped and says why"),
    case!(
        "time-to-live-deletes",
        9,
        time_to_live,
        [TimeToLive],
        "a workspace is deleted at the end of its time to live"
    ),
];

/// Every operation, in an order in which each finds the workspace running.
const OPERATIONS: [Operation; 9] = [
    Operation::Status,
    Operation::List,
    Operation::Exec,
    Operation::Logs,
    Operation::Events,
    Operation::Create,
    Operation::Start,
    Operation::Stop,
    Operation::Delete,
];

/// The timeout of a call that is made to hang.
const SHORT: Duration = Duration::from_millis(300);

/// How much later than its timeout a call may end on a busy machine.
const LATE_MAX: Duration = Duration::from_secs(10);

/// How long a workspace may live or idle in the cases of these times.
const BRIEF: Duration = Duration::from_secs(2);

fn offers(trial: &Trial, provider: &Arc<dyn Provider>, operation: Operation) -> bool {
    let capabilities = provider.capabilities_of(&trial.fixture.spec());
    match operation {
        Operation::Exec => capabilities.commands.exec,
        Operation::Logs => capabilities.logs,
        Operation::Events => capabilities.events,
        _ => true,
    }
}

async fn failure_is_not_absence(trial: &Trial) -> Outcome {
    let (name, _, created) = trial.running().await?;
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::Unauthenticated,
        ErrorKind::PermissionDenied,
        ErrorKind::Internal,
    ];
    for operation in OPERATIONS {
        if !offers(trial, &trial.provider().await?, operation) {
            continue;
        }
        for kind in kinds {
            let disturbance = Disturbance::new(operation, 0, Break::Fail(kind));
            let provider = trial.provider_with(disturbance.faults()).await?;
            let call = perform(provider, operation, name.clone(), created.spec.clone(), None);
            let what = format!("{operation} whose first step answers {kind}");
            trial.fails(what, &[kind], call).await?;
        }
    }
    let status = trial.ok("status", trial.provider().await?.status(&name)).await?;
    equal("the identity after failures", &created.id, &status.id)
}

async fn deadlines_hold(trial: &Trial) -> Outcome {
    let (name, _, created) = trial.running().await?;
    for operation in OPERATIONS {
        if !offers(trial, &trial.provider().await?, operation) {
            continue;
        }
        times_out(trial, operation, 0, SHORT, &name, &created.spec).await?;
        let call = perform(trial.provider().await?, operation, name.clone(), created.spec.clone(), None);
        trial.ok(format!("{operation} after one that timed out"), call).await?;
    }
    trial.nothing_left("delete, after one that timed out", &name).await
}

/// Lets an operation hang and proves that its timeout ends it.
async fn times_out(
    trial: &Trial,
    operation: Operation,
    at: usize,
    timeout: Duration,
    name: &WorkspaceName,
    spec: &WorkspaceSpec,
) -> Outcome {
    let provider = trial.provider_with(Disturbance::new(operation, at, Break::Hang).faults()).await?;
    let begun = Instant::now();
    let call = perform(provider, operation, name.clone(), spec.clone(), Some(timeout));
    trial.fails(format!("{operation} that hangs"), &[ErrorKind::Timeout], call).await?;
    let took = begun.elapsed();
    let allowed = timeout + LATE_MAX;
    ensure(
        took < allowed,
        format_args!("{operation} that hangs"),
        format_args!("an end within {allowed:?}"),
        format_args!("{took:?}"),
    )
}

async fn create_deadline(trial: &Trial) -> Outcome {
    let name = trial.name()?;
    let recorded = trial.record(Operation::Create, &name).await?;
    trial.delete_leaves_nothing(&name).await?;
    // Long enough to come to the step even on a machine that has got busier.
    let timeout = recorded.took * 2 + SHORT;
    for number in 0..recorded.steps.len() {
        let name = trial.name()?;
        let attempt = async {
            times_out(trial, Operation::Create, number, timeout, &name, &trial.fixture.spec()).await?;
            trial.create_makes_one(&name, &trial.fixture.spec()).await?;
            trial.delete_leaves_nothing(&name).await
        };
        attempt.await.map_err(at_step(Operation::Create, "timed out", number, &recorded.steps))?;
    }
    Ok(())
}

async fn status_does_not_wait(trial: &Trial) -> Outcome {
    let name = trial.name()?;
    let steps = trial.record(Operation::Create, &name).await?.steps;
    trial.delete_leaves_nothing(&name).await?;
    let name = trial.name()?;
    let last = steps.len() - 1;
    let hanging = trial.begin(&Disturbance::new(Operation::Create, last, Break::Hang), &name).await?;
    let provider = trial.provider().await?;
    let status = trial.ends("status while a create hangs", provider.status(&name)).await?;
    let listed = trial.ok("list while a create hangs", provider.list()).await;
    kill(hanging).await;
    listed?;
    match status {
        Ok(_) => Ok(()),
        Err(error) => equal("status while a create hangs", &ErrorKind::NotFound, &error.kind()),
    }
}

async fn idle_timeout(trial: &Trial) -> Outcome {
    let mut spec = trial.fixture.spec();
    spec.idle_timeout = Some(BRIEF);
    let (name, provider, created) = trial.running_with(&spec).await?;
    let (name, stopped) = (&name, &provider);
    let look = || async move {
        let status = trial.ok("status", stopped.status(name)).await?.status;
        Ok(matches!(status, WorkspaceStatus::Stopped { reason: StopReason::Idle, .. }))
    };
    trial.becomes_true("an idle workspace", "stopped for being idle", look).await?;
    let started = trial.ok("start", provider.start(name)).await?;
    runs("start after it was idle", &started, created.id)
}

async fn time_to_live(trial: &Trial) -> Outcome {
    // It counts from the beginning of the creation, which takes its time: measured first.
    let begun = Instant::now();
    trial.running().await?;
    let mut spec = trial.fixture.spec();
    spec.time_to_live = Some(BRIEF + 3 * begun.elapsed());
    let (name, provider, _) = trial.running_with(&spec).await?;
    let (name, provider) = (&name, &provider);
    let look = || async move {
        match trial.ends("status", provider.status(name)).await? {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(Failure::new("status", "success or not-found", explained(&error))),
        }
    };
    trial.becomes_true("a workspace past its time to live", "deleted", look).await?;
    // The name is free at once; no call waits for the removal of the data.
    trial.nothing_left_soon("the end of a time to live", name).await
}
