//! Create, start, stop, delete and status, undisturbed.

use super::trial::{Failure, Outcome, Trial, ensure, equal, runs};
use super::{Case, case};
use crate::provider::{CreateOptions, EventsOptions, ExecRequest, LogsOptions, ProviderExt, TerminalSize};
use crate::workspace::{Operation, WorkspaceStatus};
use crate::{ErrorKind, WorkspaceName};

pub(super) const CASES: &[Case] = &[
    case!(
        "create-runs",
        1,
        create_runs,
        [],
        "create gives a running workspace of the spec, and status says the same"
    ),
    case!("create-again-is-the-same", 2, create_again, [], "the same create again gives the same workspace"),
    case!(
        "create-other-spec-conflicts",
        2,
        create_other_spec,
        [],
        "another spec under the same name is a conflict and leaves the workspace as it is"
    ),
    case!(
        "create-leaves-stopped",
        2,
        create_leaves_stopped,
        [],
        "create of a stopped workspace leaves it stopped"
    ),
    case!("delete-missing-succeeds", 2, delete_missing, [], "delete of what is gone succeeds and says so"),
    case!("delete-leaves-nothing", 3, delete_leaves_nothing, [], "delete removes everything and says what"),
    case!("delete-stopped-leaves-nothing", 7, delete_stopped, [], "a stopped workspace is deleted as well"),
    case!(
        "names-are-free-after-delete",
        3,
        names_are_free,
        [],
        "a deleted name is free for another spec, with a new identity"
    ),
    case!("missing-is-not-found", 5, missing, [], "asking for what never was gives not-found"),
    case!(
        "others-are-left-alone",
        3,
        others_left_alone,
        [],
        "stop and delete touch no workspace whose name begins alike"
    ),
    case!(
        "start-and-stop-again-succeed",
        2,
        start_stop_again,
        [],
        "stop of a stopped and start of a started succeed"
    ),
    case!(
        "data-survives-stop-and-start",
        8,
        data_survives,
        [Exec],
        "files survive the first and the second stop and start"
    ),
    case!(
        "delete-removes-data",
        8,
        delete_removes_data,
        [Exec],
        "a workspace made anew has none of the old files"
    ),
    case!(
        "stopped-runs-no-commands",
        9,
        stopped_runs_nothing,
        [Exec],
        "a command in a stopped workspace is refused"
    ),
    case!(
        "state-wiped-loses-nothing",
        4,
        state_wiped,
        [],
        "without local state everything is found and works"
    ),
    case!(
        "checkout-has-the-files",
        1,
        checkout,
        [Checkout, Exec, ExpectedFile],
        "the checkout has the repository's files"
    ),
    case!("unsupported-is-said", 9, unsupported, [], "what the capabilities deny is refused as unsupported"),
];

async fn create_runs(trial: &Trial) -> Outcome {
    let name = trial.name()?;
    let provider = trial.provider().await?;
    let created = trial.create_makes_one(&name, &trial.fixture.spec()).await?;
    equal("the name that create answers", &name, &created.name)?;
    equal("the provider that create answers", provider.name(), &created.provider)?;
    let status = trial.ok("status", provider.status(&name)).await?;
    runs("status", &status, created.id)?;
    equal("the spec that status answers", &created.spec, &status.spec)?;
    equal("the time of creation", &created.created, &status.created)?;
    let residue = trial.ok("asking the backend", trial.fixture.residue(&name)).await?;
    // Otherwise every later "nothing left" would prove nothing.
    ensure(!residue.is_empty(), "the fixture's residue of an existing workspace", "something", "nothing")
}

async fn create_again(trial: &Trial) -> Outcome {
    let (name, provider, created) = trial.running().await?;
    for provider in [provider, trial.provider().await?] {
        let again = trial.ok("create again", provider.create(&name, &trial.fixture.spec())).await?;
        runs("create again", &again, created.id)?;
    }
    Ok(())
}

