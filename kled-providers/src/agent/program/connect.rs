//! `kled-agent connect`: a way to the agent for whoever can run a program in its container and has the streams of it.
//!
//! The first line of output is the token: whoever runs programs as the agent's user could read it anyway. All that
//! follows are the bytes of one connection to the agent, both ways. The end of either way is the end of both.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use kled_core::{Error, ErrorKind, Result};

use super::settings::{self, Variables, read_token};
use super::status::reachable;
use crate::agent::Token;

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

/// Copies with what the system has for it: between pipes and sockets no byte passes through this process.
fn join(token: &Token, stream: &TcpStream) -> io::Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    output.write_all(format!("{}\n", token.expose()).as_bytes())?;
    let (mut to_agent, mut from_agent) = (stream.try_clone()?, stream.try_clone()?);
    thread::spawn(move || {
        // Whoever is at the other end sees the end; there is nobody to tell more.
        let _ended = io::copy(&mut input, &mut to_agent);
        let _closed = to_agent.shutdown(Shutdown::Both);
    });
    io::copy(&mut from_agent, &mut output).map(drop)
}
