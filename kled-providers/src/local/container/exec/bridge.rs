//! The streams of `kled-agent connect` in a container, as one stream to its agent.

use bollard::container::LogOutput;
use bollard::exec::CreateExecOptions;
use bytes::BytesMut;
use futures::StreamExt;
use kled_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::streams::Attached;
use super::{Engine, not_running};
use crate::agent::{CHUNK, DRIVER_BUFFER, Token};
use crate::local::container::agent::PROGRAM;

/// The longest text that is read in place of a token.
const SAID_MAX: usize = 8 << 10;

/// Reaches the agent of a container. The stream ends with the container, and closing it ends the program.
pub(in crate::local::container) async fn open(
    engine: &Engine,
    container: &str,
) -> Result<(DuplexStream, Token)> {
    let options = CreateExecOptions {
        cmd: Some(vec![PROGRAM, "connect"]),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = engine.docker.create_exec(container, options).await.map_err(not_running)?.id;
    let mut attached = Attached::start(engine, &exec, false).await?;
    let said = attached.line(SAID_MAX).await?;
    let Some(token) = said.strip_suffix('\n').and_then(|line| Token::new(line).ok()) else {
        let said = attached.rest(said, SAID_MAX).await;
        return Err(
            Error::new(ErrorKind::Unavailable, "the agent of the workspace does not answer").because(said)
        );
    };
    let (near, far) = tokio::io::duplex(DRIVER_BUFFER);
    tokio::spawn(carry(attached, far));
    Ok((near, token))
}

/// Moves bytes until either side ends: HTTP/2 needs no half of a connection.
async fn carry(attached: Attached, far: DuplexStream) {
    let Attached { mut input, mut output, stdout, .. } = attached;
    let (mut reader, mut writer) = tokio::io::split(far);
    let to_agent = async {
        let mut chunk = BytesMut::new();
        loop {
            chunk.reserve(CHUNK);
            match reader.read_buf(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let sent = async {
                input.write_all_buf(&mut chunk).await?;
                input.flush().await
            };
            if sent.await.is_err() {
                break;
            }
        }
        // The program ends with its input; the engine may be gone already.
        let _gone = input.shutdown().await;
    };
    let from_agent = async {
        if writer.write_all(&stdout).await.is_err() {
            return;
        }
        while let Some(Ok(piece)) = output.next().await {
            match piece {
                LogOutput::StdErr { message } => {
                    tracing::debug!(said = %String::from_utf8_lossy(&message), "the way to an agent");
                }
                piece => {
                    if writer.write_all(&piece.into_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = to_agent => {}
        () = from_agent => {}
    }
}
