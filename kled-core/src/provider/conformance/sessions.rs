//! Running commands: their streams, their ends, their terminals.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::trial::{Failure, Outcome, Trial, ensure, equal};
use super::{Case, case};
use crate::provider::{
    ExecRequest, ExecSession, ExitStatus, LogsOptions, Provider, ProviderExt, TerminalSize,
};
use crate::{Error, ErrorKind, Result, WorkspaceName};

pub(super) const CASES: &[Case] = &[
    case!("stdin-reaches-stdout", 1, stdin_to_stdout, [Exec], "every byte value passes through a command"),
    case!("large-output-is-exact", 1, large_output, [Exec], "a large output arrives whole"),
    case!("large-input-is-exact", 1, large_input, [Exec], "a large input passes through a command whole"),
    case!("unread-input-is-no-hang", 6, unread_input, [Exec], "a command that does not read its input ends"),
    case!("wait-can-be-asked-again", 6, wait_again, [Exec], "waiting may be given up and taken up again"),
    case!(
        "commands-run-side-by-side",
        1,
        side_by_side,
        [Exec],
        "a long command keeps no other one from running"
    ),
    case!("stop-ends-commands", 8, stop_ends_commands, [Exec], "stop ends a running command"),
    case!("delete-ends-commands", 7, delete_ends_commands, [Exec], "delete ends a running command"),
    case!(
        "dropped-session-ends-its-tree",
        6,
        dropped_session,
        [Exec, Shell],
        "dropping a session ends all that its command started"
    ),
    case!(
        "stop-ends-background-processes",
        3,
        stop_ends_background,
        [Exec, Shell],
        "stop ends what commands left in the background"
    ),
    case!(
        "terminal-has-a-size",
        1,
        terminal,
        [Exec, Shell, Terminal],
        "a terminal has its size and takes a new one"
    ),
    case!(
        "detached-command-outlives-its-session",
        1,
        detached,
        [Exec, Shell, Detach, Logs],
        "a detached command goes on and its output is logged"
    ),
];

/// What goes through a command where a backend has a real shell, and where it has built-in programs: 100 MB, 8 MB.
const LARGE: usize = 100_000_000;
const LARGE_BUILT_IN: usize = 8_000_000;

/// The unit of the large streams.
const BLOCK: usize = 64 << 10;

/// Blocks of the same bytes but for their beginning, which is their number: a lost, doubled or moved block shows.
struct Blocks(Vec<u8>);

impl Blocks {
    fn new() -> Self {
        // Any fixed bytes do that are not all the same.
        Self((0..BLOCK).map(|index| (index.wrapping_mul(167) >> 3) as u8).collect())
    }

    fn number(&mut self, number: usize) -> &[u8] {
        self.0[..8].copy_from_slice(&(number as u64).to_le_bytes());
        &self.0
    }
}

fn large(trial: &Trial, provider: &Arc<dyn Provider>) -> usize {
    if provider.capabilities_of(&trial.fixture.spec()).commands.shell { LARGE } else { LARGE_BUILT_IN }
}

fn cut_off(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "a stream was cut off").because(cause)
}

async fn stdin_to_stdout(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let call = async {
        let mut session = provider.exec(&name, ExecRequest::new(["cat"]).piped_stdin()).await?;
        if let Some(mut stdin) = session.stdin.take() {
            super::trial::write_all(&mut stdin, &bytes).await?;
        }
        session.output(1 << 20).await
    };
    let output = trial.ok("exec cat", call).await?;
    equal("the exit status of cat", &ExitStatus::Exited(0), &output.status)?;
    ensure(
        output.stdout == bytes,
        "what cat gives back",
        "the same bytes",
        format_args!("{} bytes", output.stdout.len()),
    )?;
    let output = trial.run(&provider, &name, &["cat"]).await?;
    equal("cat without input", &0, &output.stdout.len())
}

async fn large_output(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let size = large(trial, &provider);
    let call = async {
        let request = ExecRequest::new(["head", "-c", &size.to_string(), "/dev/zero"]);
        let mut session = provider.exec(&name, request).await?;
        let count = count_zeros(&mut session.stdout).await?;
        Ok((count, session))
    };
    let (count, mut session) = trial.ok("exec head", call).await?;
    equal("the zeros that arrive", &Ok(size), &count)?;
    let status = trial.ok("the end of head", session.wait()).await?;
    equal("the exit status of head", &ExitStatus::Exited(0), &status)
}

/// How many zeros there are, or where another byte is.
async fn count_zeros(stream: &mut (impl AsyncRead + Unpin)) -> Result<Result<usize, usize>> {
    let (mut buffer, mut count) = (vec![1; BLOCK], 0);
    loop {
        match stream.read(&mut buffer).await.map_err(cut_off)? {
            0 => return Ok(Ok(count)),
            read => match buffer[..read].iter().position(|byte| *byte != 0) {
                Some(position) => return Ok(Err(count + position)),
                None => count += read,
            },
        }
    }
}

