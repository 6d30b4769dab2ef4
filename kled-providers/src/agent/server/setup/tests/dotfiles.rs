//! The user's own files, from real repositories.

use std::path::Path;
use std::process::Command;

use kled_core::setup::{Dotfiles, IgnoredReason, Phase};
use kled_core::{ErrorKind, Result};
use tempfile::TempDir;

use super::fixture::{Running, Workspace};
use crate::agent::{SetupOptions, SetupSummary};

fn git(folder: &Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"];
    let output = Command::new("git").args(identity).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn commit(folder: &Path, files: &[(&str, &str)]) {
    for (file, text) in files {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    git(folder, &["add", "--all"]);
    git(folder, &["commit", "--quiet", "--message", "x"]);
}

fn repository(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    git(folder.path(), &["init", "--quiet"]);
    commit(folder.path(), files);
    folder
}

fn dotfiles(repository: &TempDir) -> Dotfiles {
    let repository = format!("file://{}", repository.path().display()).parse().unwrap();
    Dotfiles { repository, revision: None, install_command: None }
}

async fn install(agent: &Running, dotfiles: &Dotfiles) -> Result<SetupSummary> {
    let options = SetupOptions { dotfiles: Some(dotfiles.clone()), ..SetupOptions::new(Phase::Create) };
    agent.client.set_up(&options, |_| {}).await
}

#[tokio::test]
async fn files_are_linked_and_what_is_there_is_kept() {
    let repository =
        repository(&[(".vimrc", "vim"), (".config/fish", "fish"), (".gitignore", ""), ("README", "")]);
    let workspace = Workspace::new(&[]);
    let home = workspace.path("home");
    std::fs::write(home.join(".vimrc"), "own").unwrap();
    let agent = workspace.agent().await;
    let summary = install(&agent, &dotfiles(&repository)).await.unwrap();
    assert_eq!(std::fs::read_to_string(home.join(".vimrc")).unwrap(), "own");
    assert_eq!(std::fs::read_to_string(home.join(".config/fish")).unwrap(), "fish");
    assert!(
        !home.join("README").exists() && !home.join(".gitignore").exists() && !home.join(".git").exists()
    );
    let ignored: Vec<_> = summary.ignored.iter().map(|field| (field.field.as_str(), field.reason)).collect();
    assert_eq!(ignored, [(".vimrc", IgnoredReason::Exists)]);
}

#[tokio::test]
async fn a_script_is_run_once_with_the_home_folder() {
    // It is not executable in the repository.
    let script = "#!/bin/sh\necho \"$(basename \"$PWD\") $GREETING\" >> \"$HOME/installed\"\n";
    let repository =
        repository(&[("script/setup", "#!/bin/sh\nexit 1\n"), ("install.sh", script), (".vimrc", "")]);
    let workspace = Workspace::new(&[(".kled.yaml", "environment: {GREETING: hello}")]);
    let installed = workspace.path("home").join("installed");
    for _ in 0..2 {
        install(&workspace.agent().await, &dotfiles(&repository)).await.unwrap();
        assert_eq!(std::fs::read_to_string(&installed).unwrap(), "dotfiles hello\n");
    }
    assert!(!workspace.path("home").join(".vimrc").exists());
}

#[tokio::test]
async fn they_belong_to_the_projects_user() {
    let repository = repository(&[(".vimrc", "vim")]);
    let workspace = Workspace::new(&[]);
    let home = workspace.path("home");
    let text = format!(r#"{{"remoteUser": "nobody", "containerEnv": {{"HOME": "{}"}}}}"#, home.display());
    workspace.write(".devcontainer.json", &text);
    let agent = workspace.agent().await;
    install(&agent, &dotfiles(&repository)).await.unwrap();
    let read_and_write = "cat ~/.vimrc; echo more >> ~/.vimrc && tail -n 1 ~/.vimrc";
    assert_eq!(agent.shell(read_and_write).await, "vimvimmore\n");
}

#[tokio::test]
async fn a_failed_installation_is_done_again() {
    let repository = repository(&[("install", "#!/bin/sh\necho broken >&2\nexit 7\n")]);
    let workspace = Workspace::new(&[]);
    let agent = workspace.agent().await;
    let error = install(&agent, &dotfiles(&repository)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SetupFailed);
    assert_eq!(error.to_string(), "dotfiles failed with exit code 7: broken");
    commit(repository.path(), &[("install", "#!/bin/sh\ntouch \"$HOME/installed\"\n")]);
    install(&agent, &dotfiles(&repository)).await.unwrap();
    assert!(workspace.path("home").join("installed").exists());
}

#[tokio::test]
async fn a_command_goes_before_a_script_and_a_revision_is_a_branch_or_a_tag() {
    let repository = repository(&[("version", "main"), ("install", "#!/bin/sh\nexit 1\n")]);
    git(repository.path(), &["tag", "v1"]);
    git(repository.path(), &["checkout", "--quiet", "-b", "next"]);
    commit(repository.path(), &[("version", "next")]);
    git(repository.path(), &["checkout", "--quiet", "main"]);
    commit(repository.path(), &[("version", "newer main")]);
    let workspace = Workspace::new(&[]);
    let agent = workspace.agent().await;
    for (revision, expected) in [(Some("v1"), "main"), (Some("next"), "next"), (None, "newer main")] {
        let dotfiles = Dotfiles {
            revision: revision.map(Into::into),
            install_command: Some("cp version \"$HOME\"".into()),
            ..dotfiles(&repository)
        };
        install(&agent, &dotfiles).await.unwrap();
        assert_eq!(std::fs::read_to_string(workspace.path("home").join("version")).unwrap(), expected);
    }
    let unknown = Dotfiles { revision: Some("v2".into()), ..dotfiles(&repository) };
    assert_eq!(install(&agent, &unknown).await.unwrap_err().kind(), ErrorKind::RevisionNotFound);
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_told_as_such() {
    let missing = tempfile::tempdir().unwrap();
    let workspace = Workspace::new(&[]);
    let error = install(&workspace.agent().await, &dotfiles(&missing)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RepositoryNotFound);
    assert!(error.to_string().starts_with("dotfiles: "), "{error}");
    // Nothing of it is left.
    let left: Vec<_> =
        std::fs::read_dir(workspace.path("state")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["setup.json"]);
}
