//! How a workspace goes: its name is given back at once, then what runs is killed and what is stored is removed.

use std::time::Duration;

use kled_core::{Error, ErrorKind, Result, WorkspaceId, WorkspaceName};
use rustix::process::Signal;

use super::cgroup::{Group, Hierarchy};
use super::layout::{Folder, Lock, Root, blocking, create_private, file_error, read_json, remove_folder};
use super::record::Record;
use super::serve::WORKSPACE_ID;
use crate::agent::checkout::end_left_behind;
use crate::agent::proc;
use crate::local::process_id::{self, ProcessId};

/// How long killed processes may take to end, and their files to be closed.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// Between two looks at something that is about to end.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Puts the folder of a workspace into the trash. `None` when there is none.
pub(crate) fn put_into_trash(root: &Root, name: &WorkspaceName) -> Result<Option<Folder>> {
    root.locked(|| {
        let folder = root.folder(name);
        if !folder.path().exists() {
            return Ok(None);
        }
        move_to_trash(root, &folder, name).map(Some)
    })
}

fn move_to_trash(root: &Root, folder: &Folder, name: &WorkspaceName) -> Result<Folder> {
    let trash = root.trash();
    create_private(&trash).map_err(|cause| file_error("cannot create", &trash, cause))?;
    let trashed = trash.join(format!("{name}.{}", WorkspaceId::random()));
    std::fs::rename(folder.path(), &trashed)
        .map_err(|cause| file_error("cannot remove", folder.path(), cause))?;
    Ok(Folder::at(trashed))
}

/// Kills what runs in a folder of the trash and removes it. Says what was removed.
pub(crate) async fn empty(folder: &Folder, hierarchy: &Hierarchy) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    // A record that cannot be read is no reason to keep the rest.
    match read_json::<Record>(&folder.record()) {
        Ok(Some(record)) => {
            end_checkout(folder, record.id).await?;
            removed.extend(end_run(folder, record.id, hierarchy).await?);
        }
        _ => kill_supervisor(folder).await?,
    }
    let deadline = tokio::time::Instant::now() + KILL_LIMIT;
    loop {
        let path = folder.clone();
        let result = blocking(move || remove_folder(path.path())).await;
        match result {
            // A clone that is being killed may still have written a file behind the removal.
            Err(error) if error.kind() == ErrorKind::Internal && tokio::time::Instant::now() < deadline => {
                tracing::debug!(%error, "removing again");
                tokio::time::sleep(LOOK_PERIOD).await;
            }
            result => {
                result?;
                break;
            }
        }
    }
    Ok(removed)
}

/// Removes what a clone made anew, by its path, between the removal of its folder and its own end. Called when nothing
/// of it runs any more. A folder without a record is no workspace.
pub(crate) fn remove_remade(root: &Root, name: &WorkspaceName) -> Result<()> {
    root.locked(|| {
        let folder = root.folder(name);
        if folder.path().exists() && !folder.record().exists() {
            remove_folder(folder.path())
        } else {
            Ok(())
        }
    })
}

/// Ends a clone whose creator was killed.
pub(crate) async fn end_checkout(folder: &Folder, id: WorkspaceId) -> Result<()> {
    if end_left_behind(&id.to_string(), folder.path(), KILL_LIMIT).await {
        return Ok(());
    }
    Err(Error::timeout("kill", KILL_LIMIT).with("folder", folder.path().display()))
}

/// Ends a run, if there is one: its supervisor, and every process of the workspace, also of one whose supervisor was
/// killed. Says what was removed.
pub(crate) async fn end_run(folder: &Folder, id: WorkspaceId, hierarchy: &Hierarchy) -> Result<Vec<String>> {
    // Looked for before anything is killed: a process that is ending has lost its environment before its files.
    let running = running(folder, id);
    kill_supervisor(folder).await?;
    let removed = Group::of(hierarchy, id).remove().await;
    let id = id.to_string();
    let killed = proc::kill_all(KILL_LIMIT, || proc::with_variable(WORKSPACE_ID, &id)).await;
    if killed && process_id::ended(KILL_LIMIT, &running).await {
        return Ok(removed);
    }
    Err(Error::timeout("kill", KILL_LIMIT)
        .hint("a process of the workspace cannot be killed; it may wait for a disk"))
}

fn running(folder: &Folder, id: WorkspaceId) -> Vec<ProcessId> {
    let mut numbers = proc::with_variable(WORKSPACE_ID, &id.to_string());
    if let Ok(Some(supervisor)) = read_json::<ProcessId>(&folder.supervisor_lock())
        && supervisor.is_alive()
    {
        numbers.insert(supervisor.number);
        numbers.extend(proc::descendants(supervisor.number));
    }
    numbers.into_iter().filter_map(ProcessId::of).collect()
}

/// Kills the supervisor, if there is one, and waits until it and what it started are gone.
async fn kill_supervisor(folder: &Folder) -> Result<()> {
    let deadline = tokio::time::Instant::now() + KILL_LIMIT;
    let path = folder.supervisor_lock();
    while Lock::is_held(&path)? {
        // Until it has written who it is there is nobody to kill.
        if let Ok(Some(supervisor)) = read_json::<ProcessId>(&path) {
            supervisor.signal(Signal::KILL);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::timeout("kill", KILL_LIMIT).with("lock", path.display()));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    Ok(())
}

/// For a supervisor whose workspace has outlived its time: removes the workspace that it holds the lock of.
pub(crate) fn expire(folder: &Folder, lock: &Lock) -> Result<()> {
    let root = folder.path().parent().and_then(|workspaces| workspaces.parent());
    let name = folder.path().file_name().and_then(|name| name.to_str()).map(WorkspaceName::new);
    let (Some(root), Some(Ok(name))) = (root, name) else { return Ok(()) };
    let root = Root::new(root.to_owned());
    let trashed = root.locked(|| {
        // Deleted by somebody else, perhaps made anew: then nothing here is ours.
        if lock.is_current() { move_to_trash(&root, folder, &name).map(Some) } else { Ok(None) }
    })?;
    trashed.map_or(Ok(()), |trashed| remove_folder(trashed.path()))
}
