//! What people see of a workspace in the cluster, and what nobody may see.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::num::NonZeroU16;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kled_core::ErrorKind;
use kled_core::WorkspaceName;
use kled_core::provider::{ConnectRequest, ExecRequest, Provider as _, ProviderExt as _};
use kled_core::workspace::{StopReason, WorkspaceStatus};
use kled_providers::kubernetes::KubernetesProvider;
use kled_tests::cluster::Cluster;
use kled_tests::kubernetes::Pods;
use kled_tests::suite::Suite;
use kled_tests::{process, wait, workspaces};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::scene;

/// A login that this machine's git knows, for everything that it is asked for.
const USER: &str = "somebody";
const PASSWORD: &str = "a-password-that-nothing-else-says";

/// Marks the process whose git knows it.
const KNOWS: &str = "KLED_TESTS_GIT_KNOWS";

const KINDS: &str = "statefulsets,pods,persistentvolumeclaims,secrets,serviceaccounts,networkpolicies,roles,rolebindings,events,\
    configmaps,controllerrevisions";

/// How long an idle workspace may run over its time: its agent looks every ten seconds.
const LATE: Duration = Duration::from_secs(60);

pub(crate) fn cases(mut suite: Suite) -> Suite {
    suite = scene::beside(suite, "every object says what it is of and holds no secret", are_marked);
    suite = scene::beside(suite, "the service account has no rights", has_no_rights);
    suite = scene::beside(suite, "overrides are merged into the pod template", takes_overrides);
    suite = scene::beside(suite, "a port is forwarded", forwards_a_port);
    suite = scene::beside(suite, "a private project is set up and its login is kept nowhere", sets_up);
    suite = scene::beside(suite, "an idle workspace stops", stops_when_idle);
    suite = scene::beside(suite, "an expired workspace is deleted", is_deleted_when_expired);
    let name = "nothing comes in and the metadata is not reached";
    match Cluster::missing_policies() {
        Some(reason) => suite.skip(name, reason),
        None => scene::beside(suite, name, is_kept_apart),
    }
}

/// Becomes a process whose git knows the login, by its environment alone; gives an exit code if that fails.
pub(crate) fn with_a_login() -> Option<ExitCode> {
    if std::env::var_os(KNOWS).is_some() {
        return None;
    }
    let helper = format!("!f() {{ echo username={USER}; echo password={PASSWORD}; }}; f");
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(std::env::args_os().skip(1)).env(KNOWS, "1").env("GIT_CONFIG_COUNT", "1");
    command.env("GIT_CONFIG_KEY_0", "credential.helper").env("GIT_CONFIG_VALUE_0", helper);
    let error = command.exec();
    let _said = writeln!(std::io::stderr(), "error: the tests cannot be started again: {error}");
    Some(ExitCode::FAILURE)
}

/// What `kubectl get -o json` says.
async fn objects(pods: &Pods, kinds: &str, selector: &str) -> Result<Vec<Value>> {
    let get = ["--namespace", pods.namespace(), "get", kinds, "--selector", selector, "--output", "json"];
    let said: Value = serde_json::from_str(&pods.cluster().kubectl(&get).await?)?;
    Ok(said["items"].as_array().context("no list")?.clone())
}

