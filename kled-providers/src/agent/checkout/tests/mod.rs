//! Real git against real servers.

mod processes;
mod servers;

use std::path::Path;
use std::sync::Mutex;

use kled_core::workspace::WorkspaceSpec;
use tempfile::TempDir;

use super::*;
use servers::{Daemon, HttpServer, Repository as TestRepository, git};

/// A source as the public builder makes it, after `change`.
fn source(repository: &str, change: impl FnOnce(&mut Source)) -> Source {
    let mut source = WorkspaceSpec::builder(repository).build().unwrap().source;
    change(&mut source);
    source
}

fn local(repository: &TestRepository, change: impl FnOnce(&mut Source)) -> Source {
    source(repository.path().to_str().unwrap(), change)
}

async fn check_out(source: &Source) -> (TempDir, Result<CheckedOut>) {
    let directory = tempfile::tempdir().unwrap();
    let result = checkout(source, directory.path(), &CheckoutOptions::default()).await;
    (directory, result)
}

async fn refused(source: &Source) -> Error {
    let (_directory, result) = check_out(source).await;
    let error = result.unwrap_err();
    assert_eq!(error.operation(), Some("checkout"));
    assert!(error.context().any(|(key, _)| key == "repository"), "{error}");
    error
}

fn content(directory: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(file)).ok()
}

fn commits(directory: &Path) -> usize {
    git(directory, &["rev-list", "--all"]).lines().count()
}

