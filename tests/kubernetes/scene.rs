//! What the cases share: one cluster, and who may use it at a time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kled_core::WorkspaceName;
use kled_core::provider::ProviderExt as _;
use kled_core::workspace::{Workspace, WorkspaceSpec};
use kled_providers::kubernetes::KubernetesProvider;
use kled_tests::kubernetes::Pods;
use kled_tests::suite::{Shared, Suite};
use kube::Api;
use tokio::sync::RwLock;

static PODS: Shared<Pods> = Shared::new();

/// Cases that measure take it alone.
static QUIET: RwLock<()> = RwLock::const_new(());

/// How long a pod may take to be there again.
pub(crate) const BACK: Duration = Duration::from_secs(90);

/// Adds a case that runs beside others.
pub(crate) fn beside<Ending>(suite: Suite, name: &str, body: fn(Arc<Pods>) -> Ending) -> Suite
where
    Ending: Future<Output = Result<()>> + Send + 'static,
{
    suite.case(name, move || async move {
        let _not_alone = QUIET.read().await;
        body(pods().await?).await
    })
}

/// Adds a case that runs while no other does.
pub(crate) fn alone<Ending>(suite: Suite, name: &str, body: fn() -> Ending) -> Suite
where
    Ending: Future<Output = Result<()>> + Send + 'static,
{
    suite.case(name, move || async move {
        let _alone = QUIET.write().await;
        body().await
    })
}

pub(crate) async fn pods() -> Result<Arc<Pods>> {
    PODS.get(Pods::shared).await
}

/// Removes the namespace and lets go of the cluster.
pub(crate) async fn release() -> Result<()> {
    // Nobody asks for a fixture that no case has started.
    let started = PODS.get(async || anyhow::bail!("no case ran")).await.ok();
    PODS.release().await;
    match started {
        Some(pods) => pods.delete().await,
        None => Ok(()),
    }
}

pub(crate) fn name(text: &str) -> Result<WorkspaceName> {
    Ok(WorkspaceName::new(text)?)
}

pub(crate) async fn provider(pods: &Pods) -> Result<KubernetesProvider> {
    Ok(pods.builder().build().await?)
}

/// The small repository.
pub(crate) fn small(pods: &Pods) -> Result<WorkspaceSpec> {
    Ok(pods.spec("other").build()?)
}

/// Makes a workspace of the small repository.
pub(crate) async fn made(
    pods: &Pods,
    provider: &KubernetesProvider,
    name: &WorkspaceName,
) -> Result<Workspace> {
    let made = provider.create(name, &small(pods)?).await?;
    ensure!(made.status.is_running(), "it is {:?}", made.status);
    Ok(made)
}

/// Runs a script to its success and gives what it said.
pub(crate) async fn shell(
    provider: &KubernetesProvider,
    name: &WorkspaceName,
    script: &str,
) -> Result<String> {
    let said = provider.run(name, ["sh", "-c", script]).await?;
    let (output, errors) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    ensure!(said.status.is_success(), "{script:?} ended with {:?}: {output}{errors}", said.status);
    Ok(output.into_owned())
}

/// Deletes a workspace, of which nothing may be left.
pub(crate) async fn end(pods: &Pods, provider: &KubernetesProvider, name: &WorkspaceName) -> Result<()> {
    provider.delete(name).await?;
    let left = pods.left_in(provider.namespace(), name).await?;
    ensure!(left.is_empty(), "delete left {left:?}");
    Ok(())
}

pub(crate) async fn pod(pods: &Pods, name: &WorkspaceName) -> Result<Option<Pod>> {
    let api: Api<Pod> = Api::namespaced(pods.cluster().client(), pods.namespace());
    Ok(api.get_opt(&format!("{name}-0")).await?)
}

/// The identity of the pod that is there now.
pub(crate) async fn pod_uid(pods: &Pods, name: &WorkspaceName) -> Result<String> {
    pod(pods, name).await?.and_then(|pod| pod.metadata.uid).context("there is no pod")
}

pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
