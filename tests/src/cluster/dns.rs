//! The cluster's DNS: CoreDNS in a pod behind the service that every pod asks.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::PostParams;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::image::Image;
use crate::servers::table::COREDNS_VERSION;
use crate::{programs, wait};

/// Where pods ask.
pub(super) const ADDRESS: &str = "10.96.0.10";

/// What names of services end with.
pub(super) const DOMAIN: &str = "cluster.local";

const NAMESPACE: &str = "kube-system";
const NAME: &str = "coredns";
const NAMESPACE_DEADLINE: Duration = Duration::from_secs(30);

/// Nothing is forwarded: a test cluster has no names but its own. Answers that may change live one second.
const COREFILE: &str = "\
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 1
    }
    cache 1
    loadbalance
}
";

fn image_name() -> String {
    format!("registry.k8s.io/coredns/coredns:v{COREDNS_VERSION}")
}

pub(super) fn image() -> Result<Image> {
    Image::program(image_name(), &programs::find("coredns").context("no program coredns")?)
}

/// Creates the DNS's objects.
pub(super) async fn deploy(client: &kube::Client) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let account = serde_json::from_value(json!({"metadata": {"name": NAME}}))?;
    // The API server makes the namespace a moment after it is ready.
    wait::until(NAMESPACE_DEADLINE, "the namespace of the cluster's DNS", async || {
        Ok(accounts.create(&PostParams::default(), &account).await?)
    })
    .await?;
    create_cluster_wide::<ClusterRole>(client, role()).await?;
    create_cluster_wide::<ClusterRoleBinding>(client, role_binding()).await?;
    create::<ConfigMap>(client, json!({"metadata": {"name": NAME}, "data": {"Corefile": COREFILE}})).await?;
    create::<Service>(client, service()).await?;
    create::<Deployment>(client, deployment()).await
}

/// An error while no replica answers.
pub(super) async fn check_ready(client: &kube::Client) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let status = deployments.get_status(NAME).await?.status.unwrap_or_default();
    ensure!(status.ready_replicas.unwrap_or(0) > 0, "the cluster's DNS is not ready");
    Ok(())
}

async fn create<K>(client: &kube::Client, object: Value) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned,
    K: std::fmt::Debug,
{
    create_with(Api::<K>::namespaced(client.clone(), NAMESPACE), object).await
}

async fn create_cluster_wide<K>(client: &kube::Client, object: Value) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    create_with(Api::<K>::all(client.clone()), object).await
}

async fn create_with<K>(api: Api<K>, object: Value) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let kind = K::kind(&()).into_owned();
    api.create(&PostParams::default(), &serde_json::from_value(object)?)
        .await
        .with_context(|| format!("create the {kind} of the cluster's DNS"))?;
    Ok(())
}

fn role() -> Value {
    json!({
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    })
}

fn role_binding() -> Value {
    json!({
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    })
}

fn service() -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    json!({
        "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "clusterIP": ADDRESS,
            "selector": {"k8s-app": "kube-dns"},
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    })
}

fn deployment() -> Value {
    let labels = json!({"k8s-app": "kube-dns"});
    json!({
        "metadata": {"name": NAME, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod()},
        },
    })
}

fn pod() -> Value {
    json!({
        "serviceAccountName": NAME,
        "dnsPolicy": "Default",
        "containers": [{
            "name": NAME,
            "image": image_name(),
            "imagePullPolicy": "Never",
            "args": ["-conf", "/etc/coredns/Corefile"],
            "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": true}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        }],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}],
    })
}
