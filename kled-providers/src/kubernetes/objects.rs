//! What a workspace is made of, as Kubernetes objects. Pure: the same marks and settings give the same objects.
//!
//! | object | name | what it is for |
//! |---|---|---|
//! | StatefulSet of one | `NAME` | claims the name, holds the spec, owns all else; 0 replicas are a stopped workspace |
//! | PersistentVolumeClaim | `workspace-data-NAME` | the checkout, the home folder, what the agent remembers |
//! | Secret | `NAME` | the token of the agent |
//! | Secret | `NAME-log` | the end of the log, once it was stopped |
//! | ServiceAccount | `NAME` | none of its rights is the workspace's; see [`role`] |
//! | NetworkPolicy | `NAME` | nothing comes in; the cloud's metadata cannot be reached |
//! | Role, RoleBinding | `NAME` | with an idle timeout or a time to live only |
//!
//! A StatefulSet and not a Deployment: its pod has a name that is known before it exists, and there are never two pods
//! at a time on one volume, not even when a node is lost.

use k8s_openapi::api::apps::v1::StatefulSet;
use kled_core::workspace::WorkspaceSpec;
use kled_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::marks::{Marks, WORKSPACE, claim_name, labels, log_name, object_name, pod_name};
use super::settings::PodSettings;
use crate::agent::Token;

/// The port on which the agent serves, on the pod's loopback address.
pub(super) const AGENT_PORT: u16 = 7410;

/// The port of the agent's health, which the kubelet asks.
const HEALTH_PORT: u16 = 7411;

/// The container that runs the user's image.
pub(super) const WORKSPACE_CONTAINER: &str = "workspace";

/// The container that runs ours.
pub(super) const AGENT_CONTAINER: &str = "agent";

/// Where the checkout is.
pub(super) const CHECKOUT: &str = "/workspace";

const HOME: &str = "/home/kled";
const STATE: &str = "/var/lib/kled";

/// Where the agent's program is put, for both containers to see.
const PROGRAMS: &str = "/kled";

/// Between the request to end and the kill.
pub(super) const GRACE_SECONDS: u64 = 30;

/// The field of the log in the Secret.
pub(super) const LOG: &str = "log";

/// The field of the token in the Secret.
pub(super) const TOKEN: &str = "token";

/// The address at which every cloud tells who a machine is.
const METADATA_ADDRESS: &str = "169.254.169.254/32";

/// Everything that objects of one workspace are made from.
#[derive(Clone, Debug)]
pub(super) struct Blueprint<'a> {
    pub(super) marks: &'a Marks,
    pub(super) settings: &'a PodSettings,
}

fn typed<T: DeserializeOwned>(object: Value) -> Result<T> {
    serde_json::from_value(object).map_err(|cause| {
        Error::new(ErrorKind::Internal, "an object of the workspace is malformed").because(cause)
    })
}

/// The reference by which an object goes with the StatefulSet.
pub(super) fn owner(object: &str, uid: &str) -> Value {
    json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": object, "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    }])
}

