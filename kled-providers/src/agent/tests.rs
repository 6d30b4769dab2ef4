//! The agent and its client, over a pair of connected streams, with real processes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kled_core::provider::{ExecRequest, ExitStatus, LogLine, Signal, TerminalSize, Variables};
use kled_core::{ErrorKind, WorkspaceId};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;

use super::server::{Agent, Configuration};
use super::{AgentClient, Token};

/// A deadline for what has to come at once.
const SOON: Duration = Duration::from_secs(20);

pub(crate) fn configuration(folder: &Path, token: &Token) -> Configuration {
    let path = std::env::var("PATH").unwrap_or_default();
    Configuration {
        id: WorkspaceId::random(),
        token: token.clone(),
        checkout: None,
        state: None,
        working_directory: folder.to_owned(),
        environment: Variables([("PATH".to_owned(), path)].into()),
        idle_timeout: None,
        has_own_processes: false,
        drivers_are_far: false,
        log: Arc::new(|_: LogLine| {}),
    }
}

/// A client of an agent in a folder of its own.
async fn connected() -> (TempDir, AgentClient) {
    let folder = tempfile::tempdir().unwrap();
    let token = Token::random();
    let stream = serve(Agent::new(configuration(folder.path(), &token)));
    let client = AgentClient::connect(stream, &token).await.unwrap();
    (folder, client)
}

fn serve(agent: Agent) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move { agent.serve(far).await });
    near
}

fn shell(script: &str) -> ExecRequest {
    ExecRequest::new(["sh", "-c", script])
}

#[tokio::test]
async fn a_command_has_streams_and_a_status() {
    let (_folder, client) = connected().await;
    let session = client.exec(shell("echo out; echo err >&2; exit 3").command).await.unwrap();
    let output = session.output(1024).await.unwrap();
    assert_eq!(output.status, ExitStatus::Exited(3));
    assert_eq!((&*output.stdout, &*output.stderr), (&b"out\n"[..], &b"err\n"[..]));
}

#[tokio::test]
async fn standard_input_arrives_and_ends() {
    let (_folder, client) = connected().await;
    let mut session = client.exec(ExecRequest::new(["cat"]).piped_stdin().command).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let sent = vec![7_u8; 3 << 20];
    let (echoed, ()) = tokio::join!(
        async {
            let mut echoed = Vec::new();
            session.stdout.read_to_end(&mut echoed).await.unwrap();
            echoed
        },
        async {
            stdin.write_all(&sent).await.unwrap();
            stdin.shutdown().await.unwrap();
        }
    );
    assert!(echoed == sent, "{} bytes came back", echoed.len());
    assert_eq!(session.wait().await.unwrap(), ExitStatus::Exited(0));
}

#[tokio::test]
async fn a_terminal_has_a_size_and_signals_are_told_apart() {
    let (_folder, client) = connected().await;
    let size = TerminalSize { rows: 40, columns: 123 };
    let session = client.exec(ExecRequest::new(["stty", "size"]).terminal(size).command).await.unwrap();
    assert_eq!(session.output(1024).await.unwrap().stdout, b"40 123\r\n");

    let mut session = client.exec(ExecRequest::new(["sleep", "1000"]).command).await.unwrap();
    session.signal(Signal::Term).await.unwrap();
    assert_eq!(session.wait().await.unwrap(), ExitStatus::Signaled(15));
}

#[tokio::test]
async fn a_dropped_session_ends_what_it_started() {
    let (folder, client) = connected().await;
    let mut session = client.exec(shell("(sleep 1000 & echo $!; wait)").command).await.unwrap();
    let mut text = [0_u8; 16];
    let read = session.stdout.read(&mut text).await.unwrap();
    let process: u32 = std::str::from_utf8(&text[..read]).unwrap().trim().parse().unwrap();
    assert!(super::proc::running(process));
    drop(session);
    let ended = async {
        while super::proc::running(process) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, ended).await.unwrap();
    drop(folder);
}

