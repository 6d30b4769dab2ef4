//! Commands that outlive the session that started them. Their output goes to the workspace's log.

use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use kled_core::provider::{Command, LogStream};
use kled_core::{Error, ErrorKind, Result};
use tokio::io::AsyncRead;
use tokio_util::codec::{AnyDelimiterCodec, FramedRead};

use super::command::{self, Running};
use super::commands::Commands;

/// Longer lines are cut into pieces of this size.
const LINE_MAX: usize = 8 << 10;

/// Starts a command and answers at once.
pub(super) fn start(commands: &Arc<Commands>, command: &Command) -> Result<u32> {
    if command.terminal.is_some() {
        return Err(Error::new(ErrorKind::InvalidInput, "a detached command has no terminal"));
    }
    let running = command::start(commands, command)?;
    let process = running.process;
    // The program's name only: its arguments may hold secrets.
    let label = format!("{}[{process}]", command.arguments.first().map_or("", |program| program.as_str()));
    commands.log(LogStream::Supervisor, Some(label.clone()), "started".into());
    tokio::spawn(watch(Arc::clone(commands), running, label));
    Ok(process)
}

async fn watch(commands: Arc<Commands>, mut running: Running, label: String) {
    let stdout = copy(&commands, running.stdout.take(), LogStream::Stdout, &label);
    let stderr = copy(&commands, running.stderr.take(), LogStream::Stderr, &label);
    let (status, (), ()) = tokio::join!(running.child.wait(), stdout, stderr);
    let end = status.map_or_else(|cause| format!("ended: {cause}"), |status| format!("ended: {status}"));
    commands.log(LogStream::Supervisor, Some(label), end);
    commands.ended(running.process);
}

pub(super) async fn copy(
    commands: &Commands,
    output: Option<Pin<Box<dyn AsyncRead + Send>>>,
    stream: LogStream,
    label: &str,
) {
    let Some(output) = output else { return };
    let codec = AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), b"\n".to_vec(), LINE_MAX);
    let mut lines = FramedRead::new(output, codec);
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => {
                commands.log(stream, Some(label.to_owned()), String::from_utf8_lossy(&line).into_owned());
            }
            // The codec leaves a line that is too long out and goes on with the next.
            Err(_) => {
                let left_out = format!("[a line of more than {LINE_MAX} bytes]");
                commands.log(stream, Some(label.to_owned()), left_out);
            }
        }
    }
}
