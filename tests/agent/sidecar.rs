//! `kled-agent sidecar` against a real API server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kled_core::provider::ExecRequest;
use kled_tests::control_plane::ControlPlane;
use kled_tests::wait;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::process::{Agent, Program, SOON};
use crate::program;

const NAMESPACE: &str = "default";

/// An API server with one workspace and an agent; the sidecar is started by the case.
struct Scene {
    plane: ControlPlane,
    agent: Agent,
    program: PathBuf,
    service_account: PathBuf,
}

fn object<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("malformed object of a test")
}

async fn create<T>(plane: &ControlPlane, value: Value) -> Result<T>
where
    T: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + serde::Serialize,
{
    let api: Api<T> = Api::namespaced(plane.client(), NAMESPACE);
    Ok(api.create(&PostParams::default(), &object(value)?).await?)
}

fn stateful_set(annotations: Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "web", "annotations": annotations},
        "spec": {
            "replicas": 1,
            "serviceName": "web",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "workspace", "image": "busybox"}]},
            },
        },
    })
}

impl Scene {
    async fn start(annotations: Value) -> Result<Self> {
        let program = program().await?;
        let plane = ControlPlane::start().await?;
        let agent = Agent::start(&program).await?;
        for name in ["default", "web"] {
            // Nobody else makes the default one here, and without it there are no pods.
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
            create::<ServiceAccount>(&plane, account).await?;
        }
        create::<StatefulSet>(&plane, stateful_set(annotations)).await?;
        let service_account = write_service_account(&plane).await?;
        Ok(Self { plane, agent, program, service_account })
    }

    fn stateful_sets(&self) -> Api<StatefulSet> {
        Api::namespaced(self.plane.client(), NAMESPACE)
    }

    async fn uid(&self) -> Result<String> {
        self.stateful_sets().get("web").await?.metadata.uid.context("no uid")
    }

    async fn sidecar(&self, more: &[(&str, &str)]) -> Result<Program> {
        let port = self.plane.url().rsplit(':').next().context("no port")?;
        let (token, account) = (self.agent.token_file(), self.service_account.display().to_string());
        let token = token.display().to_string();
        let variables = [
            ("KLED_NAMESPACE", NAMESPACE),
            ("KLED_POD", "web-0"),
            ("KLED_STATEFULSET", "web"),
            ("KLED_AGENT_LISTEN", &self.agent.address),
            ("KLED_AGENT_TOKEN_FILE", &token),
            ("KLED_SERVICE_ACCOUNT", &account),
            ("KUBERNETES_SERVICE_HOST", "127.0.0.1"),
            ("KUBERNETES_SERVICE_PORT", port),
        ];
        Program::start(&self.program, "sidecar", &[&variables, more].concat())
    }

    /// Gives the service account rights to objects of these names.
    async fn allow(&self, rules: Value) -> Result<()> {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "web"},
            "rules": rules,
        });
        create::<Role>(&self.plane, role).await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "web"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "web"},
            "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": NAMESPACE}],
        });
        create::<RoleBinding>(&self.plane, binding).await?;
        Ok(())
    }

    /// Waits until the workspace is scaled to nothing, and gives its annotations.
    async fn stopped(&self, sidecar: &Program) -> Result<Value> {
        wait::until(SOON, "the stop", async || {
            let set = self.stateful_sets().get("web").await?;
            let replicas = set.spec.context("no spec")?.replicas;
            ensure!(
                replicas == Some(0),
                "it has {replicas:?} replicas; the sidecar said {:#?}",
                sidecar.log()?
            );
            Ok(serde_json::to_value(set.metadata.annotations)?)
        })
        .await
    }
}