#[tokio::test]
async fn the_default_branch_is_shallow_and_self_contained() {
    let repository = TestRepository::new();
    let (directory, result) = check_out(&local(&repository, |_| {})).await;
    assert_eq!(result.unwrap().commit, repository.revision("main"));
    assert_eq!(content(directory.path(), "web/index.txt").as_deref(), Some("web"));
    assert_eq!(commits(directory.path()), 1);
    assert!(!directory.path().join(".git/objects/info/alternates").exists());
    assert_eq!(git(directory.path(), &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn all_of_the_history_where_asked_for() {
    let repository = TestRepository::new();
    let (directory, result) = check_out(&local(&repository, |source| source.history = History::Full)).await;
    assert_eq!(result.unwrap().commit, repository.revision("main"));
    assert_eq!(commits(directory.path()), 3);
}

#[tokio::test]
async fn branches_and_tags_of_one_name_are_told_apart() {
    let repository = TestRepository::new();
    let first = repository.revision("light");
    let last = repository.revision("main");
    assert_ne!(first, last);
    let branch = |name: &str| Revision::Branch(name.parse().unwrap());
    let tag = |name: &str| Revision::Tag(name.parse().unwrap());
    let cases = [
        (branch("feature/one"), &first),
        (branch("both"), &last),
        (tag("light"), &first),
        (tag("annotated"), &first),
        (tag("both"), &first),
    ];
    for history in [History::Shallow, History::Full] {
        for (revision, commit) in cases.clone() {
            let source = local(&repository, |source| {
                source.revision = revision.clone();
                source.history = history;
            });
            let (directory, result) = check_out(&source).await;
            assert_eq!(&result.unwrap().commit, commit, "{revision:?} {history:?}");
            assert_eq!(&git(directory.path(), &["rev-parse", "HEAD"]), commit, "{revision:?}");
        }
        for revision in [branch("light"), branch("none"), tag("feature/one"), tag("none")] {
            let source = local(&repository, |source| {
                source.revision = revision.clone();
                source.history = history;
            });
            let error = refused(&source).await;
            assert_eq!(error.kind(), ErrorKind::RevisionNotFound, "{revision:?}: {error}");
            assert!(error.context().any(|(key, _)| key == "revision"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_commit_by_its_whole_or_short_identity() {
    let repository = TestRepository::new();
    let first = repository.revision("light");
    // A tag that looks like the short identity of another commit must not be taken for it.
    repository.git(&["tag", &first[..8], "main"]);
    for (text, history, seen) in [
        (first.as_str(), History::Shallow, 1),
        (first.as_str(), History::Full, 3),
        (&first[..7], History::Shallow, 3),
    ] {
        let source = local(&repository, |source| {
            source.revision = Revision::Commit(text.parse().unwrap());
            source.history = history;
        });
        let (directory, result) = check_out(&source).await;
        assert_eq!(result.unwrap().commit, first, "{text}");
        assert_eq!(commits(directory.path()), seen, "{text}");
        assert_eq!(content(directory.path(), "web/index.txt"), None);
    }
    for text in ["0123456789012345678901234567890123456789", "0123456", &first[..8]] {
        let source = local(&repository, |source| source.revision = Revision::Commit(text.parse().unwrap()));
        assert_eq!(refused(&source).await.kind(), ErrorKind::RevisionNotFound, "{text}");
    }
}

#[tokio::test]
async fn one_folder_through_sparse_checkout() {
    let repository = TestRepository::new();
    let commit = repository.revision("main");
    let revisions = [
        Revision::Default,
        Revision::Branch("main".parse().unwrap()),
        Revision::Commit(commit.parse().unwrap()),
        Revision::Commit(commit[..10].parse().unwrap()),
    ];
    for revision in revisions {
        for history in [History::Shallow, History::Full] {
            let with_path = |path: &str| {
                local(&repository, |source| {
                    source.revision = revision.clone();
                    source.history = history;
                    source.path = Some(path.parse().unwrap());
                })
            };
            let (directory, result) = check_out(&with_path("web")).await;
            assert_eq!(result.unwrap().commit, commit, "{revision:?}");
            assert_eq!(content(directory.path(), "web/index.txt").as_deref(), Some("web"), "{revision:?}");
            assert_eq!(content(directory.path(), "api/main.txt"), None, "{revision:?}");
            let error = refused(&with_path("none")).await;
            assert_eq!(error.kind(), ErrorKind::RevisionNotFound);
            assert!(error.context().any(|pair| pair == ("path", "none")), "{error}");
        }
    }
}

#[tokio::test]
async fn submodules_are_checked_out_with_theirs() {
    let inner = TestRepository::new();
    let middle = TestRepository::new();
    let outer = TestRepository::new();
    let add = |to: &TestRepository, what: &TestRepository, name: &str| {
        let address = what.path();
        let arguments = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "--"];
        to.git(&[&arguments[..], &[address.to_str().unwrap(), name]].concat());
        to.commit("changed.txt", name);
    };
    add(&middle, &inner, "inner");
    add(&outer, &middle, "libraries/middle");
    let (directory, result) = check_out(&local(&outer, |_| {})).await;
    result.unwrap();
    let file = "libraries/middle/inner/readme.txt";
    assert_eq!(content(directory.path(), file).as_deref(), Some("one"));

    // Another folder than that of the submodule: it stays out.
    let (directory, result) =
        check_out(&local(&outer, |source| source.path = Some("web".parse().unwrap()))).await;
    result.unwrap();
    assert_eq!(content(directory.path(), file), None);

    // A repository of elsewhere must not reach into this machine's files.
    let daemon = Daemon::start(outer.parent());
    let error =
        refused(&source(&format!("git://127.0.0.1:{}/app%20with%20100%25", daemon.port), |_| {})).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
}

#[tokio::test]
async fn what_is_not_a_repository() {
    let repository = TestRepository::new();
    let daemon = Daemon::start(repository.parent());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let addresses = [
        repository.parent().to_str().unwrap().to_owned(),
        "/nowhere/at/all".to_owned(),
        "file:///nowhere/at/all".to_owned(),
        format!("git://127.0.0.1:{}/other", daemon.port),
        format!("git://127.0.0.1:{closed}/app"),
        format!("http://127.0.0.1:{closed}/app"),
        "http://kled.invalid/app".to_owned(),
    ];
    for address in addresses {
        let error = refused(&source(&address, |_| {})).await;
        assert_eq!(error.kind(), ErrorKind::RepositoryNotFound, "{address}: {error:?}");
    }
    let empty = TestRepository::empty();
    assert_eq!(refused(&local(&empty, |_| {})).await.kind(), ErrorKind::RevisionNotFound);
}

#[tokio::test]
async fn a_login_that_is_missing_or_wrong() {
    let repository = TestRepository::new();
    let server = HttpServer::start(repository.parent());
    let address = format!("http://127.0.0.1:{}/app%20with%20100%25", server.port);
    let error = refused(&source(&address, |_| {})).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(error.hint_text().is_some());
}

#[tokio::test]
async fn progress_is_reported() {
    let repository = TestRepository::new();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&lines);
    let report: Report = Arc::new(move |line: &str| taken.lock().unwrap().push(line.to_owned()));
    let directory = tempfile::tempdir().unwrap();
    let options = CheckoutOptions { report, ..CheckoutOptions::default() };
    checkout(&local(&repository, |_| {}), directory.path(), &options).await.unwrap();
    let lines = lines.lock().unwrap();
    assert!(lines.iter().any(|line| line.contains("Cloning into")), "{lines:?}");
}
