//! What a provider tells: lists, events, logs; and what it keeps to itself.

use std::sync::Arc;

use super::disturbance::{Break, Disturbance, kill};
use super::trial::{Failure, Outcome, Trial, ensure, equal};
use super::{Case, case};
use crate::provider::{
    CreateOptions, Event, EventsOptions, ListOptions, LogsOptions, Progress, Provider, ProviderExt,
};
use crate::workspace::Operation;
use crate::{LabelKey, LabelValue, VariableName, WorkspaceName};
use futures::{StreamExt, TryStreamExt};

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
    case!(
        "events-arrive-at-once",
        6,
        events_at_once,
        [Faults],
        "events arrive while the create is still under way"
    ),
    case!(
        "events-can-be-followed",
        1,
        events_followed,
        [Events],
        "a followed stream of events goes on until the workspace is deleted"
    ),
    case!(
        "logs-can-be-followed",
        1,
        logs_followed,
        [Logs],
        "a followed log goes on until the workspace stops"
    ),
    case!("logs-can-be-read", 1, logs_read, [Logs], "the log can be read to its end, and its tail alone"),
    case!(
        "secrets-stay-hidden",
        4,
        secrets_hidden,
        [Exec, Secret],
        "commands see secrets, nothing else shows them"
    ),
];

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

async fn events_at_once(trial: &Trial) -> Outcome {
    let name = trial.name()?;
    let steps = trial.record(Operation::Create, &name).await?.steps;
    trial.delete_leaves_nothing(&name).await?;
    let (name, spec) = (trial.name()?, trial.fixture.spec());
    let disturbance = Disturbance::new(Operation::Create, steps.len() - 1, Break::Hang);
    let provider = trial.provider_with(disturbance.faults()).await?;
    let (progress, mut events) = Progress::channel(1024);
    let options = CreateOptions { progress, ..CreateOptions::default() };
    let create =
        tokio::spawn(async move { provider.create_workspace(&name, &spec, options).await.map(drop) });
    let event = async {
        disturbance.reached().await;
        events.next().await
    };
    let event = trial.ends("the first event of a create that hangs", event).await;
    kill(create).await;
    ensure(event?.is_some(), "the first event of a create that hangs", "an event", "the end of the events")
}

async fn events_followed(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let options = EventsOptions { follow: true, ..EventsOptions::default() };
    let mut events = trial.ok("events", provider.workspace_events(&name, options)).await?;
    // Read before the stop, so that a stream that only is read late does not pass for one that goes on.
    let first = trial.ok("the first of the followed events", events.try_next()).await?;
    ensure(first.is_some(), "the first of the followed events", "an event of create", "their end")?;
    trial.ok("stop", provider.stop(&name)).await?;
    let stop_is_told = async {
        while let Some(event) = events.try_next().await? {
            if event.operation == Operation::Stop {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let told = trial.ok("the followed events until stop", stop_is_told).await?;
    ensure(told, "the followed events", "an event of stop", "their end")?;
    trial.delete_leaves_nothing(&name).await?;
    let rest = events.try_for_each(|_| std::future::ready(Ok(())));
    // Its connection may break with the workspace: what counts is that it ends.
    let _ended = trial.ends("the followed events after delete", rest).await?;
    Ok(())
}

async fn logs_followed(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let options = LogsOptions { follow: true, ..LogsOptions::default() };
    let lines = trial.ok("logs", provider.workspace_logs(&name, options)).await?;
    trial.ok("stop", provider.stop(&name)).await?;
    trial.ok("the followed log after stop", lines.try_for_each(|_| std::future::ready(Ok(())))).await
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
    if provider.capabilities_of(&trial.fixture.spec()).events {
        let events = trial.ok("events", provider.workspace_events(&name, EventsOptions::default())).await?;
        let events: Vec<_> = trial.ok("the events", events.try_collect()).await?;
        shown.push(("events", format!("{events:?}")));
    }
    if provider.capabilities_of(&trial.fixture.spec()).logs {
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
