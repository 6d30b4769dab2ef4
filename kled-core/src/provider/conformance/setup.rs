//! What the project asks for after its checkout.

use std::sync::Arc;

use futures::StreamExt;

use super::disturbance::{Break, Disturbance, at_step, kill};
use super::project::{COMPLAINT, CREATED, Project, STARTED, STEPS, VARIABLE};
use super::trial::{Failure, Outcome, Trial, ensure, equal, runs};
use super::{Case, case};
use crate::provider::{CreateOptions, Progress, Provider, ProviderExt};
use crate::workspace::{Operation, WorkspaceSpec, WorkspaceStatus};
use crate::{ErrorKind, WorkspaceName};

pub(super) const CASES: &[Case] = &[
    case!(
        "set-up-is-done",
        1,
        set_up_is_done,
        [Setup, Exec, Projects],
        "what a project's file asks for is done when create returns"
    ),
    case!(
        "set-up-starts-at-each-start",
        8,
        starts_at_each_start,
        [Setup, Exec, Projects],
        "the start part of a set-up is run at each start, the rest once"
    ),
    case!(
        "set-up-is-told",
        6,
        set_up_is_told,
        [Setup, Exec, Projects],
        "what the commands of a set-up write is among the events of create"
    ),
    case!(
        "failed-set-up-is-finished",
        3,
        failed_is_finished,
        [Setup, Exec, Projects],
        "a set-up that fails says why, and the same create goes on where it failed"
    ),
    case!(
        "failed-set-up-is-deleted",
        7,
        failed_is_deleted,
        [Setup, Projects],
        "after a set-up that failed delete leaves nothing"
    ),
    case!(
        "killed-set-up-is-finished",
        3,
        killed_is_finished,
        [Setup, Exec, Projects, Faults],
        "after a kill at any step of a create with a set-up the same create finishes it"
    ),
    case!(
        "killed-start-is-set-up",
        6,
        killed_start_is_set_up,
        [Setup, Exec, Projects, Faults],
        "after a kill at any step of a start, start carries the start part of the set-up out"
    ),
];

/// A project's spec, which the case has asked for among its needs.
fn spec_of(trial: &Trial, project: Project) -> Outcome<WorkspaceSpec> {
    let missing =
        || Failure::new("the fixture's projects", format_args!("one of {}", project.name()), "none");
    trial.fixture.project_spec(project).ok_or_else(missing)
}

/// What the steps of a project have written, after as many starts.
async fn steps_are(
    trial: &Trial,
    provider: &Arc<dyn Provider>,
    name: &WorkspaceName,
    project: Project,
    starts: usize,
) -> Outcome {
    let lines = lines(trial, provider, name).await?;
    let mut expected = project.created().to_vec();
    expected.extend(std::iter::repeat_n(STARTED, starts));
    equal(
        format_args!("the steps that were run after {starts} starts"),
        &expected.join("\n"),
        &lines.join("\n"),
    )
}

async fn lines(trial: &Trial, provider: &Arc<dyn Provider>, name: &WorkspaceName) -> Outcome<Vec<String>> {
    let text = trial.text(provider, name, &["cat", STEPS]).await?;
    Ok(text.lines().map(ToOwned::to_owned).collect())
}

async fn variable_is_there(trial: &Trial, provider: &Arc<dyn Provider>, name: &WorkspaceName) -> Outcome {
    let environment = trial.text(provider, name, &["env"]).await?;
    let is_there = environment.lines().any(|line| line == VARIABLE);
    ensure(is_there, "the environment of a command", VARIABLE, "none of the project")
}

async fn set_up_is_done(trial: &Trial) -> Outcome {
    for project in [Project::Devcontainer, Project::ProjectFile] {
        let attempt = async {
            let (name, provider, _) = trial.running_with(&spec_of(trial, project)?).await?;
            steps_are(trial, &provider, &name, project, 1).await?;
            variable_is_there(trial, &provider, &name).await?;
            // Another process that is asked for the same does none of it again.
            let provider = trial.provider().await?;
            trial.ok("create again", provider.create(&name, &spec_of(trial, project)?)).await?;
            steps_are(trial, &provider, &name, project, 1).await
        };
        attempt.await.map_err(|failure| failure.at(project.name()))?;
    }
    Ok(())
}

async fn starts_at_each_start(trial: &Trial) -> Outcome {
    let project = Project::ProjectFile;
    let (name, provider, _) = trial.running_with(&spec_of(trial, project)?).await?;
    for starts in 2..4 {
        trial.ok("stop", provider.stop(&name)).await?;
        trial.ok("start", provider.start(&name)).await?;
        steps_are(trial, &provider, &name, project, starts).await?;
        trial.ok("start of a running workspace", provider.start(&name)).await?;
        steps_are(trial, &provider, &name, project, starts).await?;
        variable_is_there(trial, &provider, &name).await?;
    }
    Ok(())
}