async fn are_marked(pods: Arc<Pods>) -> Result<()> {
    let (provider, name) = (scene::provider(&pods).await?, scene::name("marked")?);
    let made = scene::made(&pods, &provider, &name).await?;
    let of_it = format!("kled.io/workspace={name}");
    let found = objects(&pods, KINDS, &of_it).await?;
    let set = found.iter().find(|object| object["kind"] == "StatefulSet").context("no StatefulSet")?;
    let uid = &set["metadata"]["uid"];
    let mut kinds = BTreeMap::new();
    for object in &found {
        let (kind, metadata) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]);
        *kinds.entry(kind).or_insert(0) += 1;
        for (label, value) in [
            ("app.kubernetes.io/name", "workspace"),
            ("app.kubernetes.io/instance", name.as_str()),
            ("app.kubernetes.io/part-of", "kled"),
            ("app.kubernetes.io/component", "workspace"),
            ("app.kubernetes.io/managed-by", "kled"),
        ] {
            ensure!(metadata["labels"][label] == value, "{kind} has the labels {}", metadata["labels"]);
        }
        ensure!(
            kind == "StatefulSet" || metadata["ownerReferences"][0]["uid"] == *uid,
            "{kind} is {metadata}"
        );
    }
    println!("a workspace is {kinds:?}");
    for kind in ["Pod", "PersistentVolumeClaim", "Secret", "ServiceAccount", "NetworkPolicy", "Event"] {
        ensure!(kinds.contains_key(kind), "there is no {kind} in {kinds:?}");
    }
    ensure!(set["metadata"]["annotations"]["kled.io/id"] == made.id.to_string(), "{}", set["metadata"]);
    is_ready(&pods, &name).await?;
    let get = ["--namespace", pods.namespace(), "get", "events", "--output", "wide"];
    let events = pods.cluster().kubectl(&get).await?;
    for reason in ["Scheduling", "Cloning", "Started"] {
        let line = events.lines().find(|line| line.contains(reason) && line.contains("statefulset/marked"));
        ensure!(line.is_some(), "no event {reason} in\n{events}");
    }
    says_no_token(&pods, &name).await?;
    scene::end(&pods, &provider, &name).await
}

pub(crate) async fn is_ready(pods: &Pods, name: &WorkspaceName) -> Result<()> {
    let pod = format!("{name}-0");
    wait::until(Duration::from_secs(30), "the pod to be shown as ready", async || {
        let get = ["--namespace", pods.namespace(), "get", "pod", &pod, "--no-headers"];
        let said = pods.cluster().kubectl(&get).await?;
        let words: Vec<_> = said.split_whitespace().collect();
        ensure!(words.get(1..3) == Some(&["2/2", "Running"]), "it is {said}");
        Ok(())
    })
    .await
}

/// The token is in the Secret, and in no other object of the namespace in any form.
async fn says_no_token(pods: &Pods, name: &WorkspaceName) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(pods.cluster().client(), pods.namespace());
    let data = secrets.get(name.as_str()).await?.data.context("an empty Secret")?;
    let token = data.get("token").context("no token")?.0.clone();
    let (plain, encoded) = (String::from_utf8(token.clone())?, STANDARD.encode(&token));
    ensure!(plain.len() >= 32, "a token of {} bytes", plain.len());
    let get = ["--namespace", pods.namespace(), "get", KINDS, "--show-managed-fields", "--output", "json"];
    let all: Value = serde_json::from_str(&pods.cluster().kubectl(&get).await?)?;
    for object in all["items"].as_array().context("no list")? {
        let text = object.to_string();
        let is_its_secret = object["kind"] == "Secret" && object["metadata"]["name"] == name.as_str();
        let says = text.contains(&plain) || text.contains(&encoded);
        ensure!(says == is_its_secret, "{} {}", object["kind"], object["metadata"]["name"]);
        ensure!(!text.contains(PASSWORD), "{} {}", object["kind"], object["metadata"]["name"]);
    }
    Ok(())
}

