//! How a provider is made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;
use kled_core::ports::SecretSource;
use kled_core::provider::{
    Capabilities, CommandCapabilities, Enforcement, Faults, LimitCapabilities, ProviderSettings,
    SandboxCapabilities,
};
use kled_core::setup::{Dotfiles, GitIdentity};
use kled_core::workspace::Isolation;
use kled_core::{Error, ErrorKind, ProviderName, Quantity, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::client::Cluster;
use super::connection;
use super::settings::{AccessMode, PodSettings};
use super::{Context, KubernetesProvider};
use crate::personal::{self, Personal};
use crate::secrets::EnvironmentAndFileSecrets;

/// How long the API server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Makes a [`KubernetesProvider`]. Without any setting it takes the kubeconfig's current context, or the cluster that it
/// runs in.
#[derive(Debug)]
pub struct KubernetesProviderBuilder {
    name: String,
    client: Option<ClientOf>,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    namespace: Option<String>,
    pods: PodSettings,
    forward_credentials: bool,
    personal: Personal,
    secrets: Arc<dyn SecretSource>,
    faults: Faults,
}

/// A client, which has no `Debug`.
struct ClientOf(kube::Client);

impl std::fmt::Debug for ClientOf {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Client")
    }
}

impl Default for KubernetesProviderBuilder {
    fn default() -> Self {
        Self {
            name: "kubernetes".into(),
            client: None,
            kubeconfig: None,
            context: None,
            namespace: None,
            pods: PodSettings::default(),
            forward_credentials: true,
            personal: Personal::default(),
            secrets: Arc::new(EnvironmentAndFileSecrets),
            faults: Faults::none(),
        }
    }
}

impl KubernetesProviderBuilder {
    /// The name under which it answers. Default: `kubernetes`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// A client that is there already, instead of a kubeconfig.
    #[must_use]
    pub fn client(mut self, client: kube::Client) -> Self {
        self.client = Some(ClientOf(client));
        self
    }