async fn set_up_is_told(trial: &Trial) -> Outcome {
    let (name, provider) = (trial.name()?, trial.provider().await?);
    let (progress, events) = Progress::channel(1024);
    let options = CreateOptions { progress, ..CreateOptions::default() };
    let spec = spec_of(trial, Project::Devcontainer)?;
    trial.ok("create", provider.create_workspace(&name, &spec, options)).await?;
    let events = trial.ends("the events of a create that is done", events.collect::<Vec<_>>()).await?;
    let is_told = events.iter().any(|event| event.message.contains(CREATED));
    let messages: Vec<_> = events.into_iter().map(|event| event.message).collect();
    ensure(
        is_told,
        "the events of a create",
        format_args!("{CREATED:?} among them"),
        format_args!("{messages:?}"),
    )
}

/// Creates a workspace whose set-up fails.
async fn fail(trial: &Trial) -> Outcome<(WorkspaceName, WorkspaceSpec)> {
    let (name, spec) = (trial.name()?, spec_of(trial, Project::Failing)?);
    let provider = trial.provider().await?;
    let create = provider.create(&name, &spec);
    let error = trial.fails("create with a set-up that fails", &[ErrorKind::SetupFailed], create).await?;
    let said = error.to_string();
    ensure(said.contains(COMPLAINT), "the error", format_args!("{COMPLAINT:?} in it"), &said)?;
    ensure(said.contains("exit code 7"), "the error", "the exit code 7 in it", &said)?;
    let status = trial.ok("status after the failure", trial.provider().await?.status(&name)).await?.status;
    match &status {
        WorkspaceStatus::Interrupted { message: Some(message), .. }
        | WorkspaceStatus::Failed { message, .. } => {
            let what = "the status after the failure";
            ensure(message.contains(COMPLAINT), what, format_args!("{COMPLAINT:?} in it"), message)?;
        }
        other => return Err(Failure::new("status after the failure", "why it was interrupted", other)),
    }
    Ok((name, spec))
}

async fn failed_is_finished(trial: &Trial) -> Outcome {
    let (name, spec) = fail(trial).await?;
    let provider = trial.provider().await?;
    let other = trial.fixture.other_spec();
    trial.fails("create with another spec", &[ErrorKind::Conflict], provider.create(&name, &other)).await?;
    let workspace = trial.ok("create again", provider.create(&name, &spec)).await?;
    runs("create again", &workspace, workspace.id)?;
    steps_are(trial, &provider, &name, Project::Failing, 1).await
}

async fn failed_is_deleted(trial: &Trial) -> Outcome {
    let (name, _) = fail(trial).await?;
    trial.delete_leaves_nothing(&name).await
}

async fn killed_is_finished(trial: &Trial) -> Outcome {
    let (project, operation) = (Project::ProjectFile, Operation::Create);
    let (spec, name) = (spec_of(trial, project)?, trial.name()?);
    let steps = trial.record_of(operation, &name, &spec).await?.steps;
    for number in 0..steps.len() {
        let name = trial.name()?;
        let attempt = async {
            let disturbance = Disturbance::new(operation, number, Break::Hang);
            kill(trial.begin_of(&disturbance, &name, &spec).await?).await;
            let provider = trial.provider().await?;
            trial.ok("create", provider.create(&name, &spec)).await?;
            let mut came = lines(trial, &provider, &name).await?;
            // The workspace may have been started twice, but it was created once.
            let last = came.pop().unwrap_or_default();
            equal("the last step", &STARTED.to_owned(), &last)?;
            came.retain(|line| line != STARTED);
            equal("the steps of the creation", &project.created().join("\n"), &came.join("\n"))?;
            trial.delete_leaves_nothing(&name).await
        };
        attempt.await.map_err(at_step(operation, "killed", number, &steps))?;
    }
    Ok(())
}

async fn killed_start_is_set_up(trial: &Trial) -> Outcome {
    let (project, operation) = (Project::ProjectFile, Operation::Start);
    let (name, provider, _) = trial.running_with(&spec_of(trial, project)?).await?;
    trial.ok("stop", provider.stop(&name)).await?;
    let steps = trial.record(operation, &name).await?.steps;
    for number in 0..steps.len() {
        let attempt = async {
            let before = lines(trial, &provider, &name).await?.len();
            trial.ok("stop", provider.stop(&name)).await?;
            trial.kill_at(operation, number, &name).await?;
            trial.ok("start", trial.provider().await?.start(&name)).await?;
            steps_are(trial, &provider, &name, project, before + 1 - project.created().len()).await
        };
        attempt.await.map_err(at_step(operation, "killed", number, &steps))?;
    }
    trial.delete_leaves_nothing(&name).await
}