async fn large_input(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let blocks = large(trial, &provider) / BLOCK;
    let call = async {
        let mut session = provider.exec(&name, ExecRequest::new(["cat"]).piped_stdin()).await?;
        let stdin = session.stdin.take();
        let write = async {
            let mut sent = Blocks::new();
            if let Some(mut stdin) = stdin {
                for number in 0..blocks {
                    stdin.write_all(sent.number(number)).await.map_err(cut_off)?;
                }
                stdin.shutdown().await.map_err(cut_off)?;
            }
            Ok(())
        };
        let ((), same) = futures::future::try_join(write, same_blocks(&mut session.stdout)).await?;
        Ok((same, session.wait().await?))
    };
    let (same, status) = trial.ok("exec cat", call).await?;
    equal("the blocks that come back unchanged, and the bytes after them", &(blocks, 0), &same)?;
    equal("the exit status of cat", &ExitStatus::Exited(0), &status)
}

/// How many blocks come as they were sent, and how many bytes after them.
async fn same_blocks(stream: &mut (impl AsyncRead + Unpin)) -> Result<(usize, usize)> {
    let (mut expected, mut buffer, mut number) = (Blocks::new(), vec![0; BLOCK], 0);
    loop {
        let mut filled = 0;
        while filled < BLOCK {
            match stream.read(&mut buffer[filled..]).await.map_err(cut_off)? {
                0 => return Ok((number, filled)),
                read => filled += read,
            }
        }
        if buffer != expected.number(number) {
            return Ok((number, filled));
        }
        number += 1;
    }
}

