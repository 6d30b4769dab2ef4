//! What keeps a workspace from running: each has an error of its own, at once, in Kubernetes' words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota};
use kled_core::ErrorKind;
use kled_core::provider::ProviderExt as _;
use kled_core::workspace::{WorkspaceSpecBuilder, WorkspaceStatus};
use kled_providers::kubernetes::KubernetesProviderBuilder;
use kled_tests::kubernetes::Pods;
use kled_tests::suite::Suite;
use kled_tests::wait;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::scene;

/// Until the error.
const TOLD: Duration = Duration::from_secs(10);

/// Until everything is gone; nothing runs that could take its time to end.
const DELETED: Duration = Duration::from_secs(10);

pub(crate) fn cases(mut suite: Suite) -> Suite {
    suite = scene::beside(suite, "a pod that fits on no node is told", is_too_large);
    suite = scene::beside(suite, "a node selector that matches nothing is told", has_no_node);
    suite = scene::beside(suite, "an image that cannot be pulled is told", has_no_image);
    suite = scene::beside(suite, "a storage class that does not exist is told", has_no_class);
    suite = scene::beside(suite, "a full quota of pods is told", has_no_pods_left);
    suite = scene::beside(suite, "a full quota of storage is told", has_no_storage_left);
    suite = scene::beside(suite, "what Pod Security refuses is told", is_refused);
    scene::beside(suite, "a namespace that does not exist is told", has_no_namespace)
}

/// What stands in the way, and how it is told.
struct Obstacle {
    name: &'static str,
    kind: ErrorKind,
    /// Kubernetes' own words, all in the error.
    words: &'static [&'static str],
}

impl Obstacle {
    async fn holds(
        &self,
        pods: &Pods,
        builder: KubernetesProviderBuilder,
        spec: WorkspaceSpecBuilder,
    ) -> Result<()> {
        let (name, spec) = (scene::name(self.name)?, spec.build()?);
        let provider = builder.build().await?;
        let start = Instant::now();
        let error = provider.create(&name, &spec).await.err().context("it was created")?;
        let told = start.elapsed();
        println!("{}: {} after {}: {error}", self.name, error.kind(), scene::seconds(told));
        ensure!(error.kind() == self.kind, "it is told as {}: {error}", error.kind());
        for word in self.words {
            ensure!(error.message().contains(word), "{word:?} is not in {:?}", error.message());
        }
        ensure!(told < TOLD, "it was told after {told:?}");
        let said = provider.status(&name).await?;
        let (WorkspaceStatus::Interrupted { message: Some(message), .. }
        | WorkspaceStatus::Failed { message, .. }) = &said.status
        else {
            anyhow::bail!("it is {:?}", said.status);
        };
        for word in self.words {
            ensure!(message.contains(word), "status says {message:?}, without {word:?}");
        }
        let again = provider.create(&name, &spec).await.err().context("it was created")?;
        ensure!(again.kind() == self.kind, "the second time it is told as {}: {again}", again.kind());
        let start = Instant::now();
        scene::end(pods, &provider, &name).await?;
        println!("{}: deleted after {}", self.name, scene::seconds(start.elapsed()));
        ensure!(start.elapsed() < DELETED, "delete took {:?}", start.elapsed());
        Ok(())
    }
}

async fn is_too_large(pods: Arc<Pods>) -> Result<()> {
    let obstacle = Obstacle {
        name: "too-large",
        kind: ErrorKind::QuotaExceeded,
        words: &["Unschedulable", "Insufficient cpu"],
    };
    obstacle.holds(&pods, pods.builder(), pods.spec("other").cpu("1000")).await
}

async fn has_no_node(pods: Arc<Pods>) -> Result<()> {
    let obstacle = Obstacle {
        name: "no-node",
        kind: ErrorKind::QuotaExceeded,
        words: &["Unschedulable", "didn't match Pod's node affinity/selector"],
    };
    let builder = pods.builder().node_selector("kled.test/no-such-label", "yes");
    obstacle.holds(&pods, builder, pods.spec("other")).await
}