async fn create_other_spec(trial: &Trial) -> Outcome {
    let (name, provider, created) = trial.running().await?;
    let other = trial.fixture.other_spec();
    ensure(other != created.spec, "the fixture's other spec", "another spec", "the same one")?;
    trial.fails("create with another spec", &[ErrorKind::Conflict], provider.create(&name, &other)).await?;
    let status = trial.ok("status after the conflict", provider.status(&name)).await?;
    runs("status after the conflict", &status, created.id)?;
    equal("the spec after the conflict", &created.spec, &status.spec)?;
    trial.ok("stop", provider.stop(&name)).await?;
    trial
        .fails(
            "create with another spec when stopped",
            &[ErrorKind::Conflict],
            provider.create(&name, &other),
        )
        .await?;
    Ok(())
}

async fn create_leaves_stopped(trial: &Trial) -> Outcome {
    let (name, provider, created) = trial.running().await?;
    let stopped = trial.ok("stop", provider.stop(&name)).await?;
    is_stopped("stop", &stopped.status)?;
    let again =
        trial.ok("create of a stopped workspace", provider.create(&name, &trial.fixture.spec())).await?;
    equal("create of a stopped workspace", &created.id, &again.id)?;
    is_stopped("create of a stopped workspace", &again.status)
}

fn is_stopped(what: &str, status: &WorkspaceStatus) -> Outcome {
    ensure(matches!(status, WorkspaceStatus::Stopped { .. }), what, "a stopped workspace", status)
}

async fn delete_missing(trial: &Trial) -> Outcome {
    let (name, provider) = (trial.name()?, trial.provider().await?);
    let deletion = trial.ok("delete of what never was", provider.delete(&name)).await?;
    ensure(!deletion.existed, "delete of what never was", "existed false", "existed true")?;
    trial.ok("create", provider.create(&name, &trial.fixture.spec())).await?;
    trial.ok("delete", provider.delete(&name)).await?;
    let deletion = trial.ok("delete again", provider.delete(&name)).await?;
    ensure(!deletion.existed, "delete again", "existed false", "existed true")
}

async fn delete_leaves_nothing(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let deletion = trial.ok("delete", provider.delete(&name)).await?;
    ensure(deletion.existed, "delete", "existed true", "existed false")?;
    ensure(!deletion.removed.is_empty(), "delete", "a list of what was removed", "an empty list")?;
    trial.nothing_left("delete", &name).await?;
    trial.fails("status after delete", &[ErrorKind::NotFound], provider.status(&name)).await?;
    let listed = trial.ok("list after delete", provider.list()).await?;
    let found = listed.iter().any(|workspace| workspace.name == name);
    ensure(!found, "list after delete", "not the deleted one", "the deleted one")
}

async fn delete_stopped(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    trial.ok("stop", provider.stop(&name)).await?;
    trial.delete_leaves_nothing(&name).await
}

async fn names_are_free(trial: &Trial) -> Outcome {
    let (name, _, first) = trial.running().await?;
    trial.delete_leaves_nothing(&name).await?;
    let second = trial.create_makes_one(&name, &trial.fixture.other_spec()).await?;
    ensure(first.id != second.id, "the identity after a delete", "a new one", "the old one")
}

async fn others_left_alone(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let longer = trial.name_beginning_with(&name)?;
    let other = trial.ok("create", provider.create(&longer, &trial.fixture.spec())).await?;
    let exec = provider.capabilities_of(&trial.fixture.spec()).commands.exec;
    if exec {
        trial.write(&provider, &longer, "kept", b"of the other").await?;
    }
    trial.ok("stop", provider.stop(&name)).await?;
    runs("the other one after stop", &trial.ok("status", provider.status(&longer)).await?, other.id)?;
    trial.delete_leaves_nothing(&name).await?;
    runs("the other one after delete", &trial.ok("status", provider.status(&longer)).await?, other.id)?;
    if exec {
        let kept = trial.text(&provider, &longer, &["cat", "kept"]).await?;
        equal("the other one's file", &"of the other".to_owned(), &kept)?;
    }
    trial.delete_leaves_nothing(&longer).await
}

