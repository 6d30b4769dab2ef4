//! What is true after the supervisor was killed, in each sandbox.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kled_core::WorkspaceName;
use kled_core::provider::{ExecRequest, Provider as _, ProviderExt as _};
use kled_core::workspace::{StopReason, WorkspaceStatus};
use kled_providers::local::{Sandbox, SupervisorProgram};
use kled_tests::suite::Suite;
use kled_tests::workspaces::residue;
use rustix::process::{Signal, kill_process};

use crate::scene::{Scene, supervisor};

pub(crate) fn add(mut suite: Suite, supervisor: &SupervisorProgram) -> Suite {
    for (name, sandbox) in
        [("bubblewrap", Sandbox::Bubblewrap), ("landlock", Sandbox::Landlock), ("none", Sandbox::None)]
    {
        for (case, then) in [("stopped", Then::Stop), ("started", Then::Start), ("deleted", Then::Delete)] {
            let label = format!("crash/{name}-can-be-{case}");
            if !sandbox.works() {
                suite = suite.skip(label, format!("{name} does not work on this machine"));
                continue;
            }
            let supervisor = supervisor.clone();
            suite = suite.case(label, move || crash(supervisor, sandbox, then));
        }
    }
    suite
}

#[derive(Clone, Copy)]
enum Then {
    Stop,
    Start,
    Delete,
}

async fn crash(supervisor: SupervisorProgram, sandbox: Sandbox, then: Then) -> Result<()> {
    let scene = Scene::new(supervisor, sandbox).await?;
    let (name, _) = scene.create("one").await?;
    scene.succeeds(&name, "echo kept > file").await?;
    // One that leaves its process group and its parent, as a daemon does.
    let daemon =
        ExecRequest::new(["sh", "-c", "setsid sh -c 'sleep 4321 & sleep 1234' & exec sleep 5678"]).detached();
    drop(scene.provider.exec(&name, daemon).await?);
    kill_supervisor(&scene, &name)?;
    let stopped = wait_for_crash(&scene, &name).await?;
    ensure!(
        matches!(stopped, WorkspaceStatus::Stopped { reason: StopReason::Crashed { .. }, .. }),
        "{stopped}"
    );
    match then {
        Then::Stop => {
            scene.provider.stop(&name).await?;
            let left: Vec<_> = residue(&scene.root(), &name)
                .into_iter()
                .filter(|left| left.starts_with("process"))
                .collect();
            ensure!(left.is_empty(), "{left:?} runs on in a stopped workspace");
        }
        Then::Start => {
            ensure!(scene.provider.start(&name).await?.status.is_running());
            ensure!(scene.succeeds(&name, "cat file").await? == "kept\n", "the data is lost");
            let old = scene.shell(&name, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await?;
            ensure!(!String::from_utf8_lossy(&old.stdout).contains("sleep 4321"), "the old run goes on");
        }
        Then::Delete => {}
    }
    scene.delete(&name).await
}

fn kill_supervisor(scene: &Scene, name: &WorkspaceName) -> Result<()> {
    let lock = scene.root().join("workspaces").join(name.as_str()).join("run/supervisor.lock");
    let process = supervisor(&std::fs::read_to_string(lock)?).context("no process in the lock")?;
    kill_process(process, Signal::KILL)?;
    Ok(())
}

async fn wait_for_crash(scene: &Scene, name: &WorkspaceName) -> Result<WorkspaceStatus> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let status = scene.provider.status(name).await?.status;
        if !status.is_running() {
            return Ok(status);
        }
        ensure!(tokio::time::Instant::now() < deadline, "a killed supervisor is {status} for 5 seconds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