#[tokio::test]
async fn failures_keep_their_kind() {
    let (_folder, client) = connected().await;
    let error = client.exec(ExecRequest::new(["no-such-program"]).command).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound);
    let error = client.exec(ExecRequest::new(["ls"]).working_directory("nowhere").command).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = client.download("nowhere").await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = client.upload(".", &b"no archive, and longer than the header of one would be"[..]).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let stream = serve(Agent::new(configuration(folder.path(), &Token::random())));
    let client = AgentClient::connect(stream, &Token::random()).await.unwrap();
    assert_eq!(client.status().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    let touched = client.exec(ExecRequest::new(["touch", "reached"]).command).await;
    assert_eq!(touched.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(!folder.path().join("reached").exists());
}

#[tokio::test]
async fn files_are_copied_both_ways() {
    let (folder, client) = connected().await;
    std::fs::create_dir(folder.path().join("there")).unwrap();
    std::fs::write(folder.path().join("there/kept"), "kept").unwrap();
    std::fs::write(folder.path().join("there/file"), "old").unwrap();
    let content = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o750);
    archive.append_data(&mut header, "there/file", &*content).unwrap();
    let archive = archive.into_inner().unwrap();
    let length = archive.len() as u64;
    assert_eq!(client.upload(".", std::io::Cursor::new(archive)).await.unwrap(), length);
    assert!(std::fs::read(folder.path().join("there/file")).unwrap() == content);
    assert_eq!(std::fs::read(folder.path().join("there/kept")).unwrap(), b"kept");
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["there"]);

    let mut bytes = Vec::new();
    client.download("there").await.unwrap().read_to_end(&mut bytes).await.unwrap();
    let mut archive = tar::Archive::new(&*bytes);
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["there", "there/file", "there/kept"]);
}

/// Cuts both directions of a connection after some bytes.
fn cut_after(stream: DuplexStream, bytes: u64) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut from_driver, mut to_driver) = tokio::io::split(far);
    let (mut from_agent, mut to_agent) = tokio::io::split(stream);
    tokio::spawn(async move {
        let up = async { tokio::io::copy(&mut (&mut from_driver).take(bytes), &mut to_agent).await };
        let down = async { tokio::io::copy(&mut (&mut from_agent).take(bytes), &mut to_driver).await };
        // When one is cut both are, as with a connection.
        futures::future::select(Box::pin(up), Box::pin(down)).await;
    });
    near
}

#[tokio::test]
async fn a_cut_connection_is_an_error_and_never_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let token = Token::random();
    let content = vec![42_u8; 1 << 20];
    std::fs::write(folder.path().join("big"), &content).unwrap();
    let whole = Sha256::digest(&content);
    // Before, in and after the hand-shake, in the middle, and in the last frames of a command's output.
    for bytes in [0, 1, 24, 60, 200, 1000, 10_000, 500_000, 1_048_600, 1_049_000] {
        let stream = cut_after(serve(Agent::new(configuration(folder.path(), &token))), bytes);
        let attempt = async {
            let client = AgentClient::connect(stream, &token).await?;
            client.exec(ExecRequest::new(["cat", "big"]).command).await?.output(2 << 20).await
        };
        match tokio::time::timeout(SOON, attempt).await.unwrap() {
            Ok(output) => assert_eq!(Sha256::digest(&output.stdout), whole, "cut after {bytes}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "cut after {bytes}: {error}"),
        }
        let stream = cut_after(serve(Agent::new(configuration(folder.path(), &token))), bytes);
        let attempt = async {
            let client = AgentClient::connect(stream, &token).await?;
            let mut archive = Vec::new();
            let read = client.download("big").await?.read_to_end(&mut archive).await;
            Ok::<_, kled_core::Error>(read.map(|_| archive))
        };
        if let Ok(Ok(archive)) = tokio::time::timeout(SOON, attempt).await.unwrap() {
            assert!(
                archive.len() > content.len(),
                "cut after {bytes}: {} bytes passed for all",
                archive.len()
            );
        }
    }
}

#[tokio::test]
async fn a_copy_that_was_cut_off_leaves_nothing() {
    let (folder, token) = (tempfile::tempdir().unwrap(), Token::random());
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1 << 20);
    archive.append_data(&mut header, "big", &*vec![1_u8; 1 << 20]).unwrap();
    let archive = archive.into_inner().unwrap();
    for bytes in [500, 10_000, 700_000, 1_048_000] {
        let stream = cut_after(serve(Agent::new(configuration(folder.path(), &token))), bytes);
        let client = AgentClient::connect(stream, &token).await.unwrap();
        let copied = client.upload(".", std::io::Cursor::new(archive.clone())).await;
        assert_eq!(copied.unwrap_err().kind(), ErrorKind::Unavailable);
        let empty = async {
            while std::fs::read_dir(folder.path()).unwrap().next().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, empty).await.unwrap();
    }
}