async fn missing(trial: &Trial) -> Outcome {
    let (name, provider) = (trial.name()?, trial.provider().await?);
    let not_found = &[ErrorKind::NotFound];
    trial.fails("status", not_found, provider.status(&name)).await?;
    trial.fails("start", not_found, provider.start(&name)).await?;
    trial.fails("stop", not_found, provider.stop(&name)).await?;
    let capabilities = provider.capabilities_of(&trial.fixture.spec());
    if capabilities.commands.exec {
        trial.fails("exec", not_found, provider.exec(&name, ExecRequest::new(["echo"]))).await?;
    }
    if capabilities.logs {
        let logs = async { provider.workspace_logs(&name, LogsOptions::default()).await.map(|_| "a stream") };
        trial.fails("logs", not_found, logs).await?;
    }
    if capabilities.events {
        let events =
            async { provider.workspace_events(&name, EventsOptions::default()).await.map(|_| "a stream") };
        trial.fails("events", not_found, events).await?;
    }
    Ok(())
}

async fn start_stop_again(trial: &Trial) -> Outcome {
    let (name, provider, created) = trial.running().await?;
    let started = trial.ok("start of a running workspace", provider.start(&name)).await?;
    runs("start of a running workspace", &started, created.id)?;
    for what in ["stop", "stop again"] {
        let stopped = trial.ok(what, provider.stop(&name)).await?;
        equal(what, &created.id, &stopped.id)?;
        is_stopped(what, &stopped.status)?;
        let status = trial.ok("status", provider.status(&name)).await?;
        is_stopped("status after stop", &status.status)?;
    }
    for what in ["start", "start again"] {
        let started = trial.ok(what, provider.start(&name)).await?;
        runs(what, &started, created.id)?;
        let status = trial.ok("status", provider.status(&name)).await?;
        runs("status after start", &status, created.id)?;
    }
    Ok(())
}

async fn data_survives(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    trial.write(&provider, &name, "kept", b"before the first stop").await?;
    for cycle in ["first", "second"] {
        trial.ok(format!("{cycle} stop"), provider.stop(&name)).await?;
        trial.ok(format!("{cycle} start"), provider.start(&name)).await?;
        let kept = trial.text(&provider, &name, &["cat", "kept"]).await;
        let kept = kept.map_err(|failure| failure.at(format_args!("after the {cycle} cycle")))?;
        equal(format_args!("the file after the {cycle} cycle"), &"before the first stop".to_owned(), &kept)?;
        let file = format!("written-after-the-{cycle}");
        trial.write(&provider, &name, &file, b"later").await?;
    }
    let later = trial.text(&provider, &name, &["cat", "written-after-the-first"]).await?;
    equal("the file of the first cycle after the second", &"later".to_owned(), &later)
}

async fn delete_removes_data(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    trial.write(&provider, &name, "kept", b"old").await?;
    trial.delete_leaves_nothing(&name).await?;
    trial.ok("create anew", provider.create(&name, &trial.fixture.spec())).await?;
    let output = trial.run(&provider, &name, &["cat", "kept"]).await?;
    let came = format!("{:?} with {:?}", output.status, String::from_utf8_lossy(&output.stdout));
    ensure(!output.status.is_success(), "cat of a deleted workspace's file", "a failure", came)
}

async fn stopped_runs_nothing(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    trial.ok("stop", provider.stop(&name)).await?;
    let call = provider.exec(&name, ExecRequest::new(["echo"]));
    trial.fails("exec in a stopped workspace", &[ErrorKind::InvalidState], call).await?;
    trial.ok("start", provider.start(&name)).await?;
    let echoed = trial.text(&provider, &name, &["echo", "again"]).await?;
    equal("exec after start", &"again\n".to_owned(), &echoed)
}

