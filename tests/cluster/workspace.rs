//! The workspace image as restricted pods run it, and the git server that they clone from.

use anyhow::{Result, ensure};
use kled_tests::cluster::Cluster;
use kled_tests::git_server::GitServer;
use kled_tests::image::{WORKSPACE, WORKSPACE_USER};
use kled_tests::suite::Shared;
use kled_tests::workspaces;
use serde_json::{Value, json};

use crate::pods::{self, Namespace};

/// As `restricted` of the Pod Security Standards demands it.
fn restricted_spec() -> Value {
    let mut spec = pods::spec(WORKSPACE, "sleep 600");
    spec["securityContext"] = json!({
        "runAsNonRoot": true,
        "runAsUser": WORKSPACE_USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    spec["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    spec
}

pub(crate) async fn clones_in_a_restricted_pod(cluster: &Shared<Cluster>) -> Result<()> {
    let cluster = cluster.get(Cluster::shared).await?;
    cluster.load_workspace_image().await?;
    cluster.load_workspace_image().await?;
    let repositories = tempfile::tempdir()?;
    workspaces::repository(&repositories.path().join("one"), 20)?;
    workspaces::repository(&repositories.path().join("private"), 0)?;
    let server = GitServer::start(cluster.node().outer_address(), repositories.path()).await?;
    server.protect("private", "user", "secret");
    let namespace = Namespace::create(&cluster, "restricted").await?;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(&["label", "namespace", namespace.name(), enforce]).await?;
    let pod = namespace.run_spec("workspace", restricted_spec()).await?;
    let said = pod.exec("id -un; grep CapEff /proc/self/status; echo $HOME; git --version").await?;
    ensure!(said.output.starts_with("kled\nCapEff:\t0000000000000000\n/home/kled\ngit version"), "{said:?}");
    let said =
        pod.exec(&format!("cd /tmp && git clone -q {} one && cat one/README.md", server.url("one"))).await?;
    ensure!(said.output == workspaces::FILE.1, "it said {said:?}");
    let refused = pod.exec(&format!("cd /tmp && git clone -q {} private", server.url("private"))).await?;
    ensure!(refused.status.as_deref() == Some("Failure"), "a private repository was cloned: {refused:?}");
    let url = server.url("private").replace("http://", "http://user:secret@");
    let said = pod.exec(&format!("cd ~ && git clone -q {url} private && cat private/README.md")).await?;
    ensure!(said.output == workspaces::FILE.1, "it said {said:?}");
    // From the machine, at the same address.
    workspaces::git(repositories.path(), &["clone", "--quiet", &server.url("one"), "from-here"])?;
    namespace.delete().await
}