#[tokio::test]
async fn ports_are_connected_to() {
    let (_folder, client) = connected().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut said = Vec::new();
        // Until the driver ends its direction; the other one goes on.
        stream.read_to_end(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
    });
    let mut stream = client.connect_port(port).await.unwrap();
    let said = vec![9_u8; 500_000];
    stream.write_all(&said).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert!(heard == said);
    server.await.unwrap();
    let refused = client.connect_port(port).await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_repository_is_checked_out_once() {
    let (folder, token) = (tempfile::tempdir().unwrap(), Token::random());
    let origin = folder.path().join("origin");
    std::fs::create_dir(&origin).unwrap();
    std::fs::write(origin.join("file"), "content").unwrap();
    for arguments in [
        &["init", "-q", "-b", "main"][..],
        &["add", "."],
        &["-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "first"],
    ] {
        assert!(
            std::process::Command::new("git")
                .args(arguments)
                .current_dir(&origin)
                .status()
                .unwrap()
                .success()
        );
    }
    let place = folder.path().join("checkout");
    // What an attempt that was cut short has left.
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("half"), "").unwrap();
    let agent = Agent::new(Configuration {
        checkout: Some(place.clone()),
        state: Some(folder.path().join("state")),
        ..configuration(folder.path(), &token)
    });
    let client = AgentClient::connect(serve(agent), &token).await.unwrap();
    let source = kled_core::workspace::Source::new(origin.display().to_string().parse().unwrap());
    let mut lines = 0;
    let done = client.checkout(&source, None, |_| lines += 1).await.unwrap();
    assert_eq!(done.commit.len(), 40);
    assert_eq!(std::fs::read(place.join("file")).unwrap(), b"content");
    assert!(!place.join("half").exists());
    std::fs::write(place.join("work"), "").unwrap();
    assert_eq!(client.checkout(&source, None, |_| {}).await.unwrap(), done);
    assert!(place.join("work").exists(), "a checkout that is complete is not done again");
    let missing =
        kled_core::workspace::Source::new(folder.path().join("none").display().to_string().parse().unwrap());
    let error = client.checkout(&missing, None, |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RepositoryNotFound);
}

#[tokio::test]
async fn a_watcher_is_told_at_once_and_silence_is_no_activity() {
    let (folder, client) = connected().await;
    // Longer than the test may take: what is told is told because of a change.
    let mut statuses = client.watch(Duration::from_secs(3600)).await.unwrap();
    let mut next = async || tokio::time::timeout(SOON, statuses.next()).await.unwrap().unwrap();
    let first = next().await.unwrap();
    assert_eq!((first.commands, first.connections), (0, 0));
    assert!(first.idle.is_some() && first.usage.disk_total_bytes.is_some());

    let mut session = client.exec(ExecRequest::new(["sleep", "1000"]).command).await.unwrap();
    let running = next().await.unwrap();
    assert_eq!((running.commands, running.idle), (1, None));
    assert!(running.last_activity > first.last_activity);
    session.signal(Signal::Term).await.unwrap();
    session.wait().await.unwrap();
    let ended = next().await.unwrap();
    assert_eq!(ended.commands, 0);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = client.connect_port(listener.local_addr().unwrap().port()).await.unwrap();
    let open = next().await.unwrap();
    assert_eq!((open.connections, open.last_activity), (1, ended.last_activity));
    assert!(open.idle.is_some(), "an open connection that carries nothing is no activity");
    drop(stream);
    drop(listener);
    assert_eq!(next().await.unwrap().connections, 0);

    client.shut_down(Duration::ZERO).await.unwrap();
    assert_eq!(next().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(tokio::time::timeout(SOON, statuses.next()).await.unwrap().is_none());
    drop(folder);
}

#[tokio::test]
async fn a_watcher_is_told_in_every_interval() {
    let (_folder, client) = connected().await;
    let mut statuses = client.watch(Duration::from_millis(1)).await.unwrap();
    for _ in 0..3 {
        let status = tokio::time::timeout(SOON, statuses.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(status.commands, 0);
    }
}
