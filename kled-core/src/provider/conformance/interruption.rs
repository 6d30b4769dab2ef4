//! Operations that fail, are killed or are overtaken by a delete, at each of their steps.

use std::sync::Arc;

use super::disturbance::{Break, Disturbance, at_step, kill};
use super::trial::{Failure, Outcome, Trial, ensure, equal, explained, runs};
use super::{Case, case};
use crate::provider::{ExecRequest, Provider, ProviderExt};
use crate::workspace::{Operation, WorkspaceStatus};
use crate::{ErrorKind, WorkspaceName};

pub(super) const CASES: &[Case] = &[
    case!(
        "failed-create-is-finished",
        3,
        failed_create_create,
        [Faults],
        "after a failure at any step the same create succeeds"
    ),
    case!(
        "failed-create-is-deleted",
        3,
        failed_create_delete,
        [Faults],
        "after a failure at any step delete leaves nothing"
    ),
    case!(
        "killed-create-is-finished",
        3,
        killed_create_create,
        [Faults],
        "after a kill at any step the same create succeeds"
    ),
    case!(
        "killed-create-is-deleted",
        3,
        killed_create_delete,
        [Faults],
        "after a kill at any step delete leaves nothing"
    ),
    case!(
        "create-killed-twice-is-finished",
        6,
        killed_twice,
        [Faults],
        "a create that was killed, and again when it was repeated, is finished"
    ),
    case!(
        "delete-overtakes-create",
        7,
        delete_overtakes_create,
        [Faults],
        "delete ends in time while a create hangs at any step"
    ),
    case!(
        "start-cut-short-is-repaired",
        6,
        start_cut_short,
        [Faults],
        "after a start that was cut short start succeeds"
    ),
    case!(
        "stop-cut-short-is-repaired",
        6,
        stop_cut_short,
        [Faults],
        "after a stop that was cut short stop succeeds"
    ),
    case!(
        "delete-cut-short-is-repaired",
        7,
        delete_cut_short,
        [Faults],
        "after a delete that was cut short delete leaves nothing"
    ),
];

/// How an operation is cut short.
#[derive(Clone, Copy)]
enum Cut {
    Fail,
    Kill,
}

impl Cut {
    const fn word(self) -> &'static str {
        match self {
            Self::Fail => "failed",
            Self::Kill => "killed",
        }
    }

    async fn at(self, trial: &Trial, operation: Operation, number: usize, name: &WorkspaceName) -> Outcome {
        match self {
            Self::Fail => trial.fail_at(operation, number, name).await,
            Self::Kill => trial.kill_at(operation, number, name).await,
        }
    }
}

/// What is expected of the next call.
#[derive(Clone, Copy)]
enum Then {
    Create,
    Delete,
}

/// The steps of an undisturbed create, which is deleted again.
async fn create_steps(trial: &Trial) -> Outcome<Vec<String>> {
    let name = trial.name()?;
    let recorded = trial.record(Operation::Create, &name).await?;
    trial.delete_leaves_nothing(&name).await?;
    Ok(recorded.steps)
}

async fn cut_create(trial: &Trial, cut: Cut, then: Then) -> Outcome {
    let steps = create_steps(trial).await?;
    for number in 0..steps.len() {
        let name = trial.name()?;
        let attempt = async {
            cut.at(trial, Operation::Create, number, &name).await?;
            is_not_running(trial, &name).await?;
            // Who repairs may be another machine than the one that broke.
            trial.ok("wiping local state", trial.fixture.wipe_local_state()).await?;
            if matches!(then, Then::Create) {
                trial.create_makes_one(&name, &trial.fixture.spec()).await?;
            }
            trial.delete_leaves_nothing(&name).await
        };
        attempt.await.map_err(at_step(Operation::Create, cut.word(), number, &steps))?;
    }
    Ok(())
}

