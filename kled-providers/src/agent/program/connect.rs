//! `kled-agent connect`: a way to the agent for whoever can run a program in its container and has the streams of it.
//!
//! The first line of output is the token: whoever runs programs as the agent's user could read it anyway. All that
//! follows are the bytes of one connection to the agent, both ways. The end of either way is the end of both.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use kled_core::{Error, ErrorKind, Result};

use super::settings::{self, Variables, read_token};
use super::status::reachable;
use crate::agent::Token;
use crate::agent::protocol::CHUNK;

/// How long an agent that has just been started may take to listen.
const LIMIT: Duration = Duration::from_secs(10);

/// Between two looks for it.
const PAUSE: Duration = Duration::from_millis(5);

/// Joins the standard streams to the agent of this container.
pub(super) fn main() -> Result<()> {
    let variables = Variables(settings::of_process);
    let (token_file, address) = (variables.token_file(), reachable(variables.listen()?));
    let deadline = Instant::now() + LIMIT;
    let (token, stream) = loop {
        match read_token(&token_file).and_then(|token| Ok((token, connect(address)?))) {
            Ok(reached) => break reached,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(PAUSE),
        }
    };
    join(&token, &stream).map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "the connection to the agent broke").because(cause)
    })
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, LIMIT).map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "the agent cannot be reached")
            .with("address", address)
            .because(cause)
    })?;
    // Without it everything is slower and nothing is wrong.
    let _slower = stream.set_nodelay(true);
    Ok(stream)
}

/// Copies both ways, each on a thread of its own, until one of them ends.
fn join(token: &Token, stream: &TcpStream) -> io::Result<()> {
    // Their own buffers would hold back what is not a line.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    output.write_all(format!("{}\n", token.expose()).as_bytes())?;
    let (mut to_agent, mut from_agent) = (stream.try_clone()?, stream.try_clone()?);
    thread::spawn(move || {
        // Whoever is at the other end sees the end; there is nobody to tell more.
        let _ended = copy(&mut input, &mut to_agent);
        let _closed = to_agent.shutdown(Shutdown::Both);
    });
    copy(&mut from_agent, &mut output)
}

/// Not the library's copy: on Linux that has the kernel move the bytes, which locks a pipe for as long as the socket
/// has none, and who reads from the pipe then waits, too, for what is in it already.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0_u8; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}