async fn has_no_rights(pods: Arc<Pods>) -> Result<()> {
    let (provider, name) = (scene::provider(&pods).await?, scene::name("no-rights")?);
    scene::made(&pods, &provider, &name).await?;
    let account = format!("system:serviceaccount:{}:{name}", pods.namespace());
    let can_i = |verb: &'static str, what: &'static str| {
        let (pods, account) = (pods.clone(), account.clone());
        async move {
            let ask = ["--namespace", pods.namespace(), "auth", "can-i", verb, what, "--as", &account];
            // "no" is said with an exit code.
            Ok::<_, anyhow::Error>(pods.cluster().kubectl(&ask).await.is_ok_and(|said| said.trim() == "yes"))
        }
    };
    ensure!(can_i("create", "selfsubjectaccessreviews").await?, "not even what everybody may do is allowed");
    for (verb, what) in [
        ("get", "secrets"),
        ("list", "pods"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("patch", "statefulsets"),
        ("delete", "statefulsets"),
        ("*", "*"),
    ] {
        ensure!(!can_i(verb, what).await?, "the workspace may {verb} {what}");
    }
    let token = "cat /var/run/secrets/kubernetes.io/serviceaccount/token 2>&1; true";
    let said = scene::shell(&provider, &name, token).await?;
    ensure!(said.contains("No such file"), "there is a token: {said}");
    scene::end(&pods, &provider, &name).await
}

async fn takes_overrides(pods: Arc<Pods>) -> Result<()> {
    let overrides = json!({
        "metadata": { "annotations": { "kled.test/override": "there" } },
        "spec": {
            "priorityClassName": "system-cluster-critical",
            "hostname": "overridden",
            "containers": [{ "name": "workspace", "env": [{ "name": "ADDED", "value": "by an override" }] }],
        },
    });
    let mut overrides = overrides;
    // Only namespaces of the system may use that one.
    overrides["spec"].as_object_mut().context("no object")?.remove("priorityClassName");
    let provider = pods.builder().pod_template_overrides(overrides).build().await?;
    let name = scene::name("overridden")?;
    scene::made(&pods, &provider, &name).await?;
    let said = scene::shell(&provider, &name, "echo $ADDED; echo $KLED_WORKSPACE").await?;
    ensure!(said == "by an override\noverridden\n", "it says {said:?}");
    let pod = scene::pod(&pods, &name).await?.context("no pod")?;
    let annotations = pod.metadata.annotations.unwrap_or_default();
    ensure!(annotations.get("kled.test/override").is_some_and(|value| value == "there"), "{annotations:?}");
    let containers = pod.spec.context("no spec")?.containers;
    ensure!(containers.len() == 2, "it has {} containers", containers.len());
    scene::end(&pods, &provider, &name).await
}

const SERVE: &str = "mkdir -p /tmp/www; echo served > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www";

/// Starts a server in the workspace and waits until it is reached by a port-forward.
async fn serves(provider: &KubernetesProvider, name: &WorkspaceName) -> Result<()> {
    provider.exec(name, ExecRequest::new(["sh", "-c", SERVE]).detached()).await?;
    wait::until(Duration::from_secs(20), "the server", async || {
        let said = fetched(provider, name).await?;
        ensure!(said.ends_with("served\n"), "it says {said:?}");
        Ok(())
    })
    .await
}

async fn fetched(provider: &KubernetesProvider, name: &WorkspaceName) -> Result<String> {
    use tokio::io::AsyncWriteExt as _;
    let port = NonZeroU16::new(8080).context("a port")?;
    let mut stream = provider.connect(name, ConnectRequest::new(port)).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    Ok(said)
}

async fn forwards_a_port(pods: Arc<Pods>) -> Result<()> {
    let (provider, name) = (scene::provider(&pods).await?, scene::name("forwarded")?);
    scene::made(&pods, &provider, &name).await?;
    let error = fetched(&provider, &name).await.err().context("nothing listens, and it answers")?;
    let error = error.downcast::<kled_core::Error>()?;
    ensure!(error.kind() == ErrorKind::Unavailable, "nothing listens: {error}");
    serves(&provider, &name).await?;
    let all = futures::future::join_all((0..20).map(|_| fetched(&provider, &name))).await;
    for said in all {
        ensure!(said?.ends_with("served\n"), "one of many is not served");
    }
    scene::end(&pods, &provider, &name).await
}

const DEVCONTAINER: &str = r#"{
    "containerEnv": { "FROM_PROJECT": "yes" },
    "postCreateCommand": "echo created $FROM_PROJECT >> made.txt",
    "postStartCommand": "echo started >> made.txt"
}"#;

