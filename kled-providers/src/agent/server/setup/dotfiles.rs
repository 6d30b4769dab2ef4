//! Brings the user's own files into the home folder.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kled_core::provider::Variables;
use kled_core::setup::{CommandSet, DOTFILES_SCRIPTS, Dotfiles, DotfilesInstall, SetupCommand, StepKind};
use kled_core::workspace::{CommitId, Revision, Source};
use kled_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc;

use super::{Applied, Progress, blocking, reworded, step};
use crate::agent::checkout::{CheckoutOptions, checkout};
use crate::agent::server::account::Account;
use crate::agent::server::checkout::empty;
use crate::agent::server::commands::Commands;

/// The folder of the repository, where the agent keeps its state.
const FOLDER: &str = "dotfiles";

/// The same in a home folder, where the agent keeps no state, or none that the user can read.
const FOLDER_IN_HOME: &str = ".kled-dotfiles";

/// Lines of git's progress that wait to be sent; more are left out.
const LINES: usize = 16;

fn failed(what: &str, path: &Path, cause: &io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("dotfiles: cannot {what} {}: {cause}", path.display()))
}

/// Checks them out and installs them. Answers what the home folder had already, and kept.
pub(super) async fn install(
    commands: &Arc<Commands>,
    dotfiles: &Dotfiles,
    applied: &Applied,
    environment: &Variables,
    progress: &Progress,
) -> Result<Vec<String>> {
    let home = applied.environment.0.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = home.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "dotfiles need a home folder, and HOME is not set")
    })?;
    let folder = match &commands.configuration.state {
        Some(state) if applied.account.is_none() => state.join(FOLDER),
        // Another user may not be able to read what the agent keeps.
        _ => home.join(FOLDER_IN_HOME),
    };
    tokio::select! {
        done = fetch(dotfiles, &folder, applied.account.clone(), progress) => done?,
        () = progress.abandoned() => return Err(step::abandoned()),
    }
    let place = folder.clone();
    let files = blocking(move || files(&place)).await?;
    let command = match dotfiles.install(files.iter().map(String::as_str)) {
        DotfilesInstall::Link(names) => return blocking(move || link(&names, &folder, &home)).await,
        DotfilesInstall::Command(command) => SetupCommand::Shell(command),
        DotfilesInstall::Script(script) => {
            let path = folder.join(script);
            let program = path.display().to_string();
            blocking(move || make_executable(&path).map_err(|cause| failed("run", &path, &cause))).await?;
            SetupCommand::Arguments(vec![program])
        }
    };
    let commands_of_step = BTreeMap::from([(String::new(), command)]);
    let set =
        CommandSet { field: StepKind::Dotfiles.as_str().into(), line: None, commands: commands_of_step };
    let place = step::Place { folder: &folder, environment };
    step::run(commands, &set, None, place, progress).await?;
    Ok(Vec::new())
}

/// Checks the repository out beside `folder`, which it then replaces.
async fn fetch(
    dotfiles: &Dotfiles,
    folder: &Path,
    account: Option<Account>,
    progress: &Progress,
) -> Result<()> {
    let parent = folder.parent().unwrap_or(folder).to_owned();
    let arriving = blocking(move || {
        std::fs::create_dir_all(&parent)
            .and_then(|()| tempfile::Builder::new().prefix(".dotfiles-").tempdir_in(&parent))
            .map_err(|cause| failed("write to", &parent, &cause))
    })
    .await?;
    let (lines, mut reported) = mpsc::channel(LINES);
    let report = move |line: &str| {
        let _left_out = lines.try_send(line.to_owned());
    };
    let options = CheckoutOptions { report: Arc::new(report), ..CheckoutOptions::default() };
    let checking_out = async {
        let result = check_out(dotfiles, arriving.path(), &options).await;
        // Ends the lines.
        drop(options);
        result
    };
    let reporting = async {
        while let Some(line) = reported.recv().await {
            progress.line(line).await;
        }
    };
    let (result, ()) = tokio::join!(checking_out, reporting);
    result.map_err(|error| reworded(&error, format!("dotfiles: {error}")))?;
    let folder = folder.to_owned();
    blocking(move || {
        if let Some(account) = account {
            account.own(arriving.path()).map_err(|cause| failed("give away", &folder, &cause))?;
        }
        let replaced = match std::fs::remove_dir_all(&folder) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            _ => std::fs::rename(arriving.keep(), &folder),
        };
        replaced.map_err(|cause| failed("write to", &folder, &cause))
    })
    .await
}

/// A revision is a full commit, a branch or a tag, tried in this order.
async fn check_out(dotfiles: &Dotfiles, folder: &Path, options: &CheckoutOptions) -> Result<()> {
    let source = |revision| Source { revision, ..Source::new(dotfiles.repository.clone()) };
    let Some(name) = &dotfiles.revision else {
        return checkout(&source(Revision::Default), folder, options).await.map(drop);
    };
    if let Some(commit) = name.parse::<CommitId>().ok().filter(CommitId::is_full) {
        return checkout(&source(Revision::Commit(commit)), folder, options).await.map(drop);
    }
    match checkout(&source(Revision::Branch(name.parse()?)), folder, options).await {
        Err(error) if error.kind() == ErrorKind::RevisionNotFound => {
            let place = folder.to_owned();
            blocking(move || empty(&place).map_err(|cause| failed("write to", &place, &cause))).await?;
            checkout(&source(Revision::Tag(name.parse()?)), folder, options).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// The paths by which it is decided how they are installed.
fn files(folder: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        let is_file = |script: &&str| folder.join(script).is_file();
        // A folder named like a script is none.
        let top = names.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
        let top = top.filter(|name| !DOTFILES_SCRIPTS.contains(&name.as_str()));
        Ok(top.chain(DOTFILES_SCRIPTS.iter().copied().filter(is_file).map(Into::into)).collect())
    };
    list().map_err(|cause| failed("read", folder, &cause))
}

fn make_executable(script: &Path) -> io::Result<()> {
    let mut permissions = std::fs::metadata(script)?.permissions();
    if permissions.mode() & 0o100 == 0 {
        permissions.set_mode(permissions.mode() | 0o700);
        std::fs::set_permissions(script, permissions)?;
    }
    Ok(())
}

/// Links `names` of `folder` into `home`. Answers those that something else is there for.
fn link(names: &[String], folder: &Path, home: &Path) -> Result<Vec<String>> {
    let mut kept = Vec::new();
    for name in names {
        let (target, place) = (folder.join(name), home.join(name));
        match symlink(&target, &place) {
            Ok(()) => {}
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                if std::fs::read_link(&place).ok().as_ref() != Some(&target) {
                    kept.push(name.clone());
                }
            }
            Err(cause) => return Err(failed("link", &place, &cause)),
        }
    }
    Ok(kept)
}
