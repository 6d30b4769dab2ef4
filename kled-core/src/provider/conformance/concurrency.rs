//! Calls that overlap, from several handles.

use std::sync::Arc;

use futures::future::join_all;

use super::disturbance::{Break, Disturbance, at_step, perform};
use super::trial::{Failure, Outcome, Trial, ensure, equal, explained, runs};
use super::{Case, case};
use crate::provider::{Provider, ProviderExt};
use crate::workspace::{Operation, Workspace, WorkspaceSpec};
use crate::{ErrorKind, Result, WorkspaceName};

pub(super) const CASES: &[Case] = &[
    case!(
        "concurrent-creates-agree",
        2,
        creates_agree,
        [],
        "concurrent creates of one name and spec all get the same workspace"
    ),
    case!(
        "concurrent-specs-have-one-winner",
        2,
        one_spec_wins,
        [],
        "of concurrent creates with two specs one wins and the other conflicts"
    ),
    case!(
        "concurrent-deletes-succeed",
        2,
        deletes_succeed,
        [],
        "concurrent deletes all succeed and leave nothing"
    ),
    case!(
        "concurrent-starts-and-stops-settle",
        2,
        starts_and_stops_settle,
        [],
        "concurrent starts and stops leave a state that is true"
    ),
    case!(
        "delete-races-create",
        7,
        delete_races_create,
        [Faults],
        "a delete beside a running create leaves all or nothing"
    ),
];

/// How many calls overlap, and on how many handles.
const CALLS: usize = 8;
const HANDLES: usize = 4;

async fn handles(trial: &Trial) -> Outcome<Vec<Arc<dyn Provider>>> {
    let mut handles = Vec::new();
    for _ in 0..HANDLES {
        handles.push(trial.provider().await?);
    }
    Ok(handles)
}

/// Creates one name with several specs at once, each call as a task.
async fn create_at_once(
    trial: &Trial,
    name: &WorkspaceName,
    specs: [&WorkspaceSpec; 2],
) -> Outcome<Vec<(WorkspaceSpec, Result<Workspace>)>> {
    let handles = handles(trial).await?;
    let calls = (0..CALLS).map(|number| {
        let (provider, name) = (Arc::clone(&handles[number % HANDLES]), name.clone());
        // Not by the number's parity, so that each handle has calls of both specs.
        let spec = specs[(number / HANDLES + number) % 2].clone();
        tokio::spawn(async move {
            let result = provider.create(&name, &spec).await;
            (spec, result)
        })
    });
    let results = trial.ends("concurrent creates", join_all(calls)).await?;
    results
        .into_iter()
        .map(|result| result.map_err(|error| Failure::new("a concurrent create", "an answer", error)))
        .collect()
}

async fn creates_agree(trial: &Trial) -> Outcome {
    let (name, spec) = (trial.name()?, trial.fixture.spec());
    let results = create_at_once(trial, &name, [&spec, &spec]).await?;
    let only = trial.create_makes_one(&name, &spec).await?;
    for (_, result) in results {
        let workspace =
            result.map_err(|error| Failure::new("a concurrent create", "success", explained(&error)))?;
        runs("a concurrent create", &workspace, only.id)?;
    }
    trial.delete_leaves_nothing(&name).await
}

async fn one_spec_wins(trial: &Trial) -> Outcome {
    let (name, one, other) = (trial.name()?, trial.fixture.spec(), trial.fixture.other_spec());
    let results = create_at_once(trial, &name, [&one, &other]).await?;
    let provider = trial.provider().await?;
    let winner = trial.ok("status", provider.status(&name)).await?;
    for (spec, result) in results {
        match result {
            Ok(workspace) if spec == winner.spec => {
                runs("a create of the winning spec", &workspace, winner.id)?
            }
            Err(error) if spec != winner.spec && error.kind() == ErrorKind::Conflict => {}
            Ok(_) => return Err(Failure::new("a create of the losing spec", "conflict", "success")),
            Err(error) if spec != winner.spec => {
                return Err(Failure::new("a create of the losing spec", "conflict", explained(&error)));
            }
            Err(error) => {
                return Err(Failure::new("a create of the winning spec", "success", explained(&error)));
            }
        }
    }
    trial.delete_leaves_nothing(&name).await
}

