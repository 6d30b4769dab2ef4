//! What a provider can be told.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;

/// The image of the agent that belongs to this version.
pub const AGENT_IMAGE: &str = concat!("kled/workspace-agent:", env!("CARGO_PKG_VERSION"));

/// The image of workspaces whose spec names none.
pub const DEFAULT_IMAGE: &str = concat!("kled/workspace:", env!("CARGO_PKG_VERSION"));

/// How pods are made. See the setters of [`KubernetesProviderBuilder`](super::KubernetesProviderBuilder).
#[derive(Clone, Debug)]
pub(super) struct PodSettings {
    pub(super) agent_image: String,
    pub(super) default_image: String,
    pub(super) image_pull_policy: Option<String>,
    pub(super) image_pull_secrets: Vec<String>,
    pub(super) storage_class: Option<String>,
    pub(super) access_mode: AccessMode,
    pub(super) default_disk: String,
    pub(super) runtime_class: Option<String>,
    pub(super) node_selector: BTreeMap<String, String>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) user: i64,
    pub(super) docker_socket: Option<String>,
    pub(super) build_kit_image: Option<String>,
    pub(super) template_overrides: Option<serde_json::Value>,
    pub(super) unschedulable_patience: Duration,
}

impl Default for PodSettings {
    fn default() -> Self {
        Self {
            agent_image: AGENT_IMAGE.into(),
            default_image: DEFAULT_IMAGE.into(),
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            storage_class: None,
            access_mode: AccessMode::default(),
            default_disk: "10Gi".into(),
            runtime_class: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            user: 1000,
            docker_socket: None,
            build_kit_image: None,
            template_overrides: None,
            unschedulable_patience: Duration::from_secs(3),
        }
    }
}

/// Who may mount the volume of a workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessMode {
    /// One node. What every storage class has.
    #[default]
    ReadWriteOnce,
    /// One pod: a second one is refused by the scheduler.
    ReadWriteOncePod,
    /// Any number of nodes: shared file systems.
    ReadWriteMany,
}

impl AccessMode {
    /// Its name in Kubernetes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
            Self::ReadWriteMany => "ReadWriteMany",
        }
    }
}

impl std::str::FromStr for AccessMode {
    type Err = kled_core::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::ReadWriteOnce, Self::ReadWriteOncePod, Self::ReadWriteMany]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| {
                kled_core::Error::new(kled_core::ErrorKind::InvalidInput, "unknown access mode")
                    .with("value", format!("{text:?}"))
                    .hint("use ReadWriteOnce, ReadWriteOncePod or ReadWriteMany")
            })
    }
}
