//! Limits that are kept, or said not to be.

use anyhow::{Context as _, Result, ensure};
use kled_core::WorkspaceName;
use kled_core::provider::{Provider as _, ProviderExt as _};
use kled_core::workspace::ConditionStatus;
use kled_providers::local::{Sandbox, SupervisorProgram};
use kled_tests::suite::Suite;

use crate::scene::Scene;

pub(crate) fn add(suite: Suite, supervisor: &SupervisorProgram) -> Suite {
    let supervisor = supervisor.clone();
    suite.case("limits/memory-is-kept-or-said-not-to-be", move || memory(supervisor))
}

async fn memory(supervisor: SupervisorProgram) -> Result<()> {
    let scene = Scene::new(supervisor, Sandbox::None).await?;
    let name = WorkspaceName::new("one")?;
    let spec = scene.spec().memory("64Mi").cpu("500m").disk("1Gi").build()?;
    let workspace = scene.provider.create(&name, &spec).await?;
    let promised = scene.provider.capabilities().limits.memory.is_enforced();
    let condition = workspace.condition("MemoryLimited").context("no condition of the limit")?;
    ensure!((condition.status == ConditionStatus::True) == promised, "{condition:?} but {promised}");
    let disk = workspace.condition("DiskLimited").context("no condition of the disk")?;
    ensure!(disk.status == ConditionStatus::False, "{disk:?}");
    // `tail` keeps what has no line end in memory.
    let output = scene.shell(&name, "head -c 300000000 /dev/zero | tail >/dev/null").await?;
    ensure!(output.status.is_success() != promised, "{output:?} with {condition:?}");
    let output = scene.shell(&name, "echo alive").await?;
    ensure!(output.stdout == b"alive\n", "the limit took more than the command: {output:?}");
    scene.delete(&name).await
}