/// What Kubernetes mounts into a pod.
async fn write_service_account(plane: &ControlPlane) -> Result<PathBuf> {
    let folder = plane.directory().join("service-account-of-the-pod");
    std::fs::create_dir(&folder)?;
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.client(), NAMESPACE);
    let request = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
    let issued = accounts.create_token_request("web", &PostParams::default(), &request).await?;
    let token = issued.status.and_then(|status| status.token).context("no token")?;
    std::fs::write(folder.join("token"), token)?;
    let kubeconfig: Value = serde_json::from_slice(&std::fs::read(plane.kubeconfig())?)?;
    let authority = &kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"];
    let authority = authority.as_str().context("no certificate authority")?;
    let authority = base64::engine::general_purpose::STANDARD.decode(authority)?;
    std::fs::write(folder.join("ca.crt"), authority)?;
    Ok(folder)
}

fn on_stateful_set(verb: &str) -> Value {
    json!({"apiGroups": ["apps"], "resources": ["statefulsets"], "resourceNames": ["web"], "verbs": [verb]})
}

pub(crate) async fn a_refused_stop_is_tried_until_it_is_allowed() -> Result<()> {
    let scene = Scene::start(Value::Null).await?;
    let uid = scene.uid().await?;
    let sidecar = scene.sidecar(&[("KLED_STATEFULSET_UID", &uid), ("KLED_IDLE_SECONDS", "1")]).await?;
    let line = sidecar.line("the workspace cannot be ended").await?;
    ensure!(line.contains("status: 403") && line.contains("cannot patch resource"), "it said {line:?}");
    let set = scene.stateful_sets().get("web").await?;
    ensure!(set.spec.and_then(|spec| spec.replicas) == Some(1), "it was stopped without the right");
    scene.allow(json!([on_stateful_set("patch")])).await?;
    let annotations = scene.stopped(&sidecar).await?;
    ensure!(annotations["kled.io/stop-reason"] == "idle", "they are {annotations}");
    sidecar.line("the workspace is stopped").await?;
    let about_conditions = sidecar.log()?.iter().filter(|line| line.contains("conditions")).count();
    ensure!(about_conditions == 1, "of conditions it said {:#?}", sidecar.log()?);
    Ok(())
}

pub(crate) async fn a_command_keeps_it_running_and_annotations_stay() -> Result<()> {
    let scene = Scene::start(json!({"of-others": "kept"})).await?;
    scene.allow(json!([on_stateful_set("patch")])).await?;
    let client = scene.agent.client().await?;
    let mut session = client.exec(ExecRequest::new(["sleep", "4"]).command).await?;
    let uid = scene.uid().await?;
    let sidecar = scene.sidecar(&[("KLED_STATEFULSET_UID", &uid), ("KLED_IDLE_SECONDS", "1")]).await?;
    session.wait().await?;
    let ended = Timestamp::now();
    let annotations = scene.stopped(&sidecar).await?;
    ensure!(annotations["of-others"] == "kept", "they are {annotations}");
    let stopped: Timestamp = annotations["kled.io/stopped-at"].as_str().context("no time")?.parse()?;
    // The end of the command is told a moment after it is known here.
    let quiet = stopped.duration_since(ended);
    ensure!(
        quiet >= jiff::SignedDuration::from_millis(800),
        "it was stopped {quiet} after the command's end"
    );
    Ok(())
}

pub(crate) async fn another_workspace_of_the_same_name_is_left_alone() -> Result<()> {
    let scene = Scene::start(Value::Null).await?;
    scene.allow(json!([on_stateful_set("patch"), on_stateful_set("delete")])).await?;
    let uid = scene.uid().await?;
    scene.stateful_sets().delete("web", &DeleteParams::background()).await?;
    let created = create::<StatefulSet>(&scene.plane, stateful_set(Value::Null)).await?;
    let sidecar = scene.sidecar(&[("KLED_STATEFULSET_UID", &uid), ("KLED_IDLE_SECONDS", "1")]).await?;
    sidecar.line("the workspace cannot be ended").await?;
    let deleting =
        scene.sidecar(&[("KLED_STATEFULSET_UID", &uid), ("KLED_EXPIRES", "2020-01-01T00:00:00Z")]).await?;
    deleting.line("the workspace is deleted").await?;
    let set = scene.stateful_sets().get("web").await?;
    ensure!(set.metadata.uid == created.metadata.uid, "it was deleted");
    ensure!(set.metadata.deletion_timestamp.is_none(), "it is being deleted");
    ensure!(set.spec.and_then(|spec| spec.replicas) == Some(1), "it was stopped");
    Ok(())
}