async fn has_no_image(pods: Arc<Pods>) -> Result<()> {
    let obstacle = Obstacle {
        name: "no-image",
        kind: ErrorKind::ImageUnavailable,
        words: &["registry.invalid/absent:1"],
    };
    let builder = pods.builder().image_pull_policy("IfNotPresent");
    obstacle.holds(&pods, builder, pods.spec("other").image("registry.invalid/absent:1")).await
}

async fn has_no_class(pods: Arc<Pods>) -> Result<()> {
    let obstacle = Obstacle {
        name: "no-class",
        kind: ErrorKind::StorageFull,
        words: &["storageclass.storage.k8s.io \"no-such-class\" not found"],
    };
    obstacle.holds(&pods, pods.builder().storage_class("no-such-class"), pods.spec("other")).await
}

async fn has_no_pods_left(pods: Arc<Pods>) -> Result<()> {
    let obstacle = Obstacle {
        name: "no-pods-left",
        kind: ErrorKind::QuotaExceeded,
        words: &["exceeded quota: full", "pods=0"],
    };
    in_full_namespace(&pods, &obstacle, json!({ "pods": "0" })).await
}

async fn has_no_storage_left(pods: Arc<Pods>) -> Result<()> {
    let obstacle = Obstacle {
        name: "no-storage-left",
        kind: ErrorKind::QuotaExceeded,
        words: &["exceeded quota: full", "requests.storage=1Mi"],
    };
    in_full_namespace(&pods, &obstacle, json!({ "requests.storage": "1Mi" })).await
}

async fn in_full_namespace(pods: &Pods, obstacle: &Obstacle, hard: Value) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(pods.cluster().client());
    let namespace = serde_json::from_value(json!({ "metadata": { "generateName": "kled-full-" } }))?;
    let namespace = namespaces.create(&PostParams::default(), &namespace).await?;
    let namespace = namespace.metadata.name.context("a namespace has a name")?;
    let quotas: Api<ResourceQuota> = Api::namespaced(pods.cluster().client(), &namespace);
    let quota = serde_json::from_value(json!({ "metadata": { "name": "full" }, "spec": { "hard": hard } }))?;
    quotas.create(&PostParams::default(), &quota).await?;
    wait::until(scene::BACK, "the quota to be in force", async || {
        let status = quotas.get("full").await?.status;
        status.and_then(|status| status.hard).map(drop).context("it is not counted yet")
    })
    .await?;
    obstacle.holds(pods, pods.builder().namespace(&namespace), pods.spec("other")).await?;
    namespaces.delete(&namespace, &DeleteParams::default()).await?;
    Ok(())
}

async fn is_refused(pods: Arc<Pods>) -> Result<()> {
    let obstacle = Obstacle {
        name: "refused",
        kind: ErrorKind::PermissionDenied,
        words: &["violates PodSecurity \"restricted", "hostPath"],
    };
    let builder = pods.builder().docker_socket_and_so_root_on_the_node("/var/run/docker.sock");
    obstacle.holds(&pods, builder, pods.spec("other")).await
}

/// Here status has nothing to tell of: the API server says that there is no such workspace.
async fn has_no_namespace(pods: Arc<Pods>) -> Result<()> {
    let name = scene::name("no-namespace")?;
    let provider = pods.builder().namespace("kled-no-such-namespace").build().await?;
    let start = Instant::now();
    let error = provider.create(&name, &scene::small(&pods)?).await.err().context("it was created")?;
    println!("no-namespace: {} after {}: {error}", error.kind(), scene::seconds(start.elapsed()));
    ensure!(error.kind() == ErrorKind::InvalidInput, "it is told as {}: {error}", error.kind());
    ensure!(error.to_string().contains("kled-no-such-namespace"), "the namespace is not in {error}");
    ensure!(start.elapsed() < TOLD, "it was told after {:?}", start.elapsed());
    let status = provider.status(&name).await.err().context("it has a status")?;
    ensure!(status.kind() == ErrorKind::NotFound, "its status is {status}");
    ensure!(!provider.delete(&name).await?.existed, "it existed");
    Ok(())
}
