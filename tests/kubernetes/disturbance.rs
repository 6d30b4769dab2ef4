//! What befalls a running workspace: status is true within five seconds, and it comes back with its data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kled_core::ErrorKind;
use kled_core::provider::{ExecRequest, ExecSession, Provider as _, ProviderExt as _, StatusOptions};
use kled_core::workspace::{ConditionStatus, Workspace, WorkspaceStatus};
use kled_core::{Error, WorkspaceName};
use kled_providers::kubernetes::KubernetesProvider;
use kled_tests::cluster::{Cluster, Options};
use kled_tests::kubernetes::Pods;
use kled_tests::suite::Suite;
use kled_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::scene;

/// Until status is true.
const TRUE: Duration = Duration::from_secs(5);

/// Until an open session has noticed that it is none any more.
const NOTICED: Duration = Duration::from_secs(30);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

const WRITE: &str = "echo kept > /workspace/kept; echo kept > $HOME/kept";
const READ: &str = "cat /workspace/kept $HOME/kept";

pub(crate) fn cases(suite: Suite) -> Suite {
    let suite = scene::alone(suite, "a deleted pod comes back", survives_its_pod);
    scene::alone(suite, "a killed API server and a killed kubelet come back", survives_the_servers)
}

/// A running workspace with data, and a command that goes on in it.
struct Scene {
    pods: Arc<Pods>,
    provider: KubernetesProvider,
    name: WorkspaceName,
    made: Workspace,
    pod: String,
}

impl Scene {
    async fn new(pods: Arc<Pods>, name: &str) -> Result<Self> {
        let (provider, name) = (scene::provider(&pods).await?, scene::name(name)?);
        let made = scene::made(&pods, &provider, &name).await?;
        scene::shell(&provider, &name, WRITE).await?;
        let pod = scene::pod_uid(&pods, &name).await?;
        Ok(Self { pods, provider, name, made, pod })
    }

    async fn status(&self) -> Result<Workspace, Error> {
        let options = StatusOptions { timeout: Duration::from_secs(4) };
        self.provider.workspace_status(&self.name, options).await
    }

    async fn session(&self) -> Result<ExecSession> {
        let mut session = self.provider.exec(&self.name, ExecRequest::new(["cat"]).piped_stdin()).await?;
        ensure!(goes_on(&mut session).await?, "it does not even begin");
        Ok(session)
    }

    /// It runs, is the one that it was, and has its data.
    async fn is_back(&self) -> Result<()> {
        let said = scene::shell(&self.provider, &self.name, READ).await?;
        ensure!(said == "kept\nkept\n", "its data is {said:?}");
        let now = self.status().await?;
        ensure!(now.status.is_running() && now.id == self.made.id, "it is {now:?}");
        let list = self.provider.list().await?;
        let of_name = list.iter().filter(|workspace| workspace.name == self.name).count();
        ensure!(of_name == 1, "there are {of_name} of it");
        // Also for somebody who was not there before.
        let other = scene::provider(&self.pods).await?;
        ensure!(other.status(&self.name).await?.id == self.made.id, "it is another for others");
        Ok(())
    }
}

/// Whether a session of `cat` gives back what it is given; false when it ended with an error of its own.
async fn goes_on(session: &mut ExecSession) -> Result<bool> {
    let echoed = async {
        session.stdin.as_mut().context("there is no input")?.write_all(b"still there\n").await?;
        session.stdin.as_mut().context("there is no input")?.flush().await?;
        let mut echo = [0; 12];
        session.stdout.read_exact(&mut echo).await?;
        ensure!(&echo == b"still there\n", "it gave back {echo:?}");
        anyhow::Ok(())
    };
    if tokio::time::timeout(NOTICED, echoed).await.context("the session hangs")?.is_ok() {
        return Ok(true);
    }
    let end = tokio::time::timeout(NOTICED, session.wait()).await.context("the session's end hangs")?;
    println!("the open session ended with {end:?}");
    match end {
        Err(error) => ensure!(is_outage(&error), "it ended with {error}"),
        Ok(status) => ensure!(!status.is_success(), "a session that was cut ended with {status:?}"),
    }
    Ok(false)
}

fn is_outage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Cancelled)
}

