//! Dynamic volumes: folders on the node, made and removed by the provisioner that k3s and kind ship.
//!
//! The provisioner starts a pod for each folder and looks once a second whether it is done, so a volume takes about
//! two seconds. Its pods use the node's network and no service account, which saves one more.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::{node, write_json};
use crate::authority::Subject;
use crate::control_plane::{ApiServer, flag};
use crate::enclosure::Entrance;
use crate::image::Image;
use crate::slot::Slot;

/// The cluster's storage class, which is the default; volumes are made when the first pod that uses them is scheduled.
///
/// There is no class that binds at once: for that, this provisioner would have to know the node before the scheduler.
pub const STORAGE_CLASS: &str = "local-path";

const PROVISIONER: &str = "rancher.io/local-path";
const HELPER: &str = "kled.test/volume-helper:1";
const NAMESPACE: &str = "kube-system";

/// What the provisioner's pods run; the provisioner says where in `VOL_DIR`.
const SET_UP: &str = "#!/bin/sh\nmkdir -m 0777 -p \"$VOL_DIR\"\n";
const TEAR_DOWN: &str = "#!/bin/sh\nrm -rf \"$VOL_DIR\"\n";

/// Where the volumes of the cluster are, inside its own directory.
pub(super) fn folder(directory: &Path) -> PathBuf {
    directory.join("volumes")
}

pub(super) fn image() -> Result<Image> {
    Ok(Image::busybox(HELPER)?.file("set-up", SET_UP, 0o755).file("tear-down", TEAR_DOWN, 0o755))
}

pub(super) fn command(slot: &Slot, entrance: &Entrance, api: &ApiServer) -> Result<Command> {
    let name = "local-path-provisioner";
    let identity = node::identity(slot, api, name, &Subject::user(name, &["system:masters"]))?;
    let configuration = slot.directory().join("volumes.json");
    write_json(
        &configuration,
        &json!({
            "nodePathMap": [
                {"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [folder(slot.directory())]},
            ],
            "setupCommand": "/set-up",
            "teardownCommand": "/tear-down",
        }),
    )?;
    let helper = slot.directory().join("volume-helper.json");
    write_json(&helper, &helper_pod())?;
    let mut command = entrance.command(name)?;
    command.arg("start").arg(flag("kubeconfig", &identity)).arg(flag("config", &configuration));
    command.arg(flag("helper-pod-file", &helper));
    command.args(["--namespace", NAMESPACE, "--service-account-name", "default"]);
    command.args(["--provisioner-name", PROVISIONER]);
    Ok(command)
}

fn helper_pod() -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "volume"},
        "spec": {
            "hostNetwork": true,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "helper-pod", "image": HELPER, "imagePullPolicy": "Never"}],
        },
    })
}

/// Creates the storage class.
pub(super) async fn deploy(client: &kube::Client) -> Result<()> {
    let class = serde_json::from_value(json!({
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Delete",
    }))?;
    let classes: Api<StorageClass> = Api::all(client.clone());
    classes.create(&PostParams::default(), &class).await.context("create the storage class")?;
    Ok(())
}
