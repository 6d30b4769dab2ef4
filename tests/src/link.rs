//! The pair of network interfaces that joins a slot's network namespace to the machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{process, programs};

/// Addresses of the pair: `10.213.SLOT.1` on the machine, `10.213.SLOT.2` inside.
const NETWORK: [u8; 2] = [10, 213];

/// The machine's end.
pub(crate) fn outer_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(NETWORK[0], NETWORK[1], number, 1)
}

/// The namespace's end.
pub(crate) fn inner_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(NETWORK[0], NETWORK[1], number, 2)
}

fn outer_name(number: u8) -> String {
    format!("kled{number}")
}

/// Makes the pair; `process` is any process in the namespace. Both ends go when the namespace does.
pub(crate) fn create(number: u8, process: u32) -> Result<()> {
    let name = outer_name(number);
    let process = process.to_string();
    ip(&["link", "add", &name, "type", "veth", "peer", "name", "eth0", "netns", &process])?;
    ip(&["address", "add", &format!("{}/30", outer_address(number)), "dev", &name])?;
    ip(&["link", "set", &name, "up"])
}

/// Removes the machine's end, and with it the other, if a slot's former owner left one.
pub(crate) fn remove(number: u8) -> Result<()> {
    let path = outer_path(number);
    if !path.exists() {
        return Ok(());
    }
    // The kernel may be taking it away at this moment, together with the namespace.
    let deleted = ip(&["link", "delete", &outer_name(number)]);
    deleted.or_else(|error| if path.exists() { Err(error) } else { Ok(()) })
}

/// Where the machine's end shows while it exists.
pub(crate) fn outer_path(number: u8) -> PathBuf {
    Path::new("/sys/class/net").join(outer_name(number))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(programs::find("ip").context("no program ip (Debian package iproute2)")?);
    command.args(arguments);
    process::run(command).map(|_said| ())
}
