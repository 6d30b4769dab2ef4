//! What becomes of git when its caller gives up, dies or lacks something. Some of it needs a process of its own: the
//! test runs itself again, with the scene to play in the environment.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::*;
use super::servers::{HttpServer, Repository as TestRepository, SilentServer, git};
use super::source;

const DEADLINE: Duration = Duration::from_secs(20);
const ADDRESS: &str = "KLED_TEST_ADDRESS";
const DIRECTORY: &str = "KLED_TEST_DIRECTORY";
const COMMIT: &str = "KLED_TEST_COMMIT";

/// The processes that run in `directory`, even if it has been removed.
fn processes_in(directory: &Path) -> Vec<PathBuf> {
    let inside = |process: &PathBuf| {
        std::fs::read_link(process.join("cwd")).is_ok_and(|folder| {
            let folder = folder.to_string_lossy();
            folder.trim_end_matches(" (deleted)") == directory.to_string_lossy()
        })
    };
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    processes.filter(inside).collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs one of the scenes below in a process of its own.
fn scene(name: &str, address: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            &format!("agent::checkout::tests::processes::{name}"),
            "--include-ignored",
            "--nocapture",
        ])
        .env(ADDRESS, address)
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The scene: check out and print what came of it.
#[tokio::test]
#[ignore = "a scene of other tests, which run it in a process of its own"]
async fn scene_of_one_checkout() {
    // Run with all ignored tests, it has no scene to play.
    let (Ok(address), Ok(directory)) = (std::env::var(ADDRESS), std::env::var(DIRECTORY)) else { return };
    let source = source(&address, |source| {
        if let Ok(commit) = std::env::var(COMMIT) {
            source.revision = Revision::Commit(commit.parse().unwrap());
        }
    });
    let result = checkout(&source, Path::new(&directory), &CheckoutOptions::default()).await;
    match result {
        Ok(_) => println!("RESULT ok"),
        Err(error) => println!("RESULT {} {:?} {error:?}", error.kind(), error.hint_text()),
    }
}

fn result_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let result =
        text.lines().find_map(|line| line.split_once("RESULT ")).map(|(_, result)| result.to_owned());
    result.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_no_process_and_no_lock() {
    let server = SilentServer::start();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().canonicalize().unwrap();
    let lock = tempfile::NamedTempFile::new().unwrap();
    let file = lock.reopen().unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let descriptor = file.as_raw_fd();
    let options = CheckoutOptions { inherited: Some(Arc::new(file)), ..CheckoutOptions::default() };
    let source = source(&format!("git://127.0.0.1:{}/app", server.port), |_| {});
    let is_held = || {
        let other = lock.reopen().unwrap();
        rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
    };
    {
        let running = checkout(&source, &directory, &options);
        let inherits = |git: &PathBuf| {
            std::fs::read_link(git.join(format!("fd/{descriptor}"))).is_ok_and(|file| file == lock.path())
        };
        let started = until("git runs and has the lock", || processes_in(&directory).iter().any(inherits));
        tokio::select! {
            result = running => panic!("it ended: {result:?}"),
            () = started => {}
        }
        // The future is dropped here.
    }
    until("git is gone", || processes_in(&directory).is_empty()).await;
    assert!(is_held(), "the caller still has it");
    drop(options);
    until("the lock is free", || !is_held()).await;
}

#[tokio::test]
async fn a_caller_that_is_killed_leaves_no_process() {
    let server = SilentServer::start();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().canonicalize().unwrap();
    let address = format!("git://127.0.0.1:{}/app", server.port);
    let mut caller = scene("scene_of_one_checkout", &address, &directory).spawn().unwrap();
    until("git runs", || !processes_in(&directory).is_empty()).await;
    caller.kill().unwrap();
    caller.wait().unwrap();
    until("git is gone", || processes_in(&directory).is_empty()).await;
}

#[tokio::test]
async fn a_folder_that_is_removed_is_not_made_anew() {
    let server = SilentServer::start();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().canonicalize().unwrap().join("checkout");
    std::fs::create_dir(&directory).unwrap();
    let source = source(&format!("git://127.0.0.1:{}/app", server.port), |_| {});
    let options = CheckoutOptions::default();
    let running = checkout(&source, &directory, &options);
    let removed = async {
        // Then git has made what it needs to begin with, and is at nothing else.
        until("git waits for the server", || server.is_asked()).await;
        std::fs::remove_dir_all(&directory).unwrap();
        drop(server);
    };
    let (result, ()) = futures::join!(running, removed);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(!directory.exists());
}

#[tokio::test]
async fn the_users_credential_helper_is_asked() {
    let repository = TestRepository::new();
    let server = HttpServer::start(repository.parent());
    let address = format!("http://127.0.0.1:{}/app%20with%20100%25", server.port);
    let home = tempfile::tempdir().unwrap();
    let answer = |password: &str| format!("!f() {{ echo username=user; echo password={password}; }}; f");
    for (password, expected) in [("secret", "ok"), ("wrong", "unauthenticated")] {
        git(home.path(), &["config", "--file", ".gitconfig", "credential.helper", &answer(password)]);
        let directory = tempfile::tempdir().unwrap();
        let result = result_of(
            scene("scene_of_one_checkout", &address, directory.path())
                .env("HOME", home.path())
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env_remove("XDG_CONFIG_HOME"),
        );
        assert!(result.starts_with(expected), "{password}: {result}");
    }
}

#[tokio::test]
async fn a_server_that_gives_no_commit_by_identity_gives_its_history() {
    let repository = TestRepository::new();
    // The tip of no branch and no tag, which the old protocol does not give.
    let commit = repository.revision("main~1");
    let directory = tempfile::tempdir().unwrap();
    let result = result_of(
        scene("scene_of_one_checkout", repository.path().to_str().unwrap(), directory.path())
            .env(COMMIT, &commit)
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "protocol.version")
            .env("GIT_CONFIG_VALUE_0", "0"),
    );
    assert_eq!(result, "ok");
    assert_eq!(git(directory.path(), &["rev-parse", "HEAD"]), commit);
    // By its identity alone it would be one.
    assert_eq!(git(directory.path(), &["rev-list", "HEAD"]).lines().count(), 2);
}

#[tokio::test]
async fn a_machine_without_git_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let result =
        result_of(scene("scene_of_one_checkout", "/app", directory.path()).env("PATH", "/nonexistent"));
    assert!(result.starts_with("unsupported") && result.contains("install git"), "{result}");
}

#[tokio::test]
async fn a_surrounding_git_has_no_influence() {
    let repository = TestRepository::new();
    let directory = tempfile::tempdir().unwrap();
    let result = result_of(
        scene("scene_of_one_checkout", repository.path().to_str().unwrap(), directory.path())
            .env("GIT_DIR", "/nonexistent")
            .env("GIT_INDEX_FILE", "/nonexistent/index")
            .env("LC_ALL", "de_DE.UTF-8"),
    );
    assert_eq!(result, "ok");
}