    /// The kubeconfig. Default: `KUBECONFIG`, then `~/.kube/config`, then the cluster that this runs in.
    #[must_use]
    pub fn kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(path.into());
        self
    }

    /// The kubeconfig's context. Default: its current one.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// The namespace, which has to exist. Default: the context's.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The image of workspaces whose spec names none. Default: [`DEFAULT_IMAGE`](super::DEFAULT_IMAGE).
    #[must_use]
    pub fn default_image(mut self, image: impl Into<String>) -> Self {
        self.pods.default_image = image.into();
        self
    }

    /// The image of the agent. Default: [`AGENT_IMAGE`](super::AGENT_IMAGE).
    #[must_use]
    pub fn agent_image(mut self, image: impl Into<String>) -> Self {
        self.pods.agent_image = image.into();
        self
    }

    /// When images are pulled: `Always`, `IfNotPresent` (default) or `Never`.
    #[must_use]
    pub fn image_pull_policy(mut self, policy: impl Into<String>) -> Self {
        self.pods.image_pull_policy = Some(policy.into());
        self
    }

    /// Adds a Secret of the namespace with the login of a registry.
    #[must_use]
    pub fn image_pull_secret(mut self, name: impl Into<String>) -> Self {
        self.pods.image_pull_secrets.push(name.into());
        self
    }

    /// The storage class. Default: the cluster's.
    #[must_use]
    pub fn storage_class(mut self, class: impl Into<String>) -> Self {
        self.pods.storage_class = Some(class.into());
        self
    }

    /// Who may mount the volume. Default: [`AccessMode::ReadWriteOnce`].
    #[must_use]
    pub fn access_mode(mut self, mode: AccessMode) -> Self {
        self.pods.access_mode = mode;
        self
    }

    /// The size of the volume where the spec names none. Default: 10Gi.
    #[must_use]
    pub fn default_disk(mut self, size: Quantity) -> Self {
        self.pods.default_disk = size.to_string();
        self
    }

    /// The runtime class: gVisor, Kata. Default: the cluster's.
    #[must_use]
    pub fn runtime_class(mut self, class: impl Into<String>) -> Self {
        self.pods.runtime_class = Some(class.into());
        self
    }

    /// Only nodes with this label.
    #[must_use]
    pub fn node_selector(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.pods.node_selector.insert(key.into(), value.into());
        self
    }

    /// Also nodes with this taint.
    #[must_use]
    pub fn toleration(mut self, toleration: Toleration) -> Self {
        self.pods.tolerations.push(toleration);
        self
    }

    /// The user and group that the workspace runs as, whatever its image says. Default: 1000.
    #[must_use]
    pub fn user(mut self, user: i64) -> Self {
        self.pods.user = user;
        self
    }

    /// Mounts the node's Docker socket. **Whoever can use it is root on the node**: it can start a container with all of
    /// the node's files and of every other workspace. It also breaks the Pod Security Standards `restricted` and
    /// `baseline`. To build images take [`build_kit`](Self::build_kit) instead.
    #[must_use]
    pub fn docker_socket_and_so_root_on_the_node(mut self, path: impl Into<String>) -> Self {
        self.pods.docker_socket = Some(path.into());
        self
    }

    /// Adds a rootless BuildKit beside the workspace, which `buildctl` and `docker buildx` find by `BUILDKIT_HOST`:
    /// `moby/buildkit:rootless`. Its seccomp and AppArmor profiles are off, so the namespace has to allow the Pod
    /// Security Standard `privileged`; it stays without root and without the node's engine.
    #[must_use]
    pub fn build_kit(mut self, image: impl Into<String>) -> Self {
        self.pods.build_kit_image = Some(image.into());
        self
    }

    /// Merged into the pod template by Kubernetes' own strategic merge: `{"spec": {"containers": [{"name":
    /// "workspace", ...}]}}`. What it breaks is broken: the names of our containers and volumes have to stay.
    #[must_use]
    pub fn pod_template_overrides(mut self, overrides: serde_json::Value) -> Self {
        self.pods.template_overrides = Some(overrides);
        self
    }

    /// How long a pod that fits on no node is waited for. Default: 3 seconds. Longer for clusters whose nodes are added
    /// on demand.
    #[must_use]
    pub fn unschedulable_patience(mut self, patience: Duration) -> Self {
        self.pods.unschedulable_patience = patience;
        self
    }

    /// Whether the login that this machine's git has for a repository is given to the workspace, for its checkout alone
    /// and kept nowhere. Default: true.
    #[must_use]
    pub fn forward_git_credentials(mut self, forward: bool) -> Self {
        self.forward_credentials = forward;
        self
    }

    /// The user's own files, brought into every workspace that is made. Default: none.
    #[must_use]
    pub fn dotfiles(mut self, dotfiles: Dotfiles) -> Self {
        self.personal.dotfiles = Some(dotfiles);
        self
    }

    /// Who commits in workspaces. Default: nobody is set.
    #[must_use]
    pub fn git_identity(mut self, identity: GitIdentity) -> Self {
        self.personal.git_identity = Some(identity);
        self
    }

    /// What a project may know of this machine's environment, as `${localEnv:NAME}`. Default: nothing.
    #[must_use]
    pub fn local_environment(
        mut self,
        variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        self.personal.tell_projects(variables);
        self
    }

    /// What resolves references to secrets. Default: the environment and files of this machine.
    #[must_use]
    pub fn secrets(mut self, secrets: impl SecretSource) -> Self {
        self.secrets = Arc::new(secrets);
        self
    }

    /// For tests: breaks operations at their steps.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Takes settings as text, by the names that the configuration file has.
    ///
    /// | key | what it is |
    /// |---|---|
    /// | `kubeconfig`, `context`, `namespace` | which cluster, and where in it |
    /// | `image`, `agent-image`, `image-pull-policy`, `image-pull-secrets` | images; names with commas between |
    /// | `storage-class`, `access-mode`, `disk` | the volume |
    /// | `runtime-class`, `node-selector` | where pods run; `KEY=VALUE` with commas between |
    /// | `user` | the number of the user and group |
    /// | `build-kit` | the image of a rootless BuildKit |
    /// | `docker-socket-and-so-root-on-the-node` | the path of the node's Docker socket |
    /// | `pod-template-overrides` | JSON |
    /// | `unschedulable-patience` | `2m` |
    /// | `dotfiles`, `dotfiles-install-command` | a repository, and what installs it |
    /// | `git-name`, `git-email` | who commits |
    /// | `local-environment` | variables of this process that a project may know as `${localEnv:NAME}`; names with commas between |
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] naming the setting.
    pub fn settings(mut self, mut settings: ProviderSettings) -> Result<Self> {
        let malformed = |key: &'static str| {
            move || Error::new(ErrorKind::InvalidInput, "malformed provider setting").with("setting", key)
        };
        let list = |text: String| {
            text.split(',')
                .map(|item| item.trim().to_owned())
                .filter(|item| !item.is_empty())
                .collect::<Vec<_>>()
        };
        self.kubeconfig = settings.take("kubeconfig").map(PathBuf::from).or(self.kubeconfig);
        self.context = settings.take("context").or(self.context);
        self.namespace = settings.take("namespace").or(self.namespace);
        let pods = &mut self.pods;
        if let Some(image) = settings.take("image") {
            pods.default_image = image;
        }
        if let Some(image) = settings.take("agent-image") {
            pods.agent_image = image;
        }
        pods.image_pull_policy = settings.take("image-pull-policy").or(pods.image_pull_policy.take());
        pods.image_pull_secrets.extend(settings.take("image-pull-secrets").into_iter().flat_map(list));
        pods.storage_class = settings.take("storage-class").or(pods.storage_class.take());
        if let Some(mode) = settings.take("access-mode") {
            pods.access_mode = mode.parse()?;
        }
        if let Some(disk) = settings.take("disk") {
            pods.default_disk = disk.parse::<Quantity>()?.to_string();
        }
        pods.runtime_class = settings.take("runtime-class").or(pods.runtime_class.take());
        for pair in settings.take("node-selector").into_iter().flat_map(list) {
            let (key, value) = pair.split_once('=').ok_or_else(malformed("node-selector"))?;
            pods.node_selector.insert(key.to_owned(), value.to_owned());
        }
        if let Some(user) = settings.take("user") {
            pods.user = user.parse().map_err(|_| malformed("user")())?;
        }
        pods.build_kit_image = settings.take("build-kit").or(pods.build_kit_image.take());
        pods.docker_socket =
            settings.take("docker-socket-and-so-root-on-the-node").or(pods.docker_socket.take());
        if let Some(overrides) = settings.take("pod-template-overrides") {
            let overrides = serde_json::from_str(&overrides)
                .map_err(|cause| malformed("pod-template-overrides")().because(cause))?;
            pods.template_overrides = Some(overrides);
        }
        if let Some(patience) = settings.take("unschedulable-patience") {
            pods.unschedulable_patience = kled_core::workspace::parse_duration(&patience)?;
        }
        self.personal.take(&mut settings, personal::variable)?;
        settings.finish()?;
        Ok(self)
    }

    /// Makes the provider. Asks nothing of the cluster yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when there is no kubeconfig or no such context, or a name is malformed.
    pub async fn build(self) -> Result<KubernetesProvider> {
        let (client, namespace) = match self.client {
            Some(ClientOf(client)) => {
                let namespace = self.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
                (client, namespace)
            }
            None => connect(self.kubeconfig, self.context, self.namespace).await?,
        };
        Ok(KubernetesProvider(Arc::new(Context {
            name: ProviderName::new(self.name)?,
            capabilities: capabilities(),
            cluster: Cluster::new(client, namespace),
            settings: self.pods,
            forward_credentials: self.forward_credentials,
            personal: self.personal,
            secrets: self.secrets,
            faults: self.faults,
            agents: crate::agent::Agents::default(),
        })))
    }
}