impl Blueprint<'_> {
    fn name(&self) -> String {
        object_name(&self.marks.name)
    }

    fn spec(&self) -> &WorkspaceSpec {
        &self.marks.spec
    }

    /// True when the agent beside the workspace has something to do in the cluster.
    pub(super) fn acts(&self) -> bool {
        self.spec().idle_timeout.is_some() || self.spec().time_to_live.is_some()
    }

    fn metadata(&self, name: &str, uid: &str) -> Value {
        json!({
            "name": name,
            "labels": labels(&self.marks.name, self.spec()),
            "ownerReferences": owner(&self.name(), uid),
        })
    }

    /// The StatefulSet, with no pod yet.
    pub(super) fn stateful_set(&self) -> Result<StatefulSet> {
        typed(json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {
                "name": self.name(),
                "labels": labels(&self.marks.name, self.spec()),
                "annotations": self.marks.annotations()?,
            },
            "spec": {
                "replicas": 0,
                "serviceName": "",
                "revisionHistoryLimit": 1,
                // A pod that cannot start must not stand in the way of its corrected successor.
                "podManagementPolicy": "Parallel",
                "selector": { "matchLabels": { WORKSPACE: self.marks.name.as_str() } },
                "template": self.pod_template(),
            },
        }))
    }

    fn pod_template(&self) -> Value {
        let settings = self.settings;
        let user = settings.user;
        let mut containers = vec![self.agent_container(), self.workspace_container()];
        containers.extend(settings.build_kit_image.as_ref().map(|image| build_kit_container(image, user)));
        let secrets: Vec<_> =
            settings.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect();
        let mut pod = json!({
            "serviceAccountName": self.name(),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": user,
                "runAsGroup": user,
                "fsGroup": user,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": containers,
            "volumes": self.volumes(),
        });
        let optional = [
            ("runtimeClassName", settings.runtime_class.as_ref().map(|class| json!(class))),
            ("nodeSelector", (!settings.node_selector.is_empty()).then(|| json!(settings.node_selector))),
            ("tolerations", (!settings.tolerations.is_empty()).then(|| json!(settings.tolerations))),
            ("imagePullSecrets", (!secrets.is_empty()).then(|| json!(secrets))),
        ];
        if let Some(pod) = pod.as_object_mut() {
            pod.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        }
        json!({
            "metadata": {
                "labels": labels(&self.marks.name, self.spec()),
                "annotations": { "kubectl.kubernetes.io/default-container": WORKSPACE_CONTAINER },
            },
            "spec": pod,
        })
    }

    /// First in the list: its hook puts the program of the agent in place before the next container is started.
    fn agent_container(&self) -> Value {
        let mut environment = vec![
            variable("KLED_WORKSPACE", self.marks.name.as_str()),
            variable("KLED_WORKSPACE_ID", &self.marks.id.to_string()),
            variable("KLED_STATEFULSET", &self.name()),
            field("KLED_NAMESPACE", "metadata.namespace"),
            field("KLED_POD", "metadata.name"),
        ];
        environment.extend(
            self.spec()
                .idle_timeout
                .map(|timeout| variable("KLED_IDLE_SECONDS", &timeout.as_secs().max(1).to_string())),
        );
        let expires = self.spec().expires(self.marks.created);
        environment.extend(expires.map(|expires| variable("KLED_EXPIRES", &expires.to_string())));
        let mut mounts = vec![
            json!({ "name": "kled", "mountPath": PROGRAMS }),
            json!({ "name": "token", "mountPath": "/kled-token", "readOnly": true }),
        ];
        if self.acts() {
            mounts.push(json!({
                "name": "service-account",
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                "readOnly": true,
            }));
        }
        mounts.extend(self.docker_socket_mount());
        json!({
            "name": AGENT_CONTAINER,
            "image": self.settings.agent_image,
            "imagePullPolicy": self.settings.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
            "args": ["sidecar"],
            "lifecycle": {
                "postStart": { "exec": { "command": ["/kled-agent", "install", "/kled/bin/kled-agent"] } },
            },
            "env": environment,
            "resources": {
                "requests": { "cpu": "10m", "memory": "16Mi" },
                "limits": { "cpu": "500m", "memory": "64Mi" },
            },
            "securityContext": restricted(true),
            "volumeMounts": mounts,
        })
    }

    fn workspace_container(&self) -> Value {
        let spec = self.spec();
        let working_directory = spec.source.folder(CHECKOUT);
        let mut environment: Vec<_> =
            spec.environment.iter().map(|(name, value)| variable(name.as_str(), value)).collect();
        environment.extend([
            variable("HOME", HOME),
            variable("KLED_WORKSPACE", self.marks.name.as_str()),
            variable("KLED_WORKSPACE_ID", &self.marks.id.to_string()),
            variable("KLED_AGENT_WORKING_DIRECTORY", &working_directory),
            variable("KLED_AGENT_GRACE_SECONDS", &(GRACE_SECONDS - 10).to_string()),
        ]);
        if self.settings.build_kit_image.is_some() {
            environment.push(variable("BUILDKIT_HOST", "unix:///run/buildkit/buildkitd.sock"));
        }
        let mut mounts = vec![
            json!({ "name": "workspace-data", "mountPath": CHECKOUT, "subPath": "checkout" }),
            json!({ "name": "workspace-data", "mountPath": HOME, "subPath": "home" }),
            json!({ "name": "workspace-data", "mountPath": STATE, "subPath": "state" }),
            json!({ "name": "kled", "mountPath": PROGRAMS, "readOnly": true }),
            json!({ "name": "token", "mountPath": "/kled-token", "readOnly": true }),
        ];
        mounts.extend(self.docker_socket_mount());
        if self.settings.build_kit_image.is_some() {
            mounts.push(json!({ "name": "build-kit", "mountPath": "/run/buildkit" }));
        }
        let ports: Vec<_> = spec
            .ports
            .iter()
            .map(|port| json!({ "containerPort": port.number, "protocol": port.protocol }))
            .collect();
        json!({
            "name": WORKSPACE_CONTAINER,
            "image": spec.image.as_deref().unwrap_or(&self.settings.default_image),
            "imagePullPolicy": self.settings.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
            "command": ["/kled/bin/kled-agent", "serve"],
            "env": environment,
            "ports": ports,
            "resources": self.resources(),
            // What the kubelet sees of the agent is what `kubectl get` shows as ready.
            "readinessProbe": { "grpc": { "port": HEALTH_PORT }, "periodSeconds": 5, "failureThreshold": 2 },
            "securityContext": restricted(false),
            "volumeMounts": mounts,
        })
    }

    /// What is asked for is both requested and the limit.
    fn resources(&self) -> Value {
        let resources = &self.spec().resources;
        let mut amounts = Map::new();
        let named = [("cpu", &resources.cpu), ("memory", &resources.memory)];
        for (name, amount) in named {
            if let Some(amount) = amount {
                amounts.insert(name.into(), json!(amount.to_string()));
            }
        }
        for (name, amount) in &resources.extended {
            amounts.insert(name.to_string(), json!(amount.to_string()));
        }
        json!({ "requests": amounts, "limits": amounts })
    }

    fn docker_socket_mount(&self) -> Option<Value> {
        let _asked_for = self.settings.docker_socket.as_ref()?;
        Some(json!({ "name": "docker-socket", "mountPath": "/var/run/docker.sock" }))
    }

    fn volumes(&self) -> Value {
        let name = self.name();
        let mut volumes = vec![
            json!({
                "name": "workspace-data",
                "persistentVolumeClaim": { "claimName": claim_name(&self.marks.name) },
            }),
            json!({ "name": "kled", "emptyDir": {} }),
            json!({
                "name": "token",
                "secret": { "secretName": name, "defaultMode": 0o440, "items": [{ "key": TOKEN, "path": TOKEN }] },
            }),
        ];
        if self.acts() {
            volumes.push(json!({ "name": "service-account", "projected": { "defaultMode": 0o440, "sources": [
                { "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } }] } },
            ] } }));
        }
        if let Some(path) = &self.settings.docker_socket {
            volumes.push(json!({ "name": "docker-socket", "hostPath": { "path": path, "type": "Socket" } }));
        }
        if self.settings.build_kit_image.is_some() {
            volumes.push(json!({ "name": "build-kit", "emptyDir": {} }));
        }
        Value::Array(volumes)
    }

    /// The objects that go with the StatefulSet of this identity, for server-side apply.
    pub(super) fn companions(&self, uid: &str, token: &Token) -> Vec<Companion> {
        let name = self.name();
        let disk = self.spec().resources.disk.as_ref().map(ToString::to_string);
        let mut claim = json!({
            "accessModes": [self.settings.access_mode.as_str()],
            "resources": { "requests": { "storage": disk.unwrap_or_else(|| self.settings.default_disk.clone()) } },
        });
        if let Some(class) = &self.settings.storage_class {
            claim["storageClassName"] = json!(class);
        }
        let mut companions = vec![
            Companion::new(
                "v1",
                "PersistentVolumeClaim",
                self.metadata(&claim_name(&self.marks.name), uid),
                json!({ "spec": claim }),
            ),
            Companion::new(
                "v1",
                "Secret",
                self.metadata(&name, uid),
                json!({ "type": "kled.io/workspace", "stringData": { TOKEN: token.expose() } }),
            ),
            Companion::new(
                "v1",
                "ServiceAccount",
                self.metadata(&name, uid),
                json!({ "automountServiceAccountToken": false }),
            ),
            Companion::new(
                "networking.k8s.io/v1",
                "NetworkPolicy",
                self.metadata(&name, uid),
                json!({ "spec": self.network_policy() }),
            ),
        ];
        if self.acts() {
            let subject = json!([{ "kind": "ServiceAccount", "name": name }]);
            let reference = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name });
            companions.push(Companion::new(
                "rbac.authorization.k8s.io/v1",
                "Role",
                self.metadata(&name, uid),
                json!({ "rules": self.role() }),
            ));
            companions.push(Companion::new(
                "rbac.authorization.k8s.io/v1",
                "RoleBinding",
                self.metadata(&name, uid),
                json!({ "roleRef": reference, "subjects": subject }),
            ));
        }
        companions
    }

    /// What the agent beside the workspace may do, with a token that only its own container sees: end this one
    /// workspace, and say how it is.
    fn role(&self) -> Value {
        let pod = pod_name(&self.marks.name);
        json!([
            { "apiGroups": ["apps"], "resources": ["statefulsets"], "resourceNames": [self.name()], "verbs": ["get", "patch", "delete"] },
            { "apiGroups": [""], "resources": ["pods"], "resourceNames": [pod], "verbs": ["get"] },
            { "apiGroups": [""], "resources": ["pods/status"], "resourceNames": [pod], "verbs": ["patch"] },
        ])
    }

    /// Nothing comes in: the kubelet and port-forwards are not the network's. Everything may be reached but the address
    /// at which a cloud gives away the node's credentials.
    fn network_policy(&self) -> Value {
        json!({
            "podSelector": { "matchLabels": { WORKSPACE: self.marks.name.as_str() } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [
                { "to": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": [METADATA_ADDRESS] } }] },
                { "to": [{ "ipBlock": { "cidr": "::/0", "except": ["fd00:ec2::254/128"] } }] },
            ],
        })
    }
}

/// What is kept of the log of a workspace that is stopped.
pub(super) fn kept_log(marks: &Marks, uid: &str, log: &str) -> Companion {
    let metadata = json!({
        "name": log_name(&marks.name),
        "labels": labels(&marks.name, &marks.spec),
        "ownerReferences": owner(&object_name(&marks.name), uid),
    });
    Companion::new("v1", "Secret", metadata, json!({ "type": "kled.io/log", "stringData": { LOG: log } }))
}

/// An object that goes with the StatefulSet.
#[derive(Clone, Debug)]
pub(super) struct Companion {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) body: Body,
}

/// The object, which may hold a token.
#[derive(Clone)]
pub(super) struct Body(pub(super) Value);

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Body([redacted])")
    }
}

impl Companion {
    fn new(api_version: &'static str, kind: &'static str, metadata: Value, rest: Value) -> Self {
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        let mut body = json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata });
        if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
            body.extend(rest);
        }
        Self { api_version, kind, name, body: Body(body) }
    }
}

fn variable(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

/// What the Pod Security Standard `restricted` asks of a container.
fn restricted(read_only: bool) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": read_only,
    })
}

/// Builds images without root and without the node's engine. It needs a user namespace of its own, which the Pod
/// Security Standard `restricted` does not allow: its seccomp profile is the one exception.
fn build_kit_container(image: &str, user: i64) -> Value {
    json!({
        "name": "build-kit",
        "image": image,
        "args": ["--addr", "unix:///run/buildkit/buildkitd.sock", "--oci-worker-no-process-sandbox"],
        "securityContext": {
            "runAsUser": user,
            "runAsGroup": user,
            "seccompProfile": { "type": "Unconfined" },
            "appArmorProfile": { "type": "Unconfined" },
        },
        "volumeMounts": [{ "name": "build-kit", "mountPath": "/run/buildkit" }],
    })
}
