//! From nothing to the first command in a workspace of a repository of 5,000 files.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use kled_core::WorkspaceName;
use kled_core::provider::{OperationUpdate, ProviderExt as _};
use kled_tests::image::{WORKSPACE, WORKSPACE_USER};
use kled_tests::wait;
use kled_tests::workspaces::repository;
use serde_json::json;

use super::{Bench, median, report, timed};

const FILES: usize = 5_000;
const ROUNDS: usize = 7;

/// How long the volume of the round before may take to be gone.
const VOLUMES_LIMIT: Duration = Duration::from_secs(60);

/// The steps of one round and how long each took.
type Steps = Vec<(String, Duration)>;

pub(super) async fn compare(bench: &Bench) -> Result<()> {
    let folder = bench.pods.repositories().join("large");
    tokio::task::spawn_blocking(move || repository(&folder, FILES)).await??;
    let manifest = bench.folder.path().join("plain.json");
    std::fs::write(&manifest, plain_objects().to_string())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(plain(bench, manifest.to_str().context("a path is text")?).await?);
        ours.push(workspace(bench).await?);
    }
    println!("medians of {ROUNDS} rounds, a repository of {FILES} files");
    print_steps("ours", &ours);
    print_steps("kubectl", &theirs);
    report("create to first exec / kubectl and git clone", &totals(&ours), &totals(&theirs), " (goal: 1.3)");
    Ok(())
}

fn totals(rounds: &[Steps]) -> Vec<Duration> {
    rounds.iter().map(|steps| steps.iter().map(|(_, took)| *took).sum()).collect()
}

fn print_steps(side: &str, rounds: &[Steps]) {
    let Some(first) = rounds.first() else { return };
    let steps = first.iter().enumerate().map(|(index, (step, _))| {
        let times: Vec<_> = rounds.iter().filter_map(|steps| Some(steps.get(index)?.1)).collect();
        format!("{step} {:.2?}", median(&times))
    });
    println!("{side}: {}", steps.collect::<Vec<_>>().join(", "));
}

async fn workspace(bench: &Bench) -> Result<Steps> {
    let name = WorkspaceName::new("large")?;
    let spec = bench.pods.spec("large").build()?;
    let (mut steps, mut last) = (Steps::new(), Instant::now());
    let mut step = |name: &str| {
        if !steps.iter().any(|(known, _)| known == name) {
            let now = Instant::now();
            steps.push((name.to_owned(), now - last));
            last = now;
        }
    };
    let mut updates = bench.provider.create_with_events(&name, &spec);
    while let Some(update) = updates.next().await {
        match update {
            // Each is said when what came before is done.
            OperationUpdate::Event(event) => match event.reason.as_str() {
                "Scheduling" => step("objects"),
                "Cloning" => step("pod"),
                "Started" => step("clone and set-up"),
                _ => {}
            },
            OperationUpdate::Done(result) => {
                ensure!(result?.status.is_running(), "it does not run");
                step("answer");
            }
        }
    }
    drop(updates);
    let output = bench.provider.run(&name, ["true"]).await?;
    step("exec");
    ensure!(output.status.is_success(), "the first command failed");
    bench.provider.delete(&name).await?;
    until_no_volumes(bench).await?;
    Ok(steps)
}

async fn plain(bench: &Bench, manifest: &str) -> Result<Steps> {
    let url = bench.pods.git().url("large");
    let steps: [(&str, &[&str]); 4] = [
        ("apply", &["apply", "--filename", manifest]),
        ("wait", &["wait", "--for=condition=Ready", "pod/plain", "--timeout=120s"]),
        ("clone", &["exec", "plain", "--", "git", "clone", "--depth", "1", &url, "/workspace/large"]),
        ("exec", &["exec", "plain", "--", "true"]),
    ];
    let mut took = Steps::new();
    for (step, arguments) in steps {
        took.push((step.to_owned(), timed(bench.kubectl(arguments)).await?));
    }
    timed(bench.kubectl(&["delete", "--filename", manifest, "--grace-period=1"])).await?;
    until_no_volumes(bench).await?;
    Ok(took)
}

/// Else the node would clean up after one side while the other is measured.
async fn until_no_volumes(bench: &Bench) -> Result<()> {
    let (folder, namespace) = (bench.pods.cluster().volumes()?, format!("_{}_", bench.pods.namespace()));
    wait::until(VOLUMES_LIMIT, "the volumes to be gone", async || {
        for entry in std::fs::read_dir(&folder)? {
            let name = entry?.file_name();
            if name.to_string_lossy().contains(&namespace) {
                bail!("{} is still there", name.display());
            }
        }
        Ok(())
    })
    .await
}

/// A pod and a volume like those of a workspace.
fn plain_objects() -> serde_json::Value {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "plain" },
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": WORKSPACE_USER,
                "runAsGroup": WORKSPACE_USER,
                "fsGroup": WORKSPACE_USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "workspace",
                "image": WORKSPACE,
                "imagePullPolicy": "Never",
                "command": ["sleep", "86400"],
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": { "drop": ["ALL"] },
                },
                "volumeMounts": [{ "name": "data", "mountPath": "/workspace" }],
            }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "plain" } }],
        },
    });
    let claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": "plain" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "64Mi" } } },
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [claim, pod] })
}