async fn connect(
    path: Option<PathBuf>,
    context: Option<String>,
    namespace: Option<String>,
) -> Result<(kube::Client, String)> {
    let unusable = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::InvalidInput, "the cluster's configuration cannot be used")
            .hint("name a kubeconfig and a context that exist: kubectl config get-contexts")
            .because(cause)
    };
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let mut config = match path {
        Some(path) => {
            let read = tokio::task::spawn_blocking(move || Kubeconfig::read_from(path));
            let kubeconfig = read.await.map_err(|cause| unusable(cause.into()))?;
            let kubeconfig = kubeconfig.map_err(|cause| unusable(cause.into()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(|cause| unusable(cause.into()))?
        }
        None if options.context.is_some() => {
            kube::Config::from_kubeconfig(&options).await.map_err(|cause| unusable(cause.into()))?
        }
        None => kube::Config::infer().await.map_err(|cause| unusable(cause.into()))?,
    };
    config.connect_timeout = Some(CONNECT_LIMIT);
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = connection::client(config).map_err(|cause| unusable(cause.into()))?;
    Ok((client, namespace))
}

fn capabilities() -> Capabilities {
    Capabilities {
        isolations: vec![Isolation::Default, Isolation::Container],
        checkout: true,
        setup: true,
        images: true,
        durable: true,
        commands: CommandCapabilities {
            exec: true,
            shell: true,
            terminal: true,
            signals: true,
            detach: true,
        },
        connect: true,
        copy: true,
        agent: true,
        logs: true,
        events: true,
        idle_timeout: true,
        time_to_live: true,
        limits: LimitCapabilities {
            cpu: Enforcement::Enforced,
            memory: Enforcement::Enforced,
            disk: Enforcement::NotEnforced { reason: "it depends on the storage class".into() },
        },
        sandbox: SandboxCapabilities { files: true, processes: true },
    }
}
