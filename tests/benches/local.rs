//! The local provider against its floor, both sides in one run, taking turns:
//! creating a workspace against `git clone` alone, and a command in a workspace against starting it directly.
//!
//! ```sh
//! cargo bench --package kled-tests --bench local
//! ```

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kled_core::WorkspaceName;
use kled_core::provider::ProviderExt as _;
use kled_core::workspace::{Isolation, WorkspaceSpec};
use kled_providers::local::{LocalProvider, Sandbox, SupervisorProgram};
use kled_tests::workspaces::repository;

const FILES: usize = 5_000;
const CREATES: usize = 15;
const COMMANDS: usize = 200;

fn main() -> Result<()> {
    let supervisor = SupervisorProgram::this_program();
    tokio::runtime::Runtime::new()?.block_on(compare(supervisor))
}

async fn compare(supervisor: SupervisorProgram) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("kled-bench-").tempdir_in("/var/tmp")?;
    let origin = folder.path().join("origin");
    repository(&origin, FILES)?;
    println!("repository of {FILES} files; medians of {CREATES} creates and {COMMANDS} commands");
    for (name, sandbox) in
        [("bubblewrap", Sandbox::Bubblewrap), ("landlock", Sandbox::Landlock), ("none", Sandbox::None)]
    {
        if !sandbox.works() {
            println!("{name}: does not work on this machine");
            continue;
        }
        let builder = LocalProvider::builder().root(folder.path().join(name)).supervisor(supervisor.clone());
        let builder = if sandbox == Sandbox::None { builder } else { builder.sandbox(sandbox) };
        let side = Side { provider: builder.build().await?, sandbox };
        side.creates(&origin, folder.path()).await.with_context(|| format!("create with {name}"))?;
        side.commands(&origin).await.with_context(|| format!("commands with {name}"))?;
    }
    Ok(())
}

struct Side {
    provider: LocalProvider,
    sandbox: Sandbox,
}

impl Side {
    async fn create(&self, repository: &str) -> Result<WorkspaceName> {
        let name = WorkspaceName::new("bench")?;
        let isolation = if self.sandbox == Sandbox::None { Isolation::None } else { Isolation::Process };
        let spec = WorkspaceSpec::builder(repository).isolation(isolation).build()?;
        self.provider.create(&name, &spec).await?;
        Ok(name)
    }

    async fn creates(&self, origin: &Path, folder: &Path) -> Result<()> {
        let url = format!("file://{}", origin.display());
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..CREATES {
            let begin = Instant::now();
            git_clone(&url, &folder.join("clone"))?;
            floor.push(begin.elapsed());
            std::fs::remove_dir_all(folder.join("clone"))?;
            let begin = Instant::now();
            let name = self.create(&url).await?;
            ours.push(begin.elapsed());
            self.provider.delete(&name).await?;
        }
        report(&format!("{:?}: create / git clone --depth 1", self.sandbox), ours, floor);
        Ok(())
    }

    async fn commands(&self, origin: &Path) -> Result<()> {
        let name = self.create(&origin.display().to_string()).await?;
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..COMMANDS {
            let begin = Instant::now();
            let output = Command::new("true").stdin(Stdio::null()).output()?;
            floor.push(begin.elapsed());
            ensure!(output.status.success());
            let begin = Instant::now();
            let output = self.provider.run(&name, ["true"]).await?;
            ours.push(begin.elapsed());
            ensure!(output.status.is_success());
        }
        report(&format!("{:?}: exec / direct spawn", self.sandbox), ours, floor);
        println!("{:?}: idle memory {}", self.sandbox, memory(&name)?);
        self.provider.delete(&name).await?;
        Ok(())
    }
}

fn git_clone(url: &str, target: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["clone", "--quiet", "--depth", "1", url]).arg(target);
    ensure!(git.status()?.success(), "git clone failed");
    Ok(())
}

fn report(what: &str, ours: Vec<Duration>, floor: Vec<Duration>) {
    let (ours, floor) = (median(ours), median(floor));
    let ratio = ours.as_secs_f64() / floor.as_secs_f64();
    println!("{what}: {ours:.2?} / {floor:.2?} = {ratio:.2}, {:.2?} more", ours.saturating_sub(floor));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What the processes of an idle workspace take: those that carry its name, and the supervisor above them. Resident
/// memory counts shared libraries in each; the proportional one shares them out.
fn memory(name: &WorkspaceName) -> Result<String> {
    let marker = format!("KLED_WORKSPACE={name}");
    let mut processes = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes()) {
            processes.insert(entry.path());
            let stat = std::fs::read_to_string(entry.path().join("stat"))?;
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
            processes.insert(Path::new("/proc").join(parent.context("no parent")?));
        }
    }
    // The benchmark itself is no part of the workspace.
    processes.remove(&Path::new("/proc").join(std::process::id().to_string()));
    let sum = |field: &str| -> u64 {
        let rollups =
            processes.iter().filter_map(|path| std::fs::read_to_string(path.join("smaps_rollup")).ok());
        rollups.filter_map(|text| kilobytes(&text, field)).sum()
    };
    Ok(format!(
        "{} KiB resident, {} KiB proportional, {} processes",
        sum("Rss:"),
        sum("Pss:"),
        processes.len()
    ))
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}
