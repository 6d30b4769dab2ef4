//! A channel of the client, and what it leads to in the workspace.

use std::sync::Arc;

use bytes::BytesMut;
use kled_core::provider::{
    ByteStream, ExecRequest, ExecSession, ExitStatus, Provider, Signal, TerminalSize, Variables,
};
use kled_core::{Error, ErrorKind, WorkspaceName};
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelId, ChannelMsg, Sig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use super::may_be_set;
use super::spool::Spool;
use super::waiting::Waiting;

/// The subsystem for files.
pub(super) const SFTP: &str = "sftp";

/// The best shell that there is, as a login shell: it is what `ssh` gives.
const SHELL: &str = "if command -v bash >/dev/null 2>&1; then exec bash -l; else exec sh -l; fi";

/// Where distributions keep the program for files.
const SFTP_SERVER: &str = "\
for program in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server \
/usr/libexec/sftp-server; do [ -x \"$program\" ] && exec \"$program\"; done
command -v sftp-server >/dev/null 2>&1 && exec sftp-server
echo 'the workspace has no sftp-server: install it there (openssh-sftp-server), or use scp -O or kled workspace cp' >&2
exit 127";

/// Extended data of this type is standard error.
const STDERR: u32 = 1;

/// The exit code of a command that could not be started.
const NOT_STARTED: u32 = 255;

/// Read at once from the workspace.
const CHUNK: usize = 32 << 10;

/// What is asked for before the command.
#[derive(Default)]
struct Asked {
    environment: Variables,
    terminal: Option<TerminalSize>,
}

/// Serves a session channel: waits for the command, runs it to its end and closes.
pub(super) async fn run(
    provider: Arc<dyn Provider>,
    name: WorkspaceName,
    mut channel: Channel<Msg>,
    handle: Handle,
    waiting: Waiting,
) {
    let id = channel.id();
    let mut asked = Asked::default();
    let script = loop {
        match channel.wait().await {
            Some(ChannelMsg::RequestPty { term, col_width, row_height, .. }) => {
                asked.environment.0.insert("TERM".into(), term);
                asked.terminal = Some(size(col_width, row_height));
            }
            Some(ChannelMsg::SetEnv { variable_name, variable_value, .. }) if may_be_set(&variable_name) => {
                asked.environment.0.insert(variable_name, variable_value);
            }
            Some(ChannelMsg::Exec { command, .. }) => break String::from_utf8(command).ok(),
            Some(ChannelMsg::RequestShell { .. }) => break Some(SHELL.to_owned()),
            Some(ChannelMsg::RequestSubsystem { name, .. }) if name == SFTP => {
                break Some(SFTP_SERVER.to_owned());
            }
            Some(ChannelMsg::Close) | None => return,
            Some(_) => {}
        }
    };
    let started = match script {
        Some(script) => provider.exec(&name, asked.request(script)).await,
        None => Err(Error::new(ErrorKind::InvalidInput, "the command is not UTF-8")),
    };
    let ended = match started {
        Ok(session) => Running { session, channel, handle: handle.clone(), waiting }.run().await,
        Err(error) => refused(&handle, id, &error).await,
    };
    finish(&handle, id, ended).await;
}

/// Says on standard error why there is no command, or none any more. `None` when the client has left.
async fn refused(handle: &Handle, id: ChannelId, error: &Error) -> Option<ExitStatus> {
    let hint = error.hint_text().map(|hint| format!("hint: {hint}\r\n")).unwrap_or_default();
    let said = format!("kled: {error}\r\n{hint}");
    handle.extended_data(id, STDERR, said.into_bytes()).await.is_ok().then_some(ExitStatus::Exited(255))
}

impl Asked {
    fn request(self, script: String) -> ExecRequest {
        let request = ExecRequest::new(["sh".to_owned(), "-c".to_owned(), script]);
        let mut request = match self.terminal {
            Some(size) => request.terminal(size),
            None => request.piped_stdin(),
        };
        request.command.environment.0.extend(self.environment.0);
        request
    }
}

/// Tells how the command ended and closes the channel. A client that is gone hears nothing.
async fn finish(handle: &Handle, id: ChannelId, ended: Option<ExitStatus>) {
    let _gone = handle.eof(id).await;
    let _gone = match ended {
        Some(ExitStatus::Exited(code)) => {
            handle.exit_status_request(id, u32::try_from(code).unwrap_or(NOT_STARTED)).await
        }
        Some(ExitStatus::Signaled(number)) => {
            handle.exit_signal_request(id, signal_name(number), false, String::new(), String::new()).await
        }
        None => Ok(()),
    };
    let _gone = handle.close(id).await;
}

/// A command between the client and the workspace.
struct Running {
    session: ExecSession,
    channel: Channel<Msg>,
    handle: Handle,
    waiting: Waiting,
}