async fn deletes_succeed(trial: &Trial) -> Outcome {
    let (name, _, _) = trial.running().await?;
    let handles = handles(trial).await?;
    let calls = (0..CALLS).map(|number| {
        let (provider, name) = (Arc::clone(&handles[number % HANDLES]), name.clone());
        tokio::spawn(async move { provider.delete(&name).await })
    });
    for result in trial.ends("concurrent deletes", join_all(calls)).await? {
        let result = result.map_err(|error| Failure::new("a concurrent delete", "an answer", error))?;
        result.map_err(|error| Failure::new("a concurrent delete", "success", explained(&error)))?;
    }
    trial.delete_leaves_nothing(&name).await
}

async fn starts_and_stops_settle(trial: &Trial) -> Outcome {
    let (name, provider, created) = trial.running().await?;
    let handles = handles(trial).await?;
    let calls = (0..CALLS).map(|number| {
        let operation = if number % 2 == 0 { Operation::Stop } else { Operation::Start };
        let provider = Arc::clone(&handles[number / 2 % HANDLES]);
        tokio::spawn(perform(provider, operation, name.clone(), created.spec.clone(), None))
    });
    for result in trial.ends("concurrent starts and stops", join_all(calls)).await? {
        let result =
            result.map_err(|error| Failure::new("a concurrent start or stop", "an answer", error))?;
        result.map_err(|error| Failure::new("a concurrent start or stop", "success", explained(&error)))?;
    }
    let status = trial.ok("status", provider.status(&name)).await?;
    let settled = ["Running", "Stopped"].contains(&status.status.state());
    ensure(settled, "status", "a running or stopped workspace", &status.status)?;
    if status.status.is_running() && provider.capabilities_of(&trial.fixture.spec()).commands.exec {
        trial.text(&provider, &name, &["echo", "running"]).await?;
    }
    let stopped = trial.ok("stop", provider.stop(&name)).await?;
    equal("stop", &"Stopped", &stopped.status.state())?;
    runs("start", &trial.ok("start", provider.start(&name)).await?, created.id)
}

async fn delete_races_create(trial: &Trial) -> Outcome {
    let name = trial.name()?;
    let steps = trial.record(Operation::Create, &name).await?.steps;
    trial.delete_leaves_nothing(&name).await?;
    for number in 0..steps.len() {
        race(trial, number).await.map_err(at_step(Operation::Create, "beside a delete", number, &steps))?;
    }
    Ok(())
}

/// The delete begins at the moment when the create is about to take a step; both go on.
async fn race(trial: &Trial, number: usize) -> Outcome {
    let name = trial.name()?;
    let creating = trial.begin(&Disturbance::new(Operation::Create, number, Break::Nothing), &name).await?;
    let provider = trial.provider().await?;
    trial.ok("delete beside a create", provider.delete(&name)).await?;
    let created = trial.ends("create beside a delete", creating).await?.unwrap_or(Ok(()));
    if let Err(error) = created {
        // The delete was either before the create, after it, or ended it.
        equal("create beside a delete", &ErrorKind::Cancelled, &error.kind())?;
        trial.nothing_left("a create that was ended by a delete", &name).await?;
    }
    match trial.ends("status after both", provider.status(&name)).await? {
        Ok(workspace) => runs("status after both", &workspace, workspace.id)?,
        Err(error) => {
            equal("status after both", &ErrorKind::NotFound, &error.kind())?;
            trial.nothing_left("delete beside a create", &name).await?;
        }
    }
    trial.create_makes_one(&name, &trial.fixture.spec()).await?;
    trial.delete_leaves_nothing(&name).await
}
