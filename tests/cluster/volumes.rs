//! Dynamic volumes: made for a claim, kept when its pod goes, removed with it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kled_tests::cluster::{BUSYBOX, Cluster, STORAGE_CLASS};
use kled_tests::suite::Shared;
use kled_tests::wait;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::pods::{self, Namespace};

const GONE_DEADLINE: Duration = Duration::from_secs(60);

/// Claims a volume `data` of the default class.
pub(crate) async fn claim(namespace: &Namespace) -> Result<()> {
    let claim = json!({
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let claims = namespace.api::<PersistentVolumeClaim>();
    claims.create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
    Ok(())
}

/// The spec of a pod that has the volume in `/data`.
pub(crate) fn spec_with_volume() -> Value {
    let mut spec = pods::spec(BUSYBOX, "sleep 600");
    spec["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    spec
}

fn folder(cluster: &Cluster, namespace: &str) -> Result<Option<PathBuf>> {
    let ending = format!("_{namespace}_data");
    let folders = fs::read_dir(cluster.volumes()?)?.map(|entry| Ok(entry?.path()));
    let folders: Vec<PathBuf> = folders.collect::<Result<_>>()?;
    Ok(folders.into_iter().find(|folder| folder.to_string_lossy().ends_with(&ending)))
}

pub(crate) async fn outlives_its_pod(cluster: &Shared<Cluster>) -> Result<()> {
    let cluster = cluster.get(Cluster::shared).await?;
    let namespace = Namespace::create(&cluster, "volumes").await?;
    let claims = namespace.api::<PersistentVolumeClaim>();
    claim(&namespace).await?;
    let start = Instant::now();
    let pod = namespace.run_spec("first", spec_with_volume()).await?;
    println!("a pod with a new volume was ready after {:.1} s", start.elapsed().as_secs_f64());
    let bound = claims.get("data").await?;
    let spec = bound.spec.context("a spec")?;
    ensure!(spec.storage_class_name.as_deref() == Some(STORAGE_CLASS), "its class is {spec:?}");
    ensure!(bound.status.and_then(|status| status.phase).as_deref() == Some("Bound"), "it is not bound");
    pod.exec("echo kept > /data/file").await?;
    pod.delete().await?;
    let start = Instant::now();
    let pod = namespace.run_spec("second", spec_with_volume()).await?;
    println!("a pod with an old volume was ready after {:.1} s", start.elapsed().as_secs_f64());
    let said = pod.exec("cat /data/file").await?;
    ensure!(said.output == "kept\n", "it said {said:?}");
    pod.delete().await?;
    ensure!(folder(&cluster, namespace.name())?.is_some(), "the volume has no folder on the node");
    claims.delete("data", &DeleteParams::default()).await?;
    wait::until(GONE_DEADLINE, "the volume's folder to be gone", async || {
        ensure!(folder(&cluster, namespace.name())?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    namespace.delete().await
}