async fn sets_up(pods: Arc<Pods>) -> Result<()> {
    let folder = pods.repositories().join("private");
    workspaces::repository(&folder, 3)?;
    std::fs::create_dir(folder.join(".devcontainer"))?;
    std::fs::write(folder.join(".devcontainer/devcontainer.json"), DEVCONTAINER)?;
    workspaces::git(&folder, &["add", "--all"])?;
    workspaces::git(&folder, &["commit", "--quiet", "--message=project"])?;
    pods.git().protect("private", USER, PASSWORD);
    let (name, spec) = (scene::name("private")?, pods.spec("private").build()?);
    let without = pods.builder().forward_git_credentials(false).build().await?;
    let error = without.create(&name, &spec).await.err().context("it is checked out without a login")?;
    ensure!(error.kind() == ErrorKind::Unauthenticated, "without a login: {error}");
    let provider = scene::provider(&pods).await?;
    let made = provider.create(&name, &spec).await?;
    ensure!(made.status.is_running(), "it is {:?}", made.status);
    let said = scene::shell(&provider, &name, "cat made.txt; echo $FROM_PROJECT").await?;
    ensure!(said == "created yes\nstarted\nyes\n", "the set-up is {said:?}");
    // The pattern is put together in the pod, so as not to find the search itself.
    let (start, end) = PASSWORD.split_at(10);
    let encoded = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let (encoded_start, encoded_end) = encoded.split_at(10);
    let search = format!(
        "A={start}; B={encoded_start}; for at in /workspace /home /var/lib/kled /tmp; do \
         grep -rlF -e \"$A\"{end} -e \"$B\"{encoded_end} $at; done 2>/dev/null; \
         for at in /proc/[0-9]*; do tr '\\0' '\\n' < $at/environ | grep -qF -e \"$A\"{end} && echo $at/environ; \
         done 2>/dev/null; cat /workspace/.git/config"
    );
    let said = scene::shell(&provider, &name, &search).await?;
    ensure!(said.starts_with("[core]"), "the login is in {said}");
    ensure!(!said.contains(USER) && !said.contains("credential"), "git's configuration is {said}");
    says_no_token(&pods, &name).await?;
    provider.stop(&name).await?;
    provider.start(&name).await?;
    let said = scene::shell(&provider, &name, "cat made.txt").await?;
    ensure!(said == "created yes\nstarted\nstarted\n", "after a start the set-up is {said:?}");
    scene::end(&pods, &provider, &name).await
}

async fn stops_when_idle(pods: Arc<Pods>) -> Result<()> {
    let (provider, name) = (scene::provider(&pods).await?, scene::name("idle")?);
    let timeout = Duration::from_secs(15);
    let spec = pods.spec("other").idle_timeout("15s").build()?;
    provider.create(&name, &spec).await?;
    scene::shell(&provider, &name, "echo kept > kept").await?;
    let start = Instant::now();
    wait::until(timeout + LATE, "it to stop", async || match provider.status(&name).await?.status {
        WorkspaceStatus::Stopped { reason: StopReason::Idle, .. } => Ok(()),
        other => anyhow::bail!("it is {other:?}"),
    })
    .await?;
    let stopped = start.elapsed();
    println!("idle for {}: stopped after {}", scene::seconds(timeout), scene::seconds(stopped));
    ensure!(stopped + Duration::from_secs(1) > timeout, "it was stopped after {stopped:?}");
    let sets: Api<StatefulSet> = Api::namespaced(pods.cluster().client(), pods.namespace());
    let replicas = sets.get(name.as_str()).await?.spec.and_then(|spec| spec.replicas);
    ensure!(replicas == Some(0), "it has {replicas:?} replicas");
    wait::until(LATE, "its pod to be gone", async || {
        ensure!(scene::pod(&pods, &name).await?.is_none(), "its pod is there");
        Ok(())
    })
    .await?;
    provider.start(&name).await?;
    ensure!(scene::shell(&provider, &name, "cat kept").await? == "kept\n", "its data is gone");
    scene::end(&pods, &provider, &name).await
}

