//! `kled-agent serve` as it runs in a pod.

use anyhow::{Context as _, Result, ensure};
use kled_core::provider::ExecRequest;
use kled_core::workspace::Source;
use kled_tests::wait;

use crate::process::{Agent, SOON, WORKSPACE_ID, zombies_of};
use crate::program;

/// Resident memory of an agent that waits, in KiB.
const MEMORY_MAX: u64 = 15 << 10;

pub(crate) async fn commands_have_the_environment_of_the_image_only() -> Result<()> {
    let agent = Agent::start(&program().await?).await?;
    let said = agent.shell("env").await?;
    let lines: Vec<&str> = said.lines().collect();
    let has = |line: &str| lines.contains(&line);
    ensure!(has("OF_THE_IMAGE=kept") && has("KLED_WORKSPACE=web"), "it is {said}");
    ensure!(has(&format!("KLED_WORKSPACE_ID={WORKSPACE_ID}")), "it is {said}");
    ensure!(has(&format!("HOME={}", agent.folder.path().join("home").display())), "it is {said}");
    ensure!(
        lines.iter().any(|line| line.starts_with("PATH=") && line.ends_with(":/kled/bin")),
        "it is {said}"
    );
    ensure!(!said.contains("KLED_AGENT_"), "it is {said}");
    Ok(())
}

pub(crate) async fn waits_in_little_memory() -> Result<()> {
    let agent = Agent::start(&program().await?).await?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.program.id()?))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    println!("kled-agent serve has {resident} KiB of at most {MEMORY_MAX} in memory");
    ensure!(resident <= MEMORY_MAX, "it has {resident} KiB in memory");
    Ok(())
}

/// Orphans are taken note of, and git, which the agent starts itself, is not taken for one.
pub(crate) async fn takes_note_of_orphans_and_of_nothing_else() -> Result<()> {
    let agent = Agent::start(&program().await?).await?;
    let origin = agent.folder.path().join("origin");
    agent
        .shell(&format!(
            "git init -q -b main {0} && cd {0} && echo content > file && git add . && \
         git -c user.name=a -c user.email=a@example.com commit -qm first",
            origin.display()
        ))
        .await?;
    let client = agent.client().await?;
    let source = Source::new(origin.display().to_string().parse()?);
    let orphans = async {
        for _ in 0..20 {
            agent.shell("for i in 1 2 3 4 5; do (sleep 0.01 &); done").await?;
        }
        anyhow::Ok(())
    };
    let (checked_out, orphaned) = tokio::join!(client.checkout(&source, None, |_| {}), orphans);
    orphaned?;
    let checked_out = checked_out?;
    ensure!(checked_out.commit.len() == 40, "the commit is {}", checked_out.commit);
    ensure!(agent.shell("cat file").await? == "content\n", "the checkout is not where commands begin");
    let parent = agent.program.id()?;
    wait::until(SOON, "no zombie", async || {
        let zombies = zombies_of(parent)?;
        ensure!(zombies.is_empty(), "there are {zombies:?}");
        Ok(())
    })
    .await
}

pub(crate) async fn a_changed_file_is_activity() -> Result<()> {
    let agent = Agent::start(&program().await?).await?;
    let client = agent.client().await?;
    let before = client.status().await?;
    wait::until(SOON, "activity", async || {
        // Whoever edits through the volume; the first changes may come before the folder is watched.
        std::fs::write(agent.folder.path().join("checkout/file"), "content")?;
        let status = client.status().await?;
        ensure!(status.last_activity > before.last_activity, "nothing was noticed");
        ensure!(status.commands == 0, "{} commands run", status.commands);
        Ok(())
    })
    .await
}

pub(crate) async fn ends_everything_in_time() -> Result<()> {
    let mut agent = Agent::start(&program().await?).await?;
    let client = agent.client().await?;
    let stubborn = ExecRequest::new(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]);
    let mut session = client.exec(stubborn.command).await?;
    let mut said = [0_u8; 6];
    tokio::io::AsyncReadExt::read_exact(&mut session.stdout, &mut said).await?;
    let asked = std::time::Instant::now();
    agent.program.terminate()?;
    let status = agent.program.ended().await?;
    ensure!(status.success(), "it ended with {status}");
    ensure!(asked.elapsed() >= std::time::Duration::from_secs(1), "it did not wait for the grace");
    let left = agent.folder.path().join("state/credentials");
    ensure!(!left.exists(), "credentials are left");
    agent.program.line("ended: requested").await?;
    Ok(())
}

/// A pod may be deleted while it starts.
pub(crate) async fn hears_a_request_to_end_from_its_start() -> Result<()> {
    let program = program().await?;
    for _ in 0..20 {
        let mut agent = Agent::start(&program).await?;
        agent.program.terminate()?;
        let status = agent.program.ended().await?;
        ensure!(status.success(), "it ended with {status}");
    }
    Ok(())
}
