//! The Kubernetes provider against `kubectl`, both sides in one run, taking turns, on a cluster of its own.
//!
//! ```sh
//! KLED_TEST_SERVERS=1 cargo bench --package kled-tests --bench kubernetes
//! KLED_TEST_SERVERS=1 cargo bench --package kled-tests --bench kubernetes -- exec copy   # some parts only
//! ```
//!
//! | part | ours | theirs |
//! |---|---|---|
//! | `create` | create to first exec | `kubectl apply`, `wait`, `exec git clone`, `exec` of an equal pod and volume |
//! | `exec` | `kled workspace exec`, and the SDK | `kubectl exec` |
//! | `copy` | upload and download of the SDK | `kubectl cp`, and `cp` on the machine's disk as the floor |
//! | `agent` | its size, memory and time to begin | |
//! | `lifecycle` | status, list, stop, start | |
//!
//! `kled` is this very program under another name, unless `KLED_BENCH_PROGRAM` names one.

mod agent;
mod copy;
mod create;
mod exec;
mod lifecycle;

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kled_cli::{Runner, Supervisor};
use kled_core::WorkspaceName;
use kled_providers::kubernetes::KubernetesProvider;
use kled_tests::cluster::Cluster;
use kled_tests::image::WORKSPACE;
use kled_tests::kubernetes::Pods;
use kled_tests::programs;
use tempfile::TempDir;
use tokio::process::Command;

/// The first argument of a process that is `kled`.
const AS_KLED: &str = "as-kled";

fn main() -> Result<ExitCode> {
    let supervisor = Supervisor::this_program();
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == AS_KLED) {
        return Ok(Runner::new(supervisor).run(arguments));
    }
    if let Some(missing) = Cluster::missing().or_else(kled_tests::agent::missing) {
        println!("left out: {missing}");
        return Ok(ExitCode::SUCCESS);
    }
    let parts = arguments.filter_map(|part| part.into_string().ok().filter(|part| !part.starts_with('-')));
    tokio::runtime::Runtime::new()?.block_on(compare(&parts.collect::<Vec<_>>()))?;
    Ok(ExitCode::SUCCESS)
}

async fn compare(parts: &[String]) -> Result<()> {
    let bench = Bench::new().await?;
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|named| named == part);
    if wanted("create") {
        bench.begin("create")?;
        create::compare(&bench).await.context("create")?;
    }
    if wanted("exec") {
        bench.begin("exec")?;
        exec::compare(&bench).await.context("exec")?;
    }
    if wanted("copy") {
        bench.begin("copy")?;
        copy::compare(&bench).await.context("copy")?;
    }
    if wanted("agent") {
        bench.begin("agent")?;
        agent::measure(&bench).await.context("agent")?;
    }
    if wanted("lifecycle") {
        bench.begin("lifecycle")?;
        lifecycle::measure(&bench).await.context("lifecycle")?;
    }
    bench.pods.delete().await
}

/// Both sides.
struct Bench {
    pods: Pods,
    provider: KubernetesProvider,
    kubectl: PathBuf,
    kled: (PathBuf, Option<&'static str>),
    folder: TempDir,
}

impl Bench {
    async fn new() -> Result<Self> {
        let pods = Pods::shared().await?;
        // The provider's own client, not that of the tests.
        let provider = KubernetesProvider::builder().kubeconfig(pods.cluster().kubeconfig());
        let provider = provider.namespace(pods.namespace()).default_image(WORKSPACE);
        let provider = provider.image_pull_policy("Never").build().await?;
        let kubectl = programs::find("kubectl").context("no program kubectl")?;
        let kled = match std::env::var_os("KLED_BENCH_PROGRAM") {
            Some(program) => (program.into(), None),
            None => (std::env::current_exe()?, Some(AS_KLED)),
        };
        // Not in memory: a copy should meet the disk.
        let folder = tempfile::Builder::new().prefix("kled-bench-").tempdir_in("/var/tmp")?;
        let settings = format!(
            "provider = \"kubernetes\"\n[providers.kubernetes]\nkubeconfig = {:?}\nnamespace = {:?}\n",
            pods.cluster().kubeconfig(),
            pods.namespace()
        );
        std::fs::write(folder.path().join("config.toml"), settings)?;
        Ok(Self { pods, provider, kubectl, kled, folder })
    }

    /// Says which part comes and how busy the machine is.
    fn begin(&self, part: &str) -> Result<()> {
        let load = std::fs::read_to_string("/proc/loadavg")?;
        println!("\n{part} (load {})", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
        Ok(())
    }

    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.pods.cluster().kubeconfig());
        command.args(["--namespace", self.pods.namespace()]).args(arguments);
        command
    }

    fn kled(&self, arguments: &[&str]) -> Command {
        let (program, first) = &self.kled;
        let mut command = Command::new(program);
        command.args(*first).args(arguments).env("KLED_CONFIG", self.folder.path().join("config.toml"));
        command
    }

    /// A running workspace of the small repository.
    async fn workspace(&self, name: &str) -> Result<WorkspaceName> {
        let name = WorkspaceName::new(name)?;
        kled_core::provider::ProviderExt::create(&self.provider, &name, &self.pods.spec("one").build()?)
            .await?;
        Ok(name)
    }
}

/// Runs a command to its end and says how long that took.
async fn timed(mut command: Command) -> Result<Duration> {
    let begin = Instant::now();
    let output = command.stdin(Stdio::null()).output().await?;
    let took = begin.elapsed();
    ensure!(
        output.status.success(),
        "{:?} ended with {}: {}",
        command.as_std(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}

fn report(what: &str, ours: &[Duration], theirs: &[Duration], goal: &str) {
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("{what}: {ours:.2?} / {theirs:.2?} = {ratio:.2}{goal}");
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
