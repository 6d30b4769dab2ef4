//! A real container engine behind the Docker API: Podman's service, in an enclosure of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, getrlimit};
use tokio::net::UnixStream;

use crate::enclosure::{self, Enclosure, Entrance};
use crate::process::{self, Server};
use crate::programs::{self, Privilege};
use crate::slot::Slot;
use crate::traces::Traces;
use crate::wait;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// The most open files a container may have, if the machine allows as many.
const OPEN_FILES: u64 = 20_000;

/// The most processes a container may have.
const PROCESSES: u64 = 1_000;

/// `podman system service` on a Unix socket, with storage, configuration and networks of its own.
///
/// It serves the Docker API (1.41) and Podman's own. Several may run side by side. Its containers, networks and
/// mounts live in an [`Enclosure`] and end with it. The socket and every directory of the machine (for bind
/// mounts) are the same inside and outside; a published port is reached at [`PodmanService::address`] instead of
/// `127.0.0.1`, because it listens in the enclosure's network.
///
/// No registry is asked: images are loaded from archives, which [`image`](crate::image) writes.
///
/// ```no_run
/// # async fn example() -> anyhow::Result<()> {
/// use kled_tests::{image::Image, podman::PodmanService};
///
/// let podman = PodmanService::start().await?;
/// let archive = podman.directory().join("busybox.tar");
/// Image::busybox("localhost/busybox:1")?.write(&archive)?;
/// podman.load_image(&archive).await?;
/// println!("DOCKER_HOST=unix://{}", podman.socket().display());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PodmanService {
    // Order matters: fields are dropped from the first to the last, and the slot sweeps what is left.
    server: Server,
    enclosure: Enclosure,
    socket: PathBuf,
    slot: Slot,
}

impl PodmanService {
    /// Why it cannot run here, in one line; `None` if it can.
    #[must_use]
    pub fn missing() -> Option<String> {
        let own = ["podman", "runc", "conmon", "iptables", "busybox"];
        programs::missing(&[&own[..], &enclosure::PROGRAMS[..]].concat(), Privilege::Root)
    }

    /// Starts the service and waits until its socket answers.
    ///
    /// # Errors
    /// When it does not answer in time; the message quotes its log.
    pub async fn start() -> Result<Self> {
        let slot = Slot::take("podman")?;
        let enclosure = Enclosure::start(&slot).await?;
        fs::write(slot.directory().join("containers.conf"), configuration(slot.directory())?)?;
        slot.create_directory("networks")?;
        let socket = slot.directory().join("podman.sock");
        let mut command = podman(enclosure.entrance(), slot.directory())?;
        command.args(["system", "service", "--time=0"]).arg(format!("unix://{}", socket.display()));
        let server = Server::start(&slot, "podman", command)?;
        let service = Self { server, enclosure, socket, slot };
        service.wait_until_ready().await.or_else(|error| service.slot.keep_logs(error))?;
        Ok(service)
    }

    async fn wait_until_ready(&self) -> Result<()> {
        wait::until(START_DEADLINE, "podman's socket", async || {
            self.server.check_running()?;
            UnixStream::connect(&self.socket).await.with_context(|| self.server.log_tail())?;
            Ok(())
        })
        .await
    }

    /// The socket, for a client of the Docker API.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where published ports are reached.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.enclosure.entrance().address()
    }

    /// What it would leave on the machine.
    ///
    /// # Errors
    /// When it has ended.
    pub fn traces(&self) -> Result<Traces> {
        Traces::inside(self.enclosure.entrance(), self.slot.directory())
    }

    /// A directory that is removed with the service.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.slot.directory()
    }

    /// Everything the service printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Loads an OCI archive; its images keep the names that the archive gives them.
    ///
    /// # Errors
    /// When podman refuses the archive.
    pub async fn load_image(&self, archive: &Path) -> Result<()> {
        let archive = archive.to_str().context("the archive's path is not UTF-8")?;
        let said = self.podman(&["load", "--input", archive]).await?;
        ensure!(said.contains("Loaded image"), "podman load said: {said}");
        Ok(())
    }

    /// The podman command line on the service's storage, to be run with streams of one's own.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = podman(self.enclosure.entrance(), self.slot.directory())?;
        command.args(arguments);
        Ok(command)
    }

    /// Runs the podman command line on the service's storage and gives its output.
    ///
    /// # Errors
    /// When podman ends with an error.
    pub async fn podman(&self, arguments: &[&str]) -> Result<String> {
        let command = self.command(arguments)?;
        tokio::task::spawn_blocking(move || process::run(command)).await.context("wait for podman")?
    }
}

fn podman(entrance: &Entrance, directory: &Path) -> Result<Command> {
    let mut command = entrance.command("podman")?;
    command.env("CONTAINERS_CONF", directory.join("containers.conf"));
    for (option, folder) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
        command.arg(option).arg(directory.join(folder));
    }
    // crun, which podman prefers, cannot set the limits that some machines forbid even root to raise.
    command.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
    Ok(command)
}

/// Limits that fit this machine: podman's own default is above what some let even root ask for.
///
/// Soft and hard limit are equal because podman 4.3 swaps them on the way from this file to the Docker API.
fn configuration(directory: &Path) -> Result<String> {
    let within = |limit: Resource, most: u64| getrlimit(limit).maximum.unwrap_or(most).min(most);
    let files = within(Resource::Nofile, OPEN_FILES);
    let processes = within(Resource::Nproc, PROCESSES);
    let networks = directory.join("networks");
    let networks = networks.to_str().context("the slot's path is not UTF-8")?;
    Ok(format!(
        "[containers]\n\
         default_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n\
         [engine]\n\
         events_logger = \"file\"\n\
         lock_type = \"file\"\n\
         [network]\n\
         network_config_dir = \"{networks}\"\n"
    ))
}
