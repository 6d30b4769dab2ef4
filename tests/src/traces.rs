//! What a fixture can leave on a machine, looked at from outside.
//!
//! [`Traces`] knows where one fixture's leftovers would be, [`Machine`] what all of the machine would show, and
//! [`Held`] a fixture in a process of its own, which a test can kill.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::cgroup;
use crate::enclosure::Entrance;
use crate::slot::Slot;
use crate::{link, process, programs, wait};

/// Set for a process that shall hold a fixture until it is killed.
const HOLD: &str = "KLED_TEST_HOLD";

const GONE_DEADLINE: Duration = Duration::from_secs(30);
const START_DEADLINE: Duration = Duration::from_secs(240);

/// The namespaces that an enclosure has for itself.
const NAMESPACES: [&str; 3] = ["pid", "net", "mnt"];

/// Settings of the machine that a kubelet changes if it can.
const SETTINGS: [&str; 4] =
    ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];

/// Parts of the paths at which a node mounts something; what else is mounted may be anyone's, and change meanwhile.
const MOUNTS: [&str; 4] = ["kled-tests", "kubelet", "/netns", "/cni"];

/// The machine's own mounts, packet filters and settings.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    mounts: BTreeSet<String>,
    filters: BTreeSet<String>,
    settings: Vec<String>,
}

impl Machine {
    /// As it is now.
    ///
    /// # Errors
    /// When something cannot be read, which takes root and `iptables-save`.
    pub fn look() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let is_ours = |line: &&str| MOUNTS.iter().any(|part| line.contains(part));
        let mounts = mounts.lines().filter(is_ours).map(str::to_owned).collect();
        let save = programs::find("iptables-save").context("no program iptables-save")?;
        let rules = process::run(Command::new(save))?;
        // Comments hold the time, and the chains that every machine has hold counters.
        let is_rule =
            |line: &&str| line.starts_with("-A") || line.starts_with(":KUBE") || line.starts_with(":CNI");
        let filters = rules.lines().filter(is_rule).map(str::to_owned).collect();
        let read =
            |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).with_context(|| name.to_owned());
        Ok(Self { mounts, filters, settings: SETTINGS.into_iter().map(read).collect::<Result<_>>()? })
    }
}

/// Where the traces of one fixture would be.
#[derive(Debug, Serialize, Deserialize)]
pub struct Traces {
    number: u8,
    directory: PathBuf,
    /// Links like `net:[4026532]`, which every process of an enclosure has.
    namespaces: BTreeSet<String>,
    /// Those that run outside an enclosure.
    processes: Vec<u32>,
}

impl Traces {
    /// Of a fixture whose processes run in an enclosure.
    pub(crate) fn inside(entrance: &Entrance, directory: &Path) -> Result<Self> {
        let process = entrance.first_process();
        let namespace = |kind: &str| Ok(namespace(Path::new(&format!("/proc/{process}")), kind)?);
        let namespaces = NAMESPACES.into_iter().map(namespace).collect::<Result<_>>()?;
        Ok(Self {
            number: entrance.number(),
            directory: directory.to_owned(),
            namespaces,
            processes: Vec::new(),
        })
    }

    /// Of a fixture whose processes run on the machine.
    pub(crate) fn on_machine(slot: &Slot, processes: Vec<u32>) -> Self {
        let directory = slot.directory().to_owned();
        Self { number: slot.number(), directory, namespaces: BTreeSet::new(), processes }
    }

    /// Everything of the fixture that is still on the machine.
    ///
    /// # Errors
    /// When the machine's processes or control groups cannot be listed.
    pub fn remaining(&self) -> Result<Vec<String>> {
        let mut remaining = self.running()?;
        let interface = link::outer_path(self.number);
        let paths = cgroup::paths(self.number)?.into_iter().chain([interface, self.directory.clone()]);
        remaining.extend(paths.filter(|path| path.exists()).map(|path| path.display().to_string()));
        Ok(remaining)
    }

    fn running(&self) -> Result<Vec<String>> {
        let is_inside = |process: &Path| {
            let links = NAMESPACES.map(|kind| namespace(process, kind));
            links.iter().flatten().any(|link| self.namespaces.contains(link))
        };
        let entries = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        let outside = self.processes.iter().map(|id| PathBuf::from(format!("/proc/{id}")));
        let running = entries.filter(|path| is_inside(path)).chain(outside.filter(|path| path.exists()));
        Ok(running.map(|path| path.display().to_string()).collect())
    }

    /// Waits until no process of the fixture runs.
    ///
    /// # Errors
    /// When some still do after the deadline; the message names them.
    pub async fn wait_until_ended(&self) -> Result<()> {
        wait::until(GONE_DEADLINE, "the processes to end", async || {
            let running = self.running()?;
            ensure!(running.is_empty(), "still there: {running:?}");
            Ok(())
        })
        .await
    }

    /// Waits until nothing of the fixture is left.
    ///
    /// # Errors
    /// When something is after the deadline; the message names it.
    pub async fn wait_until_gone(&self) -> Result<()> {
        wait::until(GONE_DEADLINE, "every trace to go", async || {
            let remaining = self.remaining()?;
            ensure!(remaining.is_empty(), "still there: {remaining:?}");
            Ok(())
        })
        .await
    }
}

fn namespace(process: &Path, kind: &str) -> std::io::Result<String> {
    Ok(fs::read_link(process.join("ns").join(kind))?.to_string_lossy().into_owned())
}

/// A fixture held by another process of the same program, whose `main` calls [`hold`] when [`is_holder`] says so.
#[derive(Debug)]
pub struct Held {
    holder: Child,
    /// Where the held fixture's traces are.
    pub traces: Traces,
}

impl Held {
    /// Starts the holder and waits until its fixture runs.
    ///
    /// # Errors
    /// When the fixture does not start.
    pub async fn start() -> Result<Self> {
        let mut command = tokio::process::Command::new(env::current_exe()?);
        command.env(HOLD, "1").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut holder = command.spawn().context("start a holder")?;
        let mut lines = BufReader::new(holder.stdout.take().context("the holder has no output")?).lines();
        let line = tokio::time::timeout(START_DEADLINE, lines.next_line()).await;
        let line = line.context("the held fixture did not start in time")??.context("the holder ended")?;
        Ok(Self { holder, traces: serde_json::from_str(&line).context("read what the holder says")? })
    }

    /// Kills the holder, which gets no chance to clean up.
    ///
    /// # Errors
    /// When it has ended already.
    pub async fn kill(mut self) -> Result<Traces> {
        self.holder.kill().await.context("kill the holder")?;
        Ok(self.traces)
    }
}

/// Whether this process was started to hold a fixture.
#[must_use]
pub fn is_holder() -> bool {
    env::var_os(HOLD).is_some()
}

/// Starts a fixture, tells where its traces are and keeps it until this process is killed.
#[must_use]
pub fn hold<T>(start: impl Future<Output = Result<(T, Traces)>>) -> ExitCode {
    let held = tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            let (_fixture, traces) = start.await?;
            println!("{}", serde_json::to_string(&traces)?);
            std::future::pending::<Result<()>>().await
        })
    });
    if let Err(error) = held {
        eprintln!("error: {error:#}");
    }
    ExitCode::FAILURE
}
