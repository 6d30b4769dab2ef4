//! What a cluster can leave on a machine, looked at from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kled_tests::cluster::Cluster;
use kled_tests::{process, programs, wait};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Set for a process that shall hold a cluster until it is killed.
pub(crate) const HOLD: &str = "KLED_TEST_HOLD_CLUSTER";

const GONE_DEADLINE: Duration = Duration::from_secs(30);
const START_DEADLINE: Duration = Duration::from_secs(240);

/// The machine's own mounts and packet filters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    mounts: BTreeSet<String>,
    filters: BTreeSet<String>,
    settings: Vec<String>,
}

impl Machine {
    pub(crate) fn look() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?.lines().map(str::to_owned).collect();
        let save = programs::find("iptables-save").context("no iptables-save")?;
        let rules = process::run(Command::new(save))?;
        // Comments hold the time, and counters count.
        let is_rule =
            |line: &&str| line.starts_with("-A") || line.starts_with(":KUBE") || line.starts_with(":CNI");
        let filters = rules.lines().filter(is_rule).map(str::to_owned).collect();
        // What a kubelet sets if it can.
        let settings = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];
        let read =
            |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).with_context(|| name.to_owned());
        Ok(Self { mounts, filters, settings: settings.into_iter().map(read).collect::<Result<_>>()? })
    }
}

/// Where the traces of one cluster would be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Traces {
    number: u8,
    directory: PathBuf,
    /// Links like `net:[4026532]`, which every process inside has.
    namespaces: BTreeSet<String>,
}

impl Traces {
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let process = cluster.first_process();
        let namespace = |kind: &str| Ok(fs::read_link(format!("/proc/{process}/ns/{kind}"))?);
        let namespaces = ["pid", "net", "mnt"].into_iter().map(namespace).collect::<Result<Vec<_>>>()?;
        let directory = cluster.kubeconfig().parent().context("a directory")?.to_owned();
        let namespaces = namespaces.into_iter().map(|link| link.to_string_lossy().into_owned()).collect();
        Ok(Self { number: cluster.number(), directory, namespaces })
    }

    /// What a holder prints.
    pub(crate) async fn read(output: impl AsyncRead + Unpin) -> Result<Self> {
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(START_DEADLINE, lines.next_line()).await;
        let line = line.context("the holder's cluster did not start in time")??;
        serde_json::from_str(&line.context("the holder ended")?).context("read what the holder says")
    }

    pub(crate) async fn wait_until_processes_gone(&self) -> Result<()> {
        wait::until(GONE_DEADLINE, "the processes to end", async || {
            let processes = self.processes()?;
            ensure!(processes.is_empty(), "still there: {processes:?}");
            Ok(())
        })
        .await
    }

    pub(crate) async fn wait_until_gone(&self) -> Result<()> {
        wait::until(GONE_DEADLINE, "every trace to go", async || {
            let remaining = self.remaining()?;
            ensure!(remaining.is_empty(), "still there: {remaining:?}");
            Ok(())
        })
        .await
    }

    /// Everything of the cluster that is still on the machine.
    pub(crate) fn remaining(&self) -> Result<Vec<String>> {
        let interface = PathBuf::from(format!("/sys/class/net/kled{}", self.number));
        let mut remaining = self.processes()?;
        let paths = self.control_groups()?.into_iter().chain([interface, self.directory.clone()]);
        remaining.extend(paths.filter(|path| path.exists()).map(|path| path.display().to_string()));
        Ok(remaining)
    }

    fn processes(&self) -> Result<Vec<String>> {
        let is_inside = |process: &Path| {
            let links = ["pid", "net", "mnt"].map(|kind| fs::read_link(process.join("ns").join(kind)));
            links.iter().flatten().any(|link| self.namespaces.contains(link.to_string_lossy().as_ref()))
        };
        let processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        Ok(processes.filter(|path| is_inside(path)).map(|path| path.display().to_string()).collect())
    }

    /// The cluster's group in every hierarchy, whether it exists or not.
    fn control_groups(&self) -> Result<Vec<PathBuf>> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let hierarchies = mounts.lines().filter(|line| line.contains(" - cgroup"));
        let points = hierarchies.filter_map(|line| line.split_whitespace().nth(4));
        Ok(points.map(|point| Path::new(point).join(format!("kled-tests-{}", self.number))).collect())
    }
}

/// Runs a cluster, tells where its traces are, and waits to be killed.
pub(crate) fn hold() -> ExitCode {
    let held = tokio::runtime::Runtime::new()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(hold_cluster()));
    match held {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn hold_cluster() -> Result<()> {
    let cluster = Cluster::start().await?;
    println!("{}", serde_json::to_string(&Traces::of(&cluster)?)?);
    std::future::pending().await
}
