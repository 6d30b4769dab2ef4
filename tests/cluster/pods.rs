//! Pods and services in a namespace of a test's own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{self, Pod as PodObject, Service, ServiceAccount};
use kled_tests::cluster::Cluster;
use kled_tests::wait;
use kube::api::{AttachParams, DeleteParams, LogParams, PostParams};
use kube::{Api, Resource};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const RUN_DEADLINE: Duration = Duration::from_secs(90);
const EXEC_DEADLINE: Duration = Duration::from_secs(30);

/// Every pod's memory limit, in bytes.
pub(crate) const MEMORY_LIMIT: u64 = 64 * 1024 * 1024;

/// A namespace that belongs to one test.
pub(crate) struct Namespace {
    name: String,
    client: kube::Client,
}

impl Namespace {
    /// Creates it and waits until pods can be made in it.
    pub(crate) async fn create(cluster: &Cluster, name: &str) -> Result<Self> {
        let client = cluster.client();
        let namespaces: Api<v1::Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        namespaces.create(&PostParams::default(), &object).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
        wait::until(RUN_DEADLINE, "the service account", async || Ok(accounts.get("default").await?)).await?;
        Ok(Self { name: name.to_owned(), client })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Objects of a kind in it.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Starts a pod that runs a shell script and waits until it is ready.
    pub(crate) async fn run(&self, name: &str, image: &str, script: &str) -> Result<Pod> {
        self.run_spec(name, spec(image, script)).await
    }

    /// Starts a pod of a spec and waits until it is ready.
    pub(crate) async fn run_spec(&self, name: &str, spec: Value) -> Result<Pod> {
        let pods: Api<PodObject> = Api::namespaced(self.client.clone(), &self.name);
        let metadata = json!({"name": name, "labels": {"app": name}});
        let object = serde_json::from_value(json!({"metadata": metadata, "spec": spec}))?;
        pods.create(&PostParams::default(), &object).await?;
        let pod = Pod { name: name.to_owned(), pods };
        wait::until(RUN_DEADLINE, "the pod to be ready", async || pod.check_ready().await).await?;
        Ok(pod)
    }

    /// Puts a service in front of the pods of an app; gives its port on the node.
    pub(crate) async fn expose(&self, name: &str, app: &str, port: u16, target: u16) -> Result<u16> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.name);
        let object = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "type": "NodePort",
                "selector": {"app": app},
                "ports": [{"port": port, "targetPort": target}],
            },
        }))?;
        let created = services.create(&PostParams::default(), &object).await?;
        let ports = created.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let port =
            ports.first().and_then(|port| port.node_port).context("the service has no port on the node")?;
        Ok(u16::try_from(port)?)
    }

    /// Deletes it, without waiting for its end.
    pub(crate) async fn delete(self) -> Result<()> {
        let namespaces: Api<v1::Namespace> = Api::all(self.client);
        namespaces.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// The spec of a pod that runs a shell script and ends at once when it is told to.
pub(crate) fn spec(image: &str, script: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "main",
            "image": image,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
            "resources": {"limits": {"memory": MEMORY_LIMIT.to_string()}},
        }],
    })
}

/// A pod that runs.
pub(crate) struct Pod {
    name: String,
    pods: Api<PodObject>,
}

/// What a command in a pod said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) output: String,
    pub(crate) errors: String,
    pub(crate) status: Option<String>,
}

impl Pod {
    async fn check_ready(&self) -> Result<()> {
        let status = self.pods.get_status(&self.name).await?.status.context("no status yet")?;
        let ready = status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
        ensure!(ready, "its status is {}", serde_json::to_string(&status)?);
        Ok(())
    }

    pub(crate) async fn address(&self) -> Result<String> {
        let status = self.pods.get_status(&self.name).await?.status.context("no status")?;
        status.pod_ip.context("no address")
    }

    /// The same pod by way of another client.
    pub(crate) fn through(&self, client: kube::Client) -> Self {
        let namespace = self.pods.namespace().unwrap_or_default();
        Self { name: self.name.clone(), pods: Api::namespaced(client, namespace) }
    }

    /// Deletes it and waits until it is gone.
    pub(crate) async fn delete(self) -> Result<()> {
        self.pods.delete(&self.name, &DeleteParams::default()).await?;
        wait::until(RUN_DEADLINE, "the pod to be gone", async || {
            ensure!(self.pods.get_opt(&self.name).await?.is_none(), "it is still there");
            Ok(())
        })
        .await
    }

    pub(crate) async fn log(&self) -> Result<String> {
        Ok(self.pods.logs(&self.name, &LogParams::default()).await?)
    }

    /// Runs a shell script in the pod.
    pub(crate) async fn exec(&self, script: &str) -> Result<Said> {
        self.attach(script, None).await
    }

    /// Runs a shell script in the pod and gives it something to read.
    pub(crate) async fn send(&self, script: &str, input: &[u8]) -> Result<Said> {
        self.attach(script, Some(input)).await
    }

    async fn attach(&self, script: &str, input: Option<&[u8]>) -> Result<Said> {
        let parameters = AttachParams::default().stdout(true).stderr(true).stdin(input.is_some());
        let said = async {
            let mut process = self.pods.exec(&self.name, ["sh", "-c", script], &parameters).await?;
            let mut output = process.stdout().context("no output")?;
            let mut errors = process.stderr().context("no errors")?;
            let status = process.take_status().context("no status")?;
            let stdin = process.stdin();
            let mut said = Said { output: String::new(), errors: String::new(), status: None };
            let send = async {
                if let (Some(mut stdin), Some(input)) = (stdin, input) {
                    stdin.write_all(input).await?;
                    stdin.shutdown().await?;
                }
                Ok(())
            };
            // A connection that is cut has no status, and its output never ends.
            let status = async { status.await.context("the connection was cut") };
            let (read_output, read_errors) =
                (output.read_to_string(&mut said.output), errors.read_to_string(&mut said.errors));
            let read = async { Ok(tokio::try_join!(read_output, read_errors)?) };
            let ((), _, status) = tokio::try_join!(send, read, status)?;
            said.status = status.status;
            anyhow::Ok(said)
        };
        tokio::time::timeout(EXEC_DEADLINE, said).await.context("exec did not end in time")?
    }
}