/// A create that was cut short is missing or says so; it is never shown as done unless nothing but its answer was left.
async fn is_not_running(trial: &Trial, name: &WorkspaceName) -> Outcome {
    let provider = trial.provider().await?;
    match trial.ends("status after the cut", provider.status(name)).await? {
        Ok(workspace) => match workspace.status {
            WorkspaceStatus::Creating { .. } | WorkspaceStatus::Failed { .. } => Ok(()),
            WorkspaceStatus::Interrupted { .. } => is_refused(trial, &provider, name).await,
            // The last step may be the answer itself; then the workspace has to work.
            WorkspaceStatus::Running { .. } => status_is_true(trial, name).await,
            other => Err(Failure::new("status after the cut", "an interrupted workspace or none", other)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(Failure::new("status after the cut", "an interrupted workspace or none", explained(&error)))
        }
    }
}

/// An interrupted workspace is for create and delete only, and it keeps its name for its own spec.
async fn is_refused(trial: &Trial, provider: &Arc<dyn Provider>, name: &WorkspaceName) -> Outcome {
    let invalid_state = &[ErrorKind::InvalidState];
    trial.fails("start of an interrupted workspace", invalid_state, provider.start(name)).await?;
    trial.fails("stop of an interrupted workspace", invalid_state, provider.stop(name)).await?;
    if provider.capabilities_of(&trial.fixture.spec()).commands.exec {
        let exec = provider.exec(name, ExecRequest::new(["echo"]));
        trial.fails("exec in an interrupted workspace", invalid_state, exec).await?;
    }
    let other = trial.fixture.other_spec();
    let create = provider.create(name, &other);
    trial
        .fails("create with another spec of an interrupted workspace", &[ErrorKind::Conflict], create)
        .await?;
    Ok(())
}

async fn failed_create_create(trial: &Trial) -> Outcome {
    cut_create(trial, Cut::Fail, Then::Create).await
}

async fn failed_create_delete(trial: &Trial) -> Outcome {
    cut_create(trial, Cut::Fail, Then::Delete).await
}

async fn killed_create_create(trial: &Trial) -> Outcome {
    cut_create(trial, Cut::Kill, Then::Create).await
}

async fn killed_create_delete(trial: &Trial) -> Outcome {
    cut_create(trial, Cut::Kill, Then::Delete).await
}

async fn killed_twice(trial: &Trial) -> Outcome {
    let steps = create_steps(trial).await?;
    for number in 0..steps.len() {
        let name = trial.name()?;
        let attempt = async {
            trial.kill_at(Operation::Create, number, &name).await?;
            trial.kill_at(Operation::Create, number, &name).await?;
            trial.create_makes_one(&name, &trial.fixture.spec()).await?;
            trial.delete_leaves_nothing(&name).await
        };
        attempt.await.map_err(at_step(Operation::Create, "killed twice", number, &steps))?;
    }
    Ok(())
}

async fn delete_overtakes_create(trial: &Trial) -> Outcome {
    let steps = create_steps(trial).await?;
    for number in 0..steps.len() {
        overtake(trial, number).await.map_err(at_step(Operation::Create, "overtaken", number, &steps))?;
    }
    Ok(())
}

async fn overtake(trial: &Trial, number: usize) -> Outcome {
    let name = trial.name()?;
    let hanging = trial.begin(&Disturbance::new(Operation::Create, number, Break::Hang), &name).await?;
    let done_before = hanging.is_finished();
    let provider = trial.provider().await?;
    let deleted = trial.ok("delete while the create hangs", provider.delete(&name)).await;
    let left = match &deleted {
        Ok(_) => trial.nothing_left("delete while the create hangs", &name).await,
        Err(_) => Ok(()),
    };
    if hanging.is_finished() && !done_before {
        // It noticed the delete by itself; then it must not claim success.
        let ended = hanging.await.unwrap_or(Ok(()));
        let kind = ended.err().map(|error| error.kind());
        equal("the create that was overtaken", &Some(ErrorKind::Cancelled), &kind)?;
    } else {
        kill(hanging).await;
    }
    deleted?;
    left?;
    trial.nothing_left_soon("the backend after the hung create was dropped", &name).await?;
    trial.create_makes_one(&name, &trial.fixture.spec()).await?;
    trial.delete_leaves_nothing(&name).await
}

async fn start_cut_short(trial: &Trial) -> Outcome {
    let (name, provider, created) = trial.running().await?;
    trial.ok("stop", provider.stop(&name)).await?;
    let steps = trial.record(Operation::Start, &name).await?.steps;
    for (cut, number) in moments(steps.len()) {
        let attempt = async {
            trial.ok("stop", provider.stop(&name)).await?;
            cut.at(trial, Operation::Start, number, &name).await?;
            status_is_true(trial, &name).await?;
            let started = trial.ok("start again", trial.provider().await?.start(&name)).await?;
            runs("start again", &started, created.id)?;
            if provider.capabilities_of(&trial.fixture.spec()).commands.exec {
                trial.text(&provider, &name, &["echo", "started"]).await?;
            }
            Ok(())
        };
        attempt.await.map_err(at_step(Operation::Start, cut.word(), number, &steps))?;
    }
    trial.delete_leaves_nothing(&name).await
}

async fn stop_cut_short(trial: &Trial) -> Outcome {
    let (name, provider, created) = trial.running().await?;
    let steps = trial.record(Operation::Stop, &name).await?.steps;
    for (cut, number) in moments(steps.len()) {
        let attempt = async {
            trial.ok("start", provider.start(&name)).await?;
            cut.at(trial, Operation::Stop, number, &name).await?;
            status_is_true(trial, &name).await?;
            let stopped = trial.ok("stop again", trial.provider().await?.stop(&name)).await?;
            equal("stop again", &"Stopped", &stopped.status.state())?;
            let status = trial.ok("status", provider.status(&name)).await?;
            equal("status after stop", &"Stopped", &status.status.state())?;
            equal("the identity after stop", &created.id, &status.id)
        };
        attempt.await.map_err(at_step(Operation::Stop, cut.word(), number, &steps))?;
    }
    trial.delete_leaves_nothing(&name).await
}

async fn delete_cut_short(trial: &Trial) -> Outcome {
    let (name, _, _) = trial.running().await?;
    let steps = trial.record(Operation::Delete, &name).await?.steps;
    for (cut, number) in moments(steps.len()) {
        let attempt = async {
            let (name, _, _) = trial.running().await?;
            cut.at(trial, Operation::Delete, number, &name).await?;
            trial.delete_leaves_nothing(&name).await?;
            trial.create_makes_one(&name, &trial.fixture.spec()).await?;
            trial.delete_leaves_nothing(&name).await
        };
        attempt.await.map_err(at_step(Operation::Delete, cut.word(), number, &steps))?;
    }
    Ok(())
}

/// What status says after a cut is what a command finds.
async fn status_is_true(trial: &Trial, name: &WorkspaceName) -> Outcome {
    let provider = trial.provider().await?;
    if !provider.capabilities_of(&trial.fixture.spec()).commands.exec {
        return Ok(());
    }
    let status = trial.ok("status after the cut", provider.status(name)).await?.status;
    if status.is_running() {
        trial.text(&provider, name, &["echo", "running"]).await?;
        return Ok(());
    }
    let what = format!("exec when status says {status}");
    match trial.ends(&what, provider.exec(name, ExecRequest::new(["echo"]))).await? {
        Err(error) if error.kind() == ErrorKind::InvalidState => Ok(()),
        Err(error) => Err(Failure::new(what, "invalid-state", explained(&error))),
        // A backend that brings it up by itself may have done so meanwhile.
        Ok(_) if matches!(status, WorkspaceStatus::Starting { .. }) => {
            let now = trial.ok("status after that exec", provider.status(name)).await?.status;
            ensure(now.is_running(), what, "invalid-state, or a workspace that runs by now", now)
        }
        Ok(_) => Err(Failure::new(what, "invalid-state", "success")),
    }
}

/// Every step, failed and killed.
fn moments(steps: usize) -> impl Iterator<Item = (Cut, usize)> {
    [Cut::Fail, Cut::Kill].into_iter().flat_map(move |cut| (0..steps).map(move |number| (cut, number)))
}
