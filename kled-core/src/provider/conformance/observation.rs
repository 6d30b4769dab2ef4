//! What a provider tells: lists, events, logs, failures, deadlines; and what it keeps to itself.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::disturbance::{Break, Disturbance, at_step, perform};
use super::trial::{Failure, Outcome, Trial, ensure, equal};
use super::{Case, case};
use crate::provider::{
    CreateOptions, Event, EventsOptions, ListOptions, LogsOptions, Progress, Provider, ProviderExt,
};
use crate::workspace::{Operation, StopReason, WorkspaceSpec, WorkspaceStatus};
use crate::{ErrorKind, LabelKey, LabelValue, VariableName, WorkspaceName};

pub(super) const CASES: &[Case] = &[
    case!(
        "list-finds-all-and-filters",
        1,
        list_filters,
        [],
        "list finds every workspace and filters by label"
    ),
    case!(
        "create-reports-its-events",
        6,
        create_events,
        [],
        "the events of a create arrive while it runs, and end"
    ),
    case!("events-are-kept", 6, events_kept, [Events], "what was reported can be read afterwards"),
    case!("logs-can-be-read", 1, logs_read, [Logs], "the log can be read to its end, and its tail alone"),
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
    case!(
        "secrets-stay-hidden",
        4,
        secrets_hidden,
        [Exec, Secret],
        "commands see secrets, nothing else shows them"
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

fn offers(provider: &Arc<dyn Provider>, operation: Operation) -> bool {
    let capabilities = provider.capabilities();
    match operation {
        Operation::Exec => capabilities.commands.exec,
        Operation::Logs => capabilities.logs,
        Operation::Events => capabilities.events,
        _ => true,
    }
}

fn label(key: &str, value: &str) -> Outcome<(LabelKey, LabelValue)> {
    let pair = || Ok((LabelKey::new(key)?, LabelValue::new(value)?));
    pair().map_err(|error: crate::Error| Failure::new("making a label", "success", error))
}

async fn list_filters(trial: &Trial) -> Outcome {
    let (key, red) = label("conformance.kled.io/colour", "red")?;
    let (_, blue) = label(key.as_str(), "blue")?;
    let mut made = Vec::new();
    // The name of the first workspace tells this run from others on the same backend.
    let (run_key, _) = label("conformance.kled.io/run", "")?;
    let run =
        LabelValue::new(trial.name()?.as_str()).map_err(|error| Failure::new("a label", "success", error))?;
    for colour in [&red, &red, &blue] {
        let mut spec = trial.fixture.spec();
        spec.labels.insert(key.clone(), colour.clone());
        spec.labels.insert(run_key.clone(), run.clone());
        made.push(trial.running_with(&spec).await?.0);
    }
    let provider = trial.provider().await?;
    let all = trial.ok("list", provider.list()).await?;
    for name in &made {
        let count = all.iter().filter(|workspace| workspace.name == *name).count();
        equal(format_args!("entries of {name} in the list"), &1, &count)?;
    }
    for (colour, expected) in [(&red, &made[..2]), (&blue, &made[2..])] {
        let labels = [(key.clone(), colour.clone()), (run_key.clone(), run.clone())].into();
        let list = provider.list_workspaces(ListOptions { labels, ..ListOptions::default() });
        let found: Vec<_> = trial.ok("list with labels", list.try_collect()).await?;
        let mut found: Vec<_> = found.into_iter().map(|workspace| workspace.name).collect();
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort();
        equal(format_args!("list with label {colour}"), &expected, &found)?;
    }
    Ok(())
}

async fn events_of_create(trial: &Trial) -> Outcome<(WorkspaceName, Arc<dyn Provider>, Vec<Event>)> {
    let (name, provider) = (trial.name()?, trial.provider().await?);
    let (progress, events) = Progress::channel(1024);
    let options = CreateOptions { progress, ..CreateOptions::default() };
    trial.ok("create", provider.create_workspace(&name, &trial.fixture.spec(), options)).await?;
    let events = trial.ends("the events of a create that is done", events.collect::<Vec<_>>()).await?;
    Ok((name, provider, events))
}

async fn create_events(trial: &Trial) -> Outcome {
    let (name, _, events) = events_of_create(trial).await?;
    ensure(!events.is_empty(), "the events of a create", "some", "none")?;
    for event in &events {
        equal("the workspace of an event", &name, &event.workspace)?;
        equal("the operation of an event", &Operation::Create, &event.operation)?;
        ensure(
            !event.reason.is_empty() && !event.message.is_empty(),
            "an event",
            "a reason and a message",
            "none",
        )?;
    }
    let ordered = events.windows(2).all(|pair| pair[0].time <= pair[1].time);
    ensure(ordered, "the times of the events", "ascending", "not ascending")?;
    let counts: Vec<_> = events.iter().filter_map(|event| event.step).collect();
    let ascending = counts.windows(2).all(|pair| pair[0].number <= pair[1].number);
    ensure(ascending, "the step numbers of the events", "ascending", format_args!("{counts:?}"))?;
    let within = counts.iter().all(|count| (1..=count.total).contains(&count.number));
    ensure(within, "the step numbers of the events", "from 1 to the total", format_args!("{counts:?}"))
}

async fn events_kept(trial: &Trial) -> Outcome {
    let (name, provider, reported) = events_of_create(trial).await?;
    let events = trial.ok("events", provider.workspace_events(&name, EventsOptions::default())).await?;
    let kept: Vec<Event> = trial.ok("the events", events.try_collect()).await?;
    for event in reported {
        let found = kept.iter().any(|kept| kept.reason == event.reason && kept.operation == event.operation);
        let reasons: Vec<_> = kept.iter().map(|event| event.reason.as_str()).collect();
        ensure(found, "the kept events", &event.reason, format_args!("{reasons:?}"))?;
    }
    let foreign = kept.iter().find(|event| event.workspace != name);
    ensure(foreign.is_none(), "the kept events", "those of this workspace", "those of another")
}

async fn logs_read(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let lines = trial.ok("logs", provider.workspace_logs(&name, LogsOptions::default())).await?;
    let lines: Vec<_> = trial.ok("the log to its end", lines.try_collect()).await?;
    let options = LogsOptions { tail: Some(1), ..LogsOptions::default() };
    let tail = trial.ok("logs with tail", provider.workspace_logs(&name, options)).await?;
    let tail: Vec<_> = trial.ok("the tail to its end", tail.try_collect()).await?;
    let expected = lines.len().min(1)..=1;
    ensure(expected.contains(&tail.len()), "a tail of 1", "one line where there is one", tail.len())?;
    trial.ok("stop", provider.stop(&name)).await?;
    let lines = trial.ok("logs when stopped", provider.workspace_logs(&name, LogsOptions::default())).await?;
    let _all: Vec<_> = trial.ok("the log of a stopped workspace", lines.try_collect()).await?;
    Ok(())
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
        if !offers(&trial.provider().await?, operation) {
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
        if !offers(&trial.provider().await?, operation) {
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
    super::disturbance::kill(hanging).await;
    listed?;
    match status {
        Ok(_) => Ok(()),
        Err(error) => equal("status while a create hangs", &ErrorKind::NotFound, &error.kind()),
    }
}

async fn secrets_hidden(trial: &Trial) -> Outcome {
    let Some((reference, secret)) = trial.fixture.secret() else { return Ok(()) };
    let variable = VariableName::new("CONFORMANCE_SECRET");
    let variable = variable.map_err(|error| Failure::new("making a variable", "success", error))?;
    let mut spec = trial.fixture.spec();
    spec.secrets.insert(variable.clone(), reference);
    let (name, provider, created) = trial.running_with(&spec).await?;
    let environment = trial.text(&provider, &name, &["env"]).await?;
    let line = format!("{variable}={}", secret.expose());
    ensure(
        environment.lines().any(|found| found == line),
        "env",
        "the secret in its variable",
        "no such line",
    )?;

    let status = trial.ok("status", provider.status(&name)).await?;
    let listed = trial.ok("list", provider.list()).await?;
    let json = |what: &str, value: serde_json::Result<String>| {
        value.map_err(|error| Failure::new(what, "JSON", error))
    };
    let mut shown = vec![
        ("create", json("create", serde_json::to_string(&created))?),
        ("status", json("status", serde_json::to_string(&status))?),
        ("list", json("list", serde_json::to_string(&listed))?),
        ("the provider's Debug", format!("{provider:?}")),
    ];
    if provider.capabilities().events {
        let events = trial.ok("events", provider.workspace_events(&name, EventsOptions::default())).await?;
        let events: Vec<_> = trial.ok("the events", events.try_collect()).await?;
        shown.push(("events", format!("{events:?}")));
    }
    if provider.capabilities().logs {
        let lines = trial.ok("logs", provider.workspace_logs(&name, LogsOptions::default())).await?;
        let lines: Vec<_> = trial.ok("the log", lines.try_collect()).await?;
        shown.push(("logs", format!("{lines:?}")));
    }
    shown.push(("residue", trial.ok("residue", trial.fixture.residue(&name)).await?.join("\n")));
    for (place, text) in shown {
        // The text itself is not part of the failure: it would show the secret.
        ensure(!text.contains(secret.expose()), place, "no secret in it", "the secret")?;
    }
    Ok(())
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
    super::trial::runs("start after it was idle", &started, created.id)
}

async fn time_to_live(trial: &Trial) -> Outcome {
    let mut spec = trial.fixture.spec();
    spec.time_to_live = Some(BRIEF);
    let (name, provider, _) = trial.running_with(&spec).await?;
    let (name, provider) = (&name, &provider);
    let look = || async move {
        match trial.ends("status", provider.status(name)).await? {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(Failure::new("status", "success or not-found", error)),
        }
    };
    trial.becomes_true("a workspace past its time to live", "deleted", look).await?;
    // The name is free at once; no call waits for the removal of the data.
    let residue = || async move {
        Ok(trial.ok("asking the backend for residue", trial.fixture.residue(name)).await?.is_empty())
    };
    trial.becomes_true("the end of a time to live", "nothing left in the backend", residue).await
}