async fn is_deleted_when_expired(pods: Arc<Pods>) -> Result<()> {
    let (provider, name) = (scene::provider(&pods).await?, scene::name("expired")?);
    let spec = pods.spec("other").time_to_live("20s").build()?;
    let created = provider.create(&name, &spec).await?.created;
    wait::until(Duration::from_secs(20) + LATE, "it to be gone", async || {
        let left = pods.left(&name).await?;
        ensure!(left.is_empty(), "there is {left:?}");
        Ok(())
    })
    .await?;
    let lived = jiff::Timestamp::now().duration_since(created);
    println!("it had 20 s to live, and lived {:.1} s", lived.as_secs_f64());
    ensure!(lived.as_secs() >= 20, "it lived for {lived:?}");
    let error = provider.status(&name).await.err().context("it is still there")?;
    ensure!(error.kind() == ErrorKind::NotFound, "status says {error}");
    Ok(())
}

/// Whether a workspace reaches an address.
async fn reaches(
    provider: &KubernetesProvider,
    name: &WorkspaceName,
    address: &str,
    port: u16,
) -> Result<bool> {
    let connect = format!("nc -w 1 {address} {port} < /dev/null");
    Ok(provider.run(name, ["sh", "-c", &connect]).await?.status.is_success())
}

/// A policy that is gone lets through what it kept out: so it was the policy.
async fn is_kept_apart(pods: Arc<Pods>) -> Result<()> {
    const METADATA: &str = "169.254.169.254";
    const PORT: u16 = 8169;
    let provider = scene::provider(&pods).await?;
    let (server, client) = (scene::name("kept-apart")?, scene::name("another")?);
    tokio::try_join!(scene::made(&pods, &provider, &server), scene::made(&pods, &provider, &client))?;
    serves(&provider, &server).await?;
    let address = scene::pod(&pods, &server).await?.and_then(|pod| pod.status?.pod_ip);
    let address = address.context("the pod has no address")?;
    ensure!(reaches(&provider, &server, &address, 8080).await?, "it does not reach itself");
    ensure!(!reaches(&provider, &client, &address, 8080).await?, "another workspace reaches it");
    let policies: Api<NetworkPolicy> = Api::namespaced(pods.cluster().client(), pods.namespace());
    policies.delete(server.as_str(), &DeleteParams::default()).await?;
    wait::until(scene::BACK, "the policy's end", async || {
        ensure!(reaches(&provider, &client, &address, 8080).await?, "it is not reached without a policy");
        Ok(())
    })
    .await?;
    // On the node as a cloud has it: something answers there.
    let node = pods.cluster().node();
    let mut add = node.command("ip")?;
    add.args(["address", "replace", &format!("{METADATA}/32"), "dev", "lo"]);
    tokio::task::spawn_blocking(|| process::run(add)).await?.context("give the node the address")?;
    let mut listen = tokio::process::Command::from(node.command("busybox")?);
    let nothing = tempfile::tempdir()?;
    listen.args(["httpd", "-f", "-p", &format!("{METADATA}:{PORT}"), "-h"]).arg(nothing.path());
    // It outlives whoever entered the node for it, and ends with the node: it must hold no output of the tests open.
    listen.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    listen.kill_on_drop(true);
    let mut listening = listen.spawn()?;
    wait::until(scene::BACK, "the metadata to be reached without a policy", async || {
        ensure!(reaches(&provider, &server, METADATA, PORT).await?, "it is not reached without a policy");
        Ok(())
    })
    .await?;
    ensure!(!reaches(&provider, &client, METADATA, PORT).await?, "the metadata is reached");
    listening.kill().await?;
    let mut remove = node.command("ip")?;
    remove.args(["address", "delete", &format!("{METADATA}/32"), "dev", "lo"]);
    tokio::task::spawn_blocking(|| process::run(remove)).await?.context("take the address away")?;
    scene::end(&pods, &provider, &server).await?;
    scene::end(&pods, &provider, &client).await
}