pub(crate) async fn an_expired_workspace_is_deleted() -> Result<()> {
    let scene = Scene::start(Value::Null).await?;
    scene.allow(json!([on_stateful_set("delete")])).await?;
    let (uid, expires) = (scene.uid().await?, Timestamp::now() + Duration::from_secs(2));
    let variables = [("KLED_STATEFULSET_UID", uid.as_str()), ("KLED_EXPIRES", &expires.to_string())];
    let sidecar = scene.sidecar(&variables).await?;
    wait::until(SOON, "the delete", async || {
        // Without a garbage collector it stays in the state of being deleted.
        let set = scene.stateful_sets().get("web").await?;
        let deleted = set.metadata.deletion_timestamp.with_context(|| format!("{:#?}", sidecar.log()))?;
        ensure!(deleted.0.as_second() >= expires.as_second(), "it was deleted at {}", deleted.0);
        ensure!(
            set.metadata.finalizers.is_some_and(|names| names.contains(&"foregroundDeletion".into())),
            "in the background"
        );
        Ok(())
    })
    .await
}

fn condition(pod: &Pod, condition_type: &str) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == condition_type)?;
    Some(format!("{} {}", condition.status, condition.reason.as_deref().unwrap_or_default()))
}

async fn has_condition(
    pods: &Api<Pod>,
    sidecar: &Program,
    condition_type: &str,
    expected: &str,
) -> Result<()> {
    wait::until(SOON, &format!("{condition_type} {expected}"), async || {
        let found = condition(&pods.get("web-0").await?, condition_type);
        ensure!(
            found.as_deref() == Some(expected),
            "it is {found:?}; the sidecar said {:#?}",
            sidecar.log()?
        );
        Ok(())
    })
    .await
}

/// Without the identity of its StatefulSet: the pod knows it.
pub(crate) async fn conditions_follow_and_a_dead_agent_is_stopped() -> Result<()> {
    let mut scene = Scene::start(Value::Null).await?;
    let on_pod = |resource: &str, verb: &str| json!({"apiGroups": [""], "resources": [resource], "resourceNames": ["web-0"], "verbs": [verb]});
    scene
        .allow(json!([on_stateful_set("patch"), on_pod("pods", "get"), on_pod("pods/status", "patch")]))
        .await?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-0", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": scene.uid().await?, "controller": true},
        ]},
        "spec": {"containers": [{"name": "workspace", "image": "busybox"}]},
    });
    create::<Pod>(&scene.plane, pod).await?;
    let pods: Api<Pod> = Api::namespaced(scene.plane.client(), NAMESPACE);
    let client = scene.agent.client().await?;
    let _session = client.exec(ExecRequest::new(["sleep", "1000"]).command).await?;
    let sidecar = scene.sidecar(&[("KLED_IDLE_SECONDS", "6")]).await?;
    has_condition(&pods, &sidecar, "kled.io/AgentHealthy", "True Answers").await?;
    has_condition(&pods, &sidecar, "kled.io/Idle", "False CommandsRun").await?;
    scene.agent.program.terminate()?;
    scene.agent.program.ended().await?;
    has_condition(&pods, &sidecar, "kled.io/AgentHealthy", "False Unreachable").await?;
    scene.stopped(&sidecar).await?;
    Ok(())
}

/// Whether the API servers of these cases can run here.
pub(crate) fn missing() -> Option<String> {
    ControlPlane::missing()
}