async fn unread_input(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let call = async {
        let mut session = provider.exec(&name, ExecRequest::new(["true"]).piped_stdin()).await?;
        if let Some(mut stdin) = session.stdin.take() {
            // More than any pipe holds. That the command is gone is no failure here.
            let bytes = vec![0; BLOCK];
            for _ in 0..64 {
                if stdin.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        }
        session.output(1024).await
    };
    let output = trial.ok("exec true with input", call).await?;
    equal("the exit status", &ExitStatus::Exited(0), &output.status)
}

async fn wait_again(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let call = async {
        let mut session = provider.exec(&name, ExecRequest::new(["sleep", "1"])).await?;
        let given_up = tokio::time::timeout(Duration::from_millis(10), session.wait()).await.is_err();
        Ok((given_up, session.wait().await?, session.wait().await?))
    };
    let (given_up, first, second) = trial.ok("exec sleep", call).await?;
    ensure(given_up, "the first wait for sleep 1", "no end within 10 ms", "an end")?;
    equal("the wait after one that was given up", &ExitStatus::Exited(0), &first)?;
    equal("the wait after the end", &first, &second)
}

async fn side_by_side(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let _long = trial.ok("exec sleep", provider.exec(&name, ExecRequest::new(["sleep", "600"]))).await?;
    let numbers: Vec<String> = (0..8).map(|number| number.to_string()).collect();
    let calls = numbers.iter().map(async |number| {
        let echoed = trial.text(&provider, &name, &["echo", number]).await?;
        equal("echo beside others", &format!("{number}\n"), &echoed)
    });
    join_all(calls).await.into_iter().collect()
}

/// A command that runs until it is ended.
async fn endless(trial: &Trial, provider: &Arc<dyn Provider>, name: &WorkspaceName) -> Outcome<ExecSession> {
    trial.ok("exec sleep", provider.exec(name, ExecRequest::new(["sleep", "600"]))).await
}

/// Its end, or the loss of the connection to it: what counts is that nobody waits for ever.
async fn is_ended(trial: &Trial, what: &str, mut session: ExecSession) -> Outcome {
    match trial.ends(what, session.wait()).await? {
        Ok(ExitStatus::Exited(0)) => Err(Failure::new(what, "an end by force", "exit code 0")),
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn stop_ends_commands(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let session = endless(trial, &provider, &name).await?;
    trial.ok("stop", trial.provider().await?.stop(&name)).await?;
    is_ended(trial, "a command whose workspace is stopped", session).await
}

async fn delete_ends_commands(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let session = endless(trial, &provider, &name).await?;
    trial.delete_leaves_nothing(&name).await?;
    is_ended(trial, "a command whose workspace is deleted", session).await
}

/// Writes a line to the file `heartbeat` for as long as it lives, in a process of its own that ignores hang-ups.
const HEARTBEAT: &str = "(trap '' HUP; while :; do echo beat >> heartbeat; sleep 0.1; done) & ";

/// Longer than the longest pause between two heartbeats on a busy machine.
const SILENCE: Duration = Duration::from_secs(1);

async fn heartbeats(trial: &Trial, provider: &Arc<dyn Provider>, name: &WorkspaceName) -> Outcome<usize> {
    // Absent until the first beat.
    Ok(trial.run(provider, name, &["cat", "heartbeat"]).await?.stdout.len())
}

async fn beats(trial: &Trial, provider: &Arc<dyn Provider>, name: &WorkspaceName) -> Outcome {
    let look = || async move { Ok(heartbeats(trial, provider, name).await? > 0) };
    trial.becomes_true("a process in the background", "heartbeats", look).await
}

/// Fails unless the heartbeat ends.
async fn falls_silent(trial: &Trial, provider: &Arc<dyn Provider>, name: &WorkspaceName) -> Outcome {
    let deadline = Instant::now() + trial.patience;
    let mut count = heartbeats(trial, provider, name).await?;
    while Instant::now() < deadline {
        tokio::time::sleep(SILENCE).await;
        let later = heartbeats(trial, provider, name).await?;
        if later == count {
            return Ok(());
        }
        count = later;
    }
    Err(Failure::new("a process in the background", "its end", "heartbeats"))
}

async fn dropped_session(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let request = ExecRequest::new(["sh", "-c", &format!("{HEARTBEAT} wait")]);
    let session = trial.ok("exec", provider.exec(&name, request)).await?;
    beats(trial, &provider, &name).await?;
    drop(session);
    falls_silent(trial, &provider, &name).await.map_err(|failure| failure.at("after the session was dropped"))
}

async fn stop_ends_background(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let request = ExecRequest::new(["sh", "-c", &format!("{HEARTBEAT} wait")]);
    let session = trial.ok("exec", provider.exec(&name, request)).await?;
    beats(trial, &provider, &name).await?;
    trial.ok("stop", provider.stop(&name)).await?;
    trial.ok("start", provider.start(&name)).await?;
    let silent = falls_silent(trial, &provider, &name).await;
    drop(session);
    silent.map_err(|failure| failure.at("after stop and start"))
}

async fn terminal(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    let script = "stty size; read line; stty size; test -t 0 && test -t 1 && echo is-terminal";
    let call = async {
        let request = ExecRequest::new(["sh", "-c", script]).terminal(TerminalSize { rows: 24, columns: 80 });
        let mut session = provider.exec(&name, request).await?;
        let mut seen = String::new();
        read_until(&mut session, &mut seen, "24 80").await?;
        session.resize(TerminalSize { rows: 40, columns: 100 }).await?;
        if let Some(stdin) = &mut session.stdin {
            stdin.write_all(b"\n").await.map_err(cut_off)?;
            stdin.flush().await.map_err(cut_off)?;
        }
        read_until(&mut session, &mut seen, "is-terminal").await?;
        Ok((seen, session.wait().await?))
    };
    let (seen, status) = trial.ok("exec with a terminal", call).await?;
    ensure(seen.contains("24 80"), "the first size", "24 80", format_args!("{seen:?}"))?;
    ensure(seen.contains("40 100"), "the size after resize", "40 100", format_args!("{seen:?}"))?;
    ensure(
        seen.contains("is-terminal"),
        "standard input and output",
        "a terminal",
        format_args!("{seen:?}"),
    )?;
    equal("the exit status", &ExitStatus::Exited(0), &status)
}

/// Reads the terminal until `text` is seen, or to its end.
async fn read_until(session: &mut ExecSession, seen: &mut String, text: &str) -> Result<()> {
    let mut buffer = [0; 1024];
    while !seen.contains(text) {
        match session.stdout.read(&mut buffer).await.map_err(cut_off)? {
            0 => return Ok(()),
            read => seen.push_str(&String::from_utf8_lossy(&buffer[..read])),
        }
    }
    Ok(())
}

async fn detached(trial: &Trial) -> Outcome {
    let (name, provider, _) = trial.running().await?;
    // It waits for a file, so that its output can only come after the session is gone.
    let script = "while ! test -e go; do sleep 0.1; done; echo detached-line; exec sleep 600";
    let request = ExecRequest::new(["sh", "-c", script]).detached();
    drop(trial.ok("a detached exec", provider.exec(&name, request)).await?);
    trial.write(&provider, &name, "go", b"").await?;
    let (provider, name) = (&provider, &name);
    let look = || async move { logged(trial, provider, name, "detached-line").await };
    trial.becomes_true("the log", "the line of a detached command", look).await?;
    trial.ok("stop", provider.stop(name)).await?;
    let kept = logged(trial, provider, name, "detached-line").await?;
    ensure(kept, "the log of a stopped workspace", "the line of a detached command", "no such line")
}

async fn logged(
    trial: &Trial,
    provider: &Arc<dyn Provider>,
    name: &WorkspaceName,
    text: &str,
) -> Outcome<bool> {
    let mut lines = trial.ok("logs", provider.workspace_logs(name, LogsOptions::default())).await?;
    while let Some(line) = trial.ends("the next line of the log", lines.next()).await? {
        let line = line.map_err(|error| Failure::new("a line of the log", "success", error))?;
        if line.line.contains(text) {
            return Ok(true);
        }
    }
    Ok(false)
}