async fn state_wiped(trial: &Trial) -> Outcome {
    let (one, provider, first) = trial.running().await?;
    let two = trial.name()?;
    let second = trial.ok("create", provider.create(&two, &trial.fixture.other_spec())).await?;
    trial.ok("stop", provider.stop(&two)).await?;
    drop(provider);
    trial.ok("wiping local state", trial.fixture.wipe_local_state()).await?;

    let provider = trial.provider().await?;
    let listed = trial.ok("list", provider.list()).await?;
    for (name, created) in [(&one, &first), (&two, &second)] {
        let found = listed.iter().find(|workspace| workspace.name == *name);
        let found =
            found.ok_or_else(|| Failure::new("list", format_args!("{name} in it"), "a list without it"))?;
        equal("the identity in the list", &created.id, &found.id)?;
        equal("the spec in the list", &created.spec, &found.spec)?;
    }
    runs("status", &trial.ok("status", provider.status(&one)).await?, first.id)?;
    is_stopped("status", &trial.ok("status", provider.status(&two)).await?.status)?;
    if provider.capabilities_of(&trial.fixture.spec()).commands.exec {
        let echoed = trial.text(&provider, &one, &["echo", "found"]).await?;
        equal("exec", &"found\n".to_owned(), &echoed)?;
    }
    let again = trial.ok("create again", provider.create(&one, &trial.fixture.spec())).await?;
    equal("create again", &first.id, &again.id)?;
    runs("start", &trial.ok("start", provider.start(&two)).await?, second.id)?;
    trial.delete_leaves_nothing(&one).await?;
    trial.delete_leaves_nothing(&two).await
}

async fn checkout(trial: &Trial) -> Outcome {
    let Some((path, bytes)) = trial.fixture.expected_file() else { return Ok(()) };
    let (name, provider, created) = trial.running().await?;
    let output = trial.run(&provider, &name, &["cat", &path]).await?;
    ensure(output.stdout == bytes, format_args!("cat {path}"), "the file of the repository", "other bytes")?;
    let checkout = created.checkout.ok_or_else(|| Failure::new("create", "a checkout", "none"))?;
    let absolute = format!("{}/{path}", checkout.path.trim_end_matches('/'));
    let output = trial.run(&provider, &name, &["cat", &absolute]).await?;
    ensure(
        output.stdout == bytes,
        format_args!("cat {absolute}"),
        "the file of the repository",
        "other bytes",
    )
}

async fn unsupported(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let capabilities = provider.capabilities_of(&trial.fixture.spec());
    let unsupported = &[ErrorKind::Unsupported];
    let commands = &capabilities.commands;
    let requests = [
        ("exec", commands.exec, ExecRequest::new(["echo"])),
        (
            "exec with a terminal",
            commands.exec && commands.terminal,
            ExecRequest::new(["echo"]).terminal(TerminalSize::default()),
        ),
        ("a detached exec", commands.exec && commands.detach, ExecRequest::new(["echo"]).detached()),
    ];
    for (what, can, request) in requests {
        if !can {
            trial.fails(what, unsupported, provider.exec(&name, request)).await?;
        }
    }
    if !capabilities.logs {
        let logs = async { provider.workspace_logs(&name, LogsOptions::default()).await.map(|_| "a stream") };
        trial.fails(Operation::Logs, unsupported, logs).await?;
    }
    if !capabilities.events {
        let events =
            async { provider.workspace_events(&name, EventsOptions::default()).await.map(|_| "a stream") };
        trial.fails(Operation::Events, unsupported, events).await?;
    }
    if !capabilities.images {
        let mut spec = trial.fixture.spec();
        spec.image = Some("example.com/none:1".into());
        let unmade: WorkspaceName = trial.name()?;
        let create = provider.create_workspace(&unmade, &spec, CreateOptions::default());
        trial.fails("create with an image", unsupported, create).await?;
        trial.nothing_left("a refused create", &unmade).await?;
    }
    Ok(())
}
