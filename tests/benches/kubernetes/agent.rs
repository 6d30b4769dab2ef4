//! What the agent takes.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kled_core::WorkspaceId;
use kled_core::provider::ProviderExt as _;
use kled_providers::agent::Token;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::{Bench, median};

const STARTS: usize = 20;

pub(super) async fn measure(bench: &Bench) -> Result<()> {
    let program = tokio::task::spawn_blocking(kled_tests::agent::program).await??;
    println!("static program: {:.2} MB (goal: 10)", program.metadata()?.len() as f64 / 1e6);
    let name = bench.workspace("idle").await?;
    let workspace = bench.provider.status(&name).await?;
    let idle = bench.pods.spec("one").idle_timeout("1h").build()?;
    let acting = kled_core::WorkspaceName::new("acting")?;
    let acting_workspace = bench.provider.create(&acting, &idle).await?;
    memory("without anything to watch for", &workspace.id)?;
    memory("with an idle timeout", &acting_workspace.id)?;
    bench.provider.delete(&name).await?;
    bench.provider.delete(&acting).await?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(start(&program).await?);
    }
    println!("start to serving: {:.2?}, the median of {STARTS}", median(&starts));
    Ok(())
}

/// Prints what the processes of a workspace's agent have resident, as the kernel sees them from the machine.
fn memory(what: &str, id: &WorkspaceId) -> Result<()> {
    let marker = format!("KLED_WORKSPACE_ID={id}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let line = read("cmdline");
        let (program, role) = line.trim_end_matches('\0').split_once('\0').unwrap_or_default();
        if program.ends_with("kled-agent") && read("environ").split('\0').any(|entry| entry == marker) {
            let status = read("status");
            let resident =
                status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory")?;
            let kilobytes: f64 = resident.trim().trim_end_matches(" kB").parse()?;
            found.push(format!("{role} {:.1} MB", kilobytes * 1024.0 / 1e6));
        }
    }
    found.sort();
    ensure!(found.len() == 2, "the agent has the processes {found:?}");
    println!("idle, {what}: {} (goal: 15)", found.join(", "));
    Ok(())
}

/// How long the program takes from its start to where it serves.
async fn start(program: &Path) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    std::fs::write(&token, Token::random().expose())?;
    let mut command = Command::new(program);
    command.arg("serve").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command.env("KLED_WORKSPACE", "bench").env("KLED_WORKSPACE_ID", "6f2ad1a5-9a63-4f4d-a4f6-7c3f5f1f4d11");
    command.env("KLED_AGENT_LISTEN", "127.0.0.1:0").env("KLED_AGENT_HEALTH_LISTEN", "127.0.0.1:0");
    command.env("KLED_AGENT_TOKEN_FILE", &token).env("KLED_AGENT_CHECKOUT", folder.path());
    command.env("KLED_AGENT_STATE", folder.path().join("state"));
    let begin = Instant::now();
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    while let Some(line) = lines.next_line().await? {
        if line.contains("serving workspace") {
            let took = begin.elapsed();
            child.kill().await?;
            return Ok(took);
        }
    }
    anyhow::bail!("the agent ended: {}", child.wait().await?)
}
