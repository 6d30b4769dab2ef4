//! Workspaces on a real cluster for tests: a namespace with Pod Security `restricted`, the agent's and a workspace's
//! image, repositories that pods reach, and what is left of a workspace, found without the provider.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Namespace;
use kled_core::provider::conformance::{Fixture, Project};
use kled_core::provider::{Faults, Provider};
use kled_core::workspace::{WorkspaceSpec, WorkspaceSpecBuilder};
use kled_core::{Error, ErrorKind, Secret, SecretReference, WorkspaceName};
use kled_providers::kubernetes::{KubernetesProvider, KubernetesProviderBuilder};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::git_server::GitServer;
use crate::image::WORKSPACE;
use crate::workspaces::{FILE, projects, repository};
use crate::{agent, wait};

const SECRET: &str = "a-secret-of-the-tests";

/// How long a namespace may take to be gone.
const NAMESPACE_LIMIT: Duration = Duration::from_secs(120);

/// Every kind of object that a workspace may have made, or that was made for it.
const KINDS: [(&str, &str, &str); 8] = [
    ("apps", "v1", "StatefulSet"),
    ("", "v1", "Pod"),
    ("", "v1", "PersistentVolumeClaim"),
    ("", "v1", "Secret"),
    ("", "v1", "ServiceAccount"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
];

/// A namespace for workspaces of one test, with all that they need.
pub struct Pods {
    cluster: Cluster,
    namespace: String,
    git: GitServer,
    folder: TempDir,
}

impl Pods {
    /// Prepares the shared cluster.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn shared() -> Result<Self> {
        Self::on(Cluster::shared().await?).await
    }

    /// Prepares a cluster.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn on(cluster: Cluster) -> Result<Self> {
        cluster.load_workspace_image().await?;
        let image = tokio::task::spawn_blocking(agent::image).await.context("build the agent")??;
        cluster.load_image(&image).await?;
        let folder = tempfile::Builder::new().prefix("kled-pods-").tempdir()?;
        repository(&folder.path().join("one"), 20)?;
        repository(&folder.path().join("other"), 0)?;
        projects(folder.path())?;
        std::fs::write(folder.path().join("secret"), SECRET)?;
        let git = GitServer::start(cluster.node().outer_address(), folder.path()).await?;
        let namespaces: Api<Namespace> = Api::all(cluster.client());
        let namespace = serde_json::from_value(json!({ "metadata": {
            "generateName": "kled-workspaces-",
            "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
        } }))?;
        let namespace = namespaces.create(&PostParams::default(), &namespace).await?.name_any();
        Ok(Self { cluster, namespace, git, folder })
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The repositories.
    #[must_use]
    pub const fn git(&self) -> &GitServer {
        &self.git
    }

    /// The folder of the repositories.
    #[must_use]
    pub fn repositories(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A provider of the namespace, with all rights.
    #[must_use]
    pub fn builder(&self) -> KubernetesProviderBuilder {
        KubernetesProvider::builder()
            .kubeconfig(self.cluster.kubeconfig())
            .namespace(&self.namespace)
            .default_image(WORKSPACE)
            .image_pull_policy("Never")
    }

    /// A spec of one of the repositories, `one` or `other`.
    #[must_use]
    pub fn spec(&self, repository: &str) -> WorkspaceSpecBuilder {
        WorkspaceSpec::builder(self.git.url(repository)).disk("64Mi")
    }

    /// Objects that are left of a workspace.
    ///
    /// # Errors
    /// When the cluster cannot be asked.
    pub async fn left(&self, name: &WorkspaceName) -> Result<Vec<String>> {
        self.left_in(&self.namespace, name).await
    }

    /// Objects that are left of a workspace of another namespace.
    ///
    /// # Errors
    /// When the cluster cannot be asked.
    pub async fn left_in(&self, namespace: &str, name: &WorkspaceName) -> Result<Vec<String>> {
        let parameters = ListParams::default().labels(&format!("kled.io/workspace={name}"));
        let mut left = Vec::new();
        for (group, version, kind) in KINDS {
            let kind_of = GroupVersionKind::gvk(group, version, kind);
            let resource = match kind {
                "NetworkPolicy" => ApiResource::from_gvk_with_plural(&kind_of, "networkpolicies"),
                _ => ApiResource::from_gvk(&kind_of),
            };
            let api: Api<DynamicObject> = Api::namespaced_with(self.cluster.client(), namespace, &resource);
            let found = api.list(&parameters).await.with_context(|| format!("list {kind}"))?;
            left.extend(found.items.iter().map(|object| format!("{kind} {}", object.name_any())));
        }
        Ok(left)
    }

    /// Removes the namespace and waits until it is gone.
    ///
    /// # Errors
    /// When it is not gone in time.
    pub async fn delete(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await?;
        wait::until(NAMESPACE_LIMIT, "the namespace to be gone", async || {
            match namespaces.get_opt(&self.namespace).await? {
                None => Ok(()),
                Some(_) => anyhow::bail!("{} is still there", self.namespace),
            }
        })
        .await
    }
}

#[async_trait]
impl Fixture for Pods {
    async fn provider(&self, faults: Faults) -> kled_core::Result<Arc<dyn Provider>> {
        Ok(Arc::new(self.builder().faults(faults).build().await?))
    }

    fn spec(&self) -> WorkspaceSpec {
        self.spec("one").build().unwrap_or_else(|error| unreachable!("the spec of the tests: {error}"))
    }

    fn other_spec(&self) -> WorkspaceSpec {
        self.spec("other").build().unwrap_or_else(|error| unreachable!("the spec of the tests: {error}"))
    }

    async fn residue(&self, name: &WorkspaceName) -> kled_core::Result<Vec<String>> {
        self.left(name).await.map_err(|cause| {
            Error::new(ErrorKind::Internal, "the cluster cannot be asked")
                .because(std::io::Error::other(format!("{cause:#}")))
        })
    }

    fn expected_file(&self) -> Option<(String, Vec<u8>)> {
        Some((FILE.0.into(), FILE.1.into()))
    }

    fn project_spec(&self, project: Project) -> Option<WorkspaceSpec> {
        self.spec(project.name()).build().ok()
    }

    fn secret(&self) -> Option<(SecretReference, Secret)> {
        let reference = format!("file:{}", self.folder.path().join("secret").display()).parse().ok()?;
        Some((reference, Secret::new(SECRET)))
    }
}