async fn survives_its_pod() -> Result<()> {
    let scene = Scene::new(scene::pods().await?, "survives-its-pod").await?;
    let mut session = scene.session().await?;
    let pod = format!("{}-0", scene.name);
    let delete = ["--namespace", scene.pods.namespace(), "delete", "pod", &pod, "--wait=false"];
    let start = Instant::now();
    scene.pods.cluster().kubectl(&delete).await?;
    let (mut told, mut states) = (None, Vec::new());
    loop {
        let asked = start.elapsed();
        let now = scene.status().await?;
        let state = now.status.state();
        if states.last() != Some(&state) {
            println!("{} after the pod was deleted it is {:?}", scene::seconds(asked), now.status);
            states.push(state);
        }
        ensure!(matches!(state, "Starting" | "Running"), "it is {:?}", now.status);
        let is_new = scene::pod(&scene.pods, &scene.name).await?.is_some_and(|now| {
            now.metadata.uid.as_ref() != Some(&scene.pod) && now.metadata.deletion_timestamp.is_none()
        });
        if state == "Starting" || is_new {
            told.get_or_insert(asked);
        }
        ensure!(told.is_some() || asked < TRUE, "it is {:?} of a pod that is being deleted", now.status);
        if state == "Running" && is_new {
            println!("{} after the pod was deleted it runs in a new one", scene::seconds(asked));
            break;
        }
        ensure!(asked < scene::BACK, "it is {:?} still", now.status);
        tokio::time::sleep(PAUSE).await;
    }
    scene.is_back().await?;
    ensure!(!goes_on(&mut session).await?, "a session outlived its pod");
    scene::end(&scene.pods, &scene.provider, &scene.name).await
}

/// One cluster for both: it takes longer to start than either.
async fn survives_the_servers() -> Result<()> {
    let cluster = Cluster::start_with(Options { node_grace: Duration::from_secs(5) }).await?;
    let pods = Arc::new(Pods::on(cluster).await?);
    let scene = Scene::new(pods, "survives-servers").await?;
    survives_the_api_server(&scene).await.context("the API server")?;
    survives_the_kubelet(&scene).await.context("the kubelet")?;
    scene::end(&scene.pods, &scene.provider, &scene.name).await
}

async fn survives_the_api_server(scene: &Scene) -> Result<()> {
    let mut session = scene.session().await?;
    scene.pods.cluster().kill_api_server().await?;
    let start = Instant::now();
    let other = scene::provider(&scene.pods).await?;
    let timeout = Duration::from_secs(4);
    for (who, provider) in [("who knew it", &scene.provider), ("another", &other)] {
        let asked = Instant::now();
        let options = StatusOptions { timeout };
        let error = provider.workspace_status(&scene.name, options).await;
        let error = error.err().context("it has a status without an API server")?;
        println!("{who} is told after {}: {error}", scene::seconds(asked.elapsed()));
        ensure!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "it is told {error}");
        ensure!(asked.elapsed() < TRUE, "it is told after {:?}", asked.elapsed());
    }
    let listed = tokio::time::timeout(scene::BACK, scene.provider.list()).await.context("list hangs")?;
    let error = listed.err().context("it is listed without an API server")?;
    ensure!(is_outage(&error), "list says {error}");
    println!("the outage has lasted {}", scene::seconds(start.elapsed()));
    scene.pods.cluster().start_api_server().await?;
    let ready = Instant::now();
    wait::until(TRUE, "status to be true again", async || {
        let now = scene.status().await?;
        ensure!(now.status.is_running() && now.id == scene.made.id, "it is {now:?}");
        Ok(())
    })
    .await?;
    println!("status is true {} after the API server was ready", scene::seconds(ready.elapsed()));
    scene.is_back().await?;
    println!("the session that was open went on: {}", goes_on(&mut session).await?);
    ensure!(scene::pod_uid(&scene.pods, &scene.name).await? == scene.pod, "the pod is another");
    Ok(())
}

async fn survives_the_kubelet(scene: &Scene) -> Result<()> {
    let mut session = scene.session().await?;
    scene.pods.cluster().kill_kubelet().await?;
    let start = Instant::now();
    let silent = wait::until(TRUE, "status to say that it is not reached", async || {
        let now = scene.status().await?;
        let reached = now.condition("AgentReachable").context("it is not said whether it is reached")?;
        ensure!(reached.status == ConditionStatus::False, "it is {now:?}");
        match now.status {
            WorkspaceStatus::Starting { message } => Ok(message),
            other => bail!("it is {other:?}"),
        }
    })
    .await?;
    println!("{} after the kubelet was killed: {silent}", scene::seconds(start.elapsed()));
    ensure!(silent.contains("agent does not answer"), "it is {silent:?}");
    let asked = Instant::now();
    let error = scene.provider.run(&scene.name, ["true"]).await.err().context("exec works")?;
    println!("exec is told after {}: {error}", scene::seconds(asked.elapsed()));
    ensure!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::InvalidState), "exec says {error}");
    println!("the session that was open went on: {}", goes_on(&mut session).await?);
    scene.pods.cluster().start_kubelet()?;
    let back = Instant::now();
    wait::until(scene::BACK, "it to run again", async || {
        let now = scene.status().await?;
        ensure!(now.status.is_running(), "it is {now:?}");
        Ok(())
    })
    .await?;
    println!("it runs {} after the kubelet was started", scene::seconds(back.elapsed()));
    scene.is_back().await
}