impl Running {
    /// `None` when the client has left; dropping the session then ends the command.
    async fn run(mut self) -> Option<ExitStatus> {
        let id = self.channel.id();
        let handle = self.handle;
        let mut incoming = self.channel;
        let stdout = std::mem::replace(&mut self.session.stdout, Box::pin(tokio::io::empty()));
        let stderr = std::mem::replace(&mut self.session.stderr, Box::pin(tokio::io::empty()));
        let mut outputs = std::pin::pin!(async {
            tokio::join!(pass(stdout, &handle, id, None), pass(stderr, &handle, id, Some(STDERR)),)
        });
        let spool = Spool::new(&self.waiting);
        let stdin = self.session.stdin.take();
        // A task of its own: it may hold the spool while this one wants to fill it.
        let mut input = JoinSet::new();
        input.spawn(feed(spool.clone(), stdin));
        let (mut status, mut outputs_end, mut input_end) = (None, false, false);
        loop {
            if let (Some(status), true) = (status, outputs_end) {
                return Some(status);
            }
            tokio::select! {
                message = incoming.wait() => match message {
                    // A command that has closed its input is sent nothing more.
                    Some(ChannelMsg::Data { data }) if !input_end => {
                        if let Err(error) = spool.push(data).await {
                            return refused(&handle, id, &error).await;
                        }
                    }
                    Some(ChannelMsg::Eof) => spool.end().await,
                    Some(ChannelMsg::WindowChange { col_width, row_height, .. }) => {
                        let resized = self.session.resize(size(col_width, row_height)).await;
                        // The command may have ended meanwhile.
                        drop(resized);
                    }
                    Some(ChannelMsg::Signal { signal }) => {
                        if let Some(signal) = signal_of(&signal) {
                            drop(self.session.signal(signal).await);
                        }
                    }
                    Some(ChannelMsg::Close) | None => return None,
                    Some(_) => {}
                },
                _ = &mut outputs, if !outputs_end => outputs_end = true,
                Some(_) = input.join_next() => input_end = true,
                ended = self.session.wait(), if status.is_none() => match ended {
                    Ok(ended) => status = Some(ended),
                    Err(error) => return refused(&handle, id, &error).await,
                },
            }
        }
    }
}

/// Carries a connection to a port until both directions have ended.
pub(super) async fn carry(stream: ByteStream, channel: Channel<Msg>, handle: Handle, waiting: &Waiting) {
    let id = channel.id();
    let mut incoming = channel;
    let (reader, writer) = tokio::io::split(stream);
    let spool = Spool::new(waiting);
    let mut output = std::pin::pin!(async {
        pass(Box::pin(reader), &handle, id, None).await;
        let _gone = handle.eof(id).await;
    });
    let mut input = JoinSet::new();
    input.spawn(feed(spool.clone(), Some(Box::pin(writer))));
    let (mut output_end, mut input_end) = (false, false);
    while !(output_end && input_end) {
        tokio::select! {
            message = incoming.wait() => match message {
                Some(ChannelMsg::Data { data }) if !input_end => {
                    if let Err(error) = spool.push(data).await {
                        tracing::warn!(%error, "a connection to a port is closed");
                        break;
                    }
                }
                Some(ChannelMsg::Eof) => spool.end().await,
                Some(ChannelMsg::Close) | None => break,
                Some(_) => {}
            },
            () = &mut output, if !output_end => output_end = true,
            Some(_) = input.join_next() => input_end = true,
        }
    }
    let _gone = handle.close(id).await;
}

/// Passes what comes from the workspace on to its end. The session takes no more while a window of the client is full.
async fn pass(
    mut from: std::pin::Pin<Box<dyn AsyncRead + Send>>,
    to: &Handle,
    id: ChannelId,
    extended: Option<u32>,
) {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        if !matches!(from.read_buf(&mut chunk).await, Ok(1..)) {
            return;
        }
        let sent = match extended {
            None => to.data(id, chunk.freeze()).await,
            Some(kind) => to.extended_data(id, kind, chunk.freeze()).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Passes what the client sent on to its end.
async fn feed(spool: Spool, to: Option<std::pin::Pin<Box<dyn AsyncWrite + Send>>>) {
    let Some(mut to) = to else { return };
    while let Ok(Some(bytes)) = spool.next().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _closed = to.shutdown().await;
}

fn size(columns: u32, rows: u32) -> TerminalSize {
    let number = |number: u32, otherwise: u16| match u16::try_from(number) {
        Ok(0) | Err(_) => otherwise,
        Ok(number) => number,
    };
    TerminalSize { rows: number(rows, 24), columns: number(columns, 80) }
}

fn signal_of(signal: &Sig) -> Option<Signal> {
    match signal {
        Sig::HUP => Some(Signal::Hup),
        Sig::INT => Some(Signal::Int),
        Sig::QUIT => Some(Signal::Quit),
        Sig::TERM => Some(Signal::Term),
        Sig::KILL => Some(Signal::Kill),
        _ => None,
    }
}

fn signal_name(number: i32) -> Sig {
    match number {
        1 => Sig::HUP,
        2 => Sig::INT,
        3 => Sig::QUIT,
        4 => Sig::ILL,
        6 => Sig::ABRT,
        8 => Sig::FPE,
        9 => Sig::KILL,
        10 => Sig::USR1,
        11 => Sig::SEGV,
        13 => Sig::PIPE,
        14 => Sig::ALRM,
        15 => Sig::TERM,
        other => Sig::Custom(format!("{other}@kled.io")),
    }
}
