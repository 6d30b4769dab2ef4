//! Creates that failed, and those that correct them.

use anyhow::{Context as _, Result, ensure};
use kled_core::provider::ProviderExt as _;
use kled_core::{ErrorKind, WorkspaceName};
use kled_providers::local::{Sandbox, SupervisorProgram};
use kled_tests::suite::Suite;

use crate::scene::Scene;

pub(crate) fn add(suite: Suite, supervisor: &SupervisorProgram) -> Suite {
    let supervisor = supervisor.clone();
    suite.case("correction/a-failed-create-says-why-and-gives-way", move || corrected(supervisor))
}

async fn corrected(supervisor: SupervisorProgram) -> Result<()> {
    let scene = Scene::new(supervisor, Sandbox::None).await?;
    let name = WorkspaceName::new("one")?;
    let misspelt = scene.spec().branch("mian").build()?;
    let error = scene.provider.create(&name, &misspelt).await.err().context("there is no such branch")?;
    ensure!(error.kind() == ErrorKind::RevisionNotFound, "{error:?}");
    let failed = scene.provider.status(&name).await?;
    ensure!(failed.status.state() == "Interrupted", "{}", failed.status);
    ensure!(failed.status.to_string().contains("mian"), "{}", failed.status);

    let correct = scene.spec().branch("main").build()?;
    let created = scene.provider.create(&name, &correct).await?;
    ensure!(created.status.is_running() && created.id != failed.id, "{created:?}");
    let again = scene.provider.create(&name, &misspelt).await.err().context("the name is taken")?;
    ensure!(again.kind() == ErrorKind::Conflict, "{again:?}");
    scene.delete(&name).await
}
