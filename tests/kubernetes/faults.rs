//! Every call to the API server fails once, in every way that says something new.
//!
//! The requests of an undisturbed operation are recorded through a proxy; then each of them is broken in an operation of
//! its own. The client is as users have it, with its own retries. The full product would take an hour with real pods,
//! so it is sampled, the same way every time: a call that changes something is broken in each of the four ways in which
//! the server does it and its answer is lost, and in two of the nine others in rotation; one that reads or watches, where
//! "after" is as good as "before", in two of the nine. Of calls of one kind, such as the attempts to reach the agent, the
//! first [`NTH_MAX`] count. Two things are cheaper and no less true: a delete is broken with a pod that fits on no node,
//! which is an object as any other, and status and list, which change nothing, take the full product on one workspace.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use kled_core::provider::{
    CreateOptions, DeleteOptions, ListOptions, Provider as _, ProviderExt as _, StartOptions, StatusOptions,
    StopOptions,
};
use kled_core::workspace::{ConditionStatus, Operation, Workspace, WorkspaceStatus};
use kled_core::{Error, ErrorKind, WorkspaceName};
use kled_providers::kubernetes::KubernetesProvider;
use kled_tests::fault_proxy::{ApiRequest, Fault, FaultProxy, Verb};
use kled_tests::kubeconfig;
use kled_tests::kubernetes::Pods;
use kled_tests::suite::Suite;
use kube::Api;

use crate::scene;

/// Workspaces that are broken at a time.
const PARALLEL: usize = 8;

/// Calls of one kind that are broken.
const NTH_MAX: usize = 2;

/// What an operation may take that is broken for good: it ends by this.
const HANGS: Duration = Duration::from_secs(8);

/// What an operation may take else.
const TAKES: Duration = Duration::from_secs(60);

pub(crate) fn cases(mut suite: Suite) -> Suite {
    suite = scene::alone(suite, "create survives a fault at every call", survives_in_create);
    suite = scene::alone(suite, "delete survives a fault at every call", survives_in_delete);
    suite = scene::alone(suite, "stop and start survive a fault at every call", survives_in_stop_and_start);
    scene::alone(suite, "status and list tell every fault as what it is", told_by_status_and_list)
}

/// One call of an operation, found again by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    verb: Verb,
    resource: String,
    nth: usize,
}

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} #{}", self.verb, self.resource, self.nth)
    }
}

impl Call {
    /// The calls of an operation in their order.
    fn all(requests: &[ApiRequest]) -> Vec<Self> {
        let mut seen = HashMap::new();
        let calls = requests.iter().map(|request| {
            let nth = seen.entry((request.verb, request.resource.clone())).or_insert(0);
            *nth += 1;
            Self { verb: request.verb, resource: request.resource.clone(), nth: *nth }
        });
        calls.filter(|call| call.nth <= NTH_MAX).collect()
    }

    fn changes(&self) -> bool {
        matches!(self.verb, Verb::Create | Verb::Update | Verb::Patch | Verb::Delete)
    }

    /// Lets this one fail.
    fn break_in(&self, proxy: &FaultProxy, fault: Fault) {
        let (verb, resource, nth, seen) =
            (self.verb, self.resource.clone(), self.nth, AtomicUsize::default());
        let is_meant = move |request: &ApiRequest| {
            request.verb == verb
                && request.resource == resource
                && seen.fetch_add(1, Ordering::Relaxed) + 1 == nth
        };
        proxy.break_next(is_meant, fault);
    }
}

/// Every call with the faults that it is broken by.
fn sampled(calls: Vec<Call>) -> Vec<(Call, Fault)> {
    let (after, before): (Vec<_>, Vec<_>) = Fault::ALL.into_iter().partition(|fault| fault.is_after());
    let mut rotation = before.into_iter().cycle();
    let mut pairs = Vec::new();
    for call in calls {
        let lost = if call.changes() { after.as_slice() } else { &[] };
        pairs.extend(lost.iter().map(|fault| (call.clone(), *fault)));
        pairs.extend(rotation.by_ref().take(2).map(|fault| (call.clone(), fault)));
    }
    pairs
}

fn hangs(fault: Fault) -> bool {
    fault == Fault::HANG || fault == Fault::HANG.after()
}

fn limit(fault: Fault) -> Duration {
    if hangs(fault) { HANGS } else { TAKES }
}

/// Whether an error is one that this fault may become.
fn check(fault: Fault, error: &Error) -> Result<()> {
    use ErrorKind::{Conflict, PermissionDenied, Timeout, Unauthenticated, Unavailable};
    let kinds: &[ErrorKind] = match fault {
        Fault::UNAUTHORIZED => &[Unauthenticated],
        Fault::FORBIDDEN => &[PermissionDenied],
        Fault::CONFLICT => &[Conflict],
        _ if hangs(fault) => &[Timeout],
        Fault::GATEWAY_TIMEOUT => &[Unavailable, Timeout],
        _ => &[Unavailable],
    };
    ensure!(kinds.contains(&error.kind()), "it is told as {}: {error}", error.kind());
    Ok(())
}

/// A provider whose requests can be broken.
struct Broken {
    proxy: FaultProxy,
    provider: KubernetesProvider,
}

impl Broken {
    async fn new(pods: &Pods) -> Result<Self> {
        let proxy = FaultProxy::start(pods.cluster().kubeconfig()).await?;
        let client = kubeconfig::client(proxy.kubeconfig()).await?;
        let provider = pods.builder().client(client).build().await?;
        Ok(Self { proxy, provider })
    }

    /// Whether the call was made at all.
    fn has_failed(&self) -> bool {
        self.proxy.requests().iter().any(|request| request.fault.is_some())
    }
}

/// What came of all the trials of one operation.
struct Tally {
    what: &'static str,
    start: Instant,
    trials: usize,
    missed: Vec<String>,
    wrong: Vec<String>,
    kinds: HashMap<String, usize>,
}

/// What came of one: whether the call was made, and how it ended.
type Trial = Result<(bool, Result<(), ErrorKind>)>;

impl Tally {
    fn new(what: &'static str) -> Self {
        let (missed, wrong, kinds) = (Vec::new(), Vec::new(), HashMap::new());
        Self { what, start: Instant::now(), trials: 0, missed, wrong, kinds }
    }

    fn add(&mut self, trial: String, came: Trial) {
        self.trials += 1;
        match came {
            Err(error) => {
                println!("{}: {trial}: {error:#}", self.what);
                self.wrong.push(format!("{trial}: {error:#}"));
            }
            Ok((was_made, end)) => {
                if !was_made {
                    self.missed.push(trial);
                }
                let end = end.map_or_else(|kind| kind.to_string(), |()| "success".into());
                *self.kinds.entry(end).or_default() += 1;
            }
        }
    }

    /// A race decides how often something is watched or tried, so a few may not be made.
    fn end(self) -> Result<()> {
        let took = scene::seconds(self.start.elapsed());
        println!(
            "{}: {} trials in {took}: {:?}; never made: {:?}",
            self.what, self.trials, self.kinds, self.missed
        );
        ensure!(self.wrong.is_empty(), "{} of {}:\n{}", self.wrong.len(), self.trials, self.wrong.join("\n"));
        ensure!(self.missed.len() * 5 <= self.trials, "never made: {:?}", self.missed);
        Ok(())
    }
}

/// Breaks every pair, several at a time, each in a workspace of its own.
async fn each<Body, Ending>(what: &'static str, pairs: Vec<(Call, Fault)>, body: Body) -> Result<()>
where
    Body: Fn(usize, Call, Fault) -> Ending,
    Ending: Future<Output = Trial>,
{
    let mut tally = Tally::new(what);
    let body = &body;
    let trials = pairs.into_iter().enumerate().map(|(number, (call, fault))| async move {
        let trial = format!("{call}, {fault}");
        (trial, body(number, call, fault).await)
    });
    let mut trials = futures::stream::iter(trials).buffer_unordered(PARALLEL);
    while let Some((trial, came)) = trials.next().await {
        tally.add(trial, came);
    }
    tally.end()
}

async fn set(pods: &Pods, name: &WorkspaceName) -> Result<Option<StatefulSet>> {
    let sets: Api<StatefulSet> = Api::namespaced(pods.cluster().client(), pods.namespace());
    Ok(sets.get_opt(name.as_str()).await?)
}

/// What status says, held against the cluster.
async fn true_status(
    pods: &Pods,
    healthy: &KubernetesProvider,
    name: &WorkspaceName,
) -> Result<Option<Workspace>> {
    let said = healthy.status(name).await;
    let set = set(pods, name).await?;
    match (said, set) {
        (Ok(workspace), Some(set)) => {
            let annotations = set.metadata.annotations.unwrap_or_default();
            let is_made = annotations.contains_key("kled.io/commit");
            let replicas = set.spec.and_then(|spec| spec.replicas).unwrap_or(1);
            let state = workspace.status.state();
            let is_true = match state {
                "Creating" | "Interrupted" => !is_made,
                "Running" | "Starting" => is_made && replicas == 1,
                "Stopped" => is_made && replicas == 0,
                _ => set.metadata.deletion_timestamp.is_some(),
            };
            ensure!(is_true, "status says {state}, and the cluster made: {is_made}, replicas: {replicas}");
            Ok(Some(workspace))
        }
        (Err(error), None) if error.kind() == ErrorKind::NotFound => Ok(None),
        (Err(error), None) => bail!("status of nothing: {error}"),
        (Err(error), Some(_)) => bail!("status of what is there: {error}"),
        // It went between the two looks.
        (Ok(workspace), None) if workspace.status == WorkspaceStatus::Deleting => Ok(None),
        (Ok(workspace), None) => bail!("status of what is not there: {:?}", workspace.status),
    }
}

async fn survives_in_create() -> Result<()> {
    let pods = scene::pods().await?;
    let healthy = scene::provider(&pods).await?;
    let name = scene::name("recorded")?;
    let broken = Broken::new(&pods).await?;
    let start = Instant::now();
    scene::made(&pods, &broken.provider, &name).await?;
    let calls = Call::all(&broken.proxy.requests());
    println!(
        "a create takes {} and {} requests",
        scene::seconds(start.elapsed()),
        broken.proxy.requests().len()
    );
    let complete = pods.left(&name).await?;
    ensure!(complete.len() >= 6, "a workspace is only {complete:?}");
    scene::end(&pods, &healthy, &name).await?;
    let pairs = sampled(calls);
    each("create", pairs, |number, call, fault| {
        broken_create(&pods, &healthy, &complete, number, call, fault)
    })
    .await
}

async fn broken_create(
    pods: &Pods,
    healthy: &KubernetesProvider,
    complete: &[String],
    number: usize,
    call: Call,
    fault: Fault,
) -> Trial {
    let name = scene::name(&format!("broken-{number}"))?;
    let (spec, broken) = (scene::small(pods)?, Broken::new(pods).await?);
    call.break_in(&broken.proxy, fault);
    let options = CreateOptions { timeout: limit(fault), ..CreateOptions::default() };
    let created = broken.provider.create_workspace(&name, &spec, options).await;
    let was_made = broken.has_failed();
    let now = true_status(pods, healthy, &name).await?;
    match &created {
        Ok(created) => {
            let now = now.as_ref().context("it was created and is not there")?;
            ensure!(now.id == created.id && now.status.is_running(), "created, and {:?}", now.status);
        }
        Err(error) => check(fault, error)?,
    }
    if number.is_multiple_of(2) {
        let again = healthy.create(&name, &spec).await.context("the same create")?;
        ensure!(again.status.is_running(), "the same create gives {:?}", again.status);
        ensure!(now.is_none_or(|now| now.id == again.id), "the same create made another one");
        let expected: Vec<String> =
            complete.iter().map(|one| one.replace("recorded", name.as_str())).collect();
        let objects = pods.left(&name).await?;
        ensure!(objects == expected, "the workspace is {objects:?}");
    }
    scene::end(pods, healthy, &name).await.context("delete")?;
    Ok((was_made, created.map(drop).map_err(|error| error.kind())))
}

/// Makes a workspace whose pod fits on no node; the create says so.
async fn unschedulable(pods: &Pods, name: &WorkspaceName) -> Result<()> {
    let builder = pods.builder().node_selector("kled.test/no-such-label", "yes");
    let provider = builder.unschedulable_patience(Duration::from_millis(10)).build().await?;
    let error = provider.create(name, &scene::small(pods)?).await.err().context("it fits")?;
    ensure!(error.kind() == ErrorKind::QuotaExceeded, "it says {error}");
    Ok(())
}

async fn survives_in_delete() -> Result<()> {
    let pods = scene::pods().await?;
    let healthy = scene::provider(&pods).await?;
    let name = scene::name("recorded-delete")?;
    unschedulable(&pods, &name).await?;
    let broken = Broken::new(&pods).await?;
    scene::end(&pods, &broken.provider, &name).await?;
    let pairs = sampled(Call::all(&broken.proxy.requests()));
    each("delete", pairs, |number, call, fault| broken_delete(&pods, &healthy, number, call, fault)).await
}

async fn broken_delete(
    pods: &Pods,
    healthy: &KubernetesProvider,
    number: usize,
    call: Call,
    fault: Fault,
) -> Trial {
    let name = scene::name(&format!("broken-delete-{number}"))?;
    unschedulable(pods, &name).await?;
    let broken = Broken::new(pods).await?;
    call.break_in(&broken.proxy, fault);
    let options = DeleteOptions { timeout: limit(fault), ..DeleteOptions::default() };
    let deleted = broken.provider.delete_workspace(&name, options).await;
    let was_made = broken.has_failed();
    true_status(pods, healthy, &name).await?;
    match &deleted {
        Ok(_) => {
            let left = pods.left(&name).await?;
            ensure!(left.is_empty(), "deleted, and there is {left:?}");
        }
        Err(error) => check(fault, error)?,
    }
    scene::end(pods, healthy, &name).await.context("delete again")?;
    Ok((was_made, deleted.map(drop).map_err(|error| error.kind())))
}

/// Stops or starts a workspace through something that breaks.
async fn change(
    broken: &Broken,
    operation: Operation,
    name: &WorkspaceName,
    timeout: Duration,
) -> Result<Workspace, Error> {
    match operation {
        Operation::Stop => {
            let options = StopOptions { timeout, ..StopOptions::default() };
            broken.provider.stop_workspace(name, options).await
        }
        _ => {
            let options = StartOptions { timeout, ..StartOptions::default() };
            broken.provider.start_workspace(name, options).await
        }
    }
}

/// Workers with a workspace each take turns: what is broken in a stop is repaired by a stop, and so for a start.
async fn survives_in_stop_and_start() -> Result<()> {
    let pods = scene::pods().await?;
    let healthy = scene::provider(&pods).await?;
    let name = scene::name("recorded-stop")?;
    scene::made(&pods, &healthy, &name).await?;
    let mut pairs = Vec::new();
    for operation in [Operation::Stop, Operation::Start] {
        let broken = Broken::new(&pods).await?;
        change(&broken, operation, &name, TAKES).await?;
        let calls = Call::all(&broken.proxy.requests());
        pairs.push(sampled(calls));
    }
    scene::end(&pods, &healthy, &name).await?;
    let (stops, starts) = (pairs.remove(0), pairs.remove(0));
    let rounds = stops.len().max(starts.len());
    let rounds: Vec<_> = (0..rounds).map(|at| [stops.get(at).cloned(), starts.get(at).cloned()]).collect();
    let workers = (0..PARALLEL).map(|worker| {
        let turns: Vec<_> = rounds.iter().skip(worker).step_by(PARALLEL).cloned().collect();
        let (pods, healthy) = (&pods, &healthy);
        async move {
            let name = scene::name(&format!("stops-and-starts-{worker}"))?;
            scene::made(pods, healthy, &name).await?;
            scene::shell(healthy, &name, "echo kept > kept").await?;
            let mut came = Vec::new();
            for [stop, start] in turns {
                came.extend(broken_change(pods, healthy, &name, Operation::Stop, stop).await);
                healthy.stop(&name).await.context("stop again")?;
                came.extend(broken_change(pods, healthy, &name, Operation::Start, start).await);
                healthy.start(&name).await.context("start again")?;
                let kept = scene::shell(healthy, &name, "cat kept").await?;
                ensure!(kept == "kept\n", "its data is {kept:?}");
            }
            scene::end(pods, healthy, &name).await?;
            anyhow::Ok(came)
        }
    });
    let mut tally = Tally::new("stop and start");
    for came in futures::future::join_all(workers).await {
        match came {
            Ok(came) => came.into_iter().for_each(|(trial, came)| tally.add(trial, came)),
            Err(error) => tally.add("a worker".into(), Err(error)),
        }
    }
    tally.end()
}

async fn broken_change(
    pods: &Pods,
    healthy: &KubernetesProvider,
    name: &WorkspaceName,
    operation: Operation,
    pair: Option<(Call, Fault)>,
) -> Option<(String, Trial)> {
    let (call, fault) = pair?;
    let trial = format!("{operation}: {call}, {fault}");
    let came = async {
        let broken = Broken::new(pods).await?;
        call.break_in(&broken.proxy, fault);
        let changed = change(&broken, operation, name, limit(fault)).await;
        let was_made = broken.has_failed();
        let now = true_status(pods, healthy, name).await?.context("it is gone")?;
        match &changed {
            Ok(changed) => {
                ensure!(
                    now.status.state() == changed.status.state(),
                    "{:?}: {:?}",
                    changed.status,
                    now.status
                );
                let wanted = if operation == Operation::Stop { "Stopped" } else { "Running" };
                ensure!(now.status.state() == wanted, "it is {:?}", now.status);
            }
            Err(error) => check(fault, error)?,
        }
        Ok((was_made, changed.map(drop).map_err(|error| error.kind())))
    };
    let came = came.await;
    Some((trial, came))
}

/// Of a workspace that runs, and by a provider that knows nothing of it yet.
async fn told_by_status_and_list() -> Result<()> {
    let pods = scene::pods().await?;
    let healthy = scene::provider(&pods).await?;
    let name = scene::name("told")?;
    let made = scene::made(&pods, &healthy, &name).await?;
    // Who may not ask the agent is told what the kubelet says.
    crate::objects::is_ready(&pods, &name).await?;
    for (what, is_list) in [("status", false), ("list", true)] {
        let broken = Broken::new(&pods).await?;
        read(&broken, is_list, &name, TAKES).await?;
        let calls = Call::all(&broken.proxy.requests());
        let pairs =
            calls.iter().flat_map(|call| Fault::ALL.into_iter().map(move |fault| (call.clone(), fault)));
        let (pods, name, made) = (&pods, &name, &made);
        each(what, pairs.collect(), |_, call, fault| async move {
            let broken = Broken::new(pods).await?;
            call.break_in(&broken.proxy, fault);
            let limit = if hangs(fault) { Duration::from_secs(3) } else { TAKES };
            let said = read(&broken, is_list, name, limit).await;
            let was_made = broken.has_failed();
            match &said {
                Ok(said) => {
                    ensure!(said.id == made.id, "it is another");
                    // It runs; that its agent was not reached is the other thing that can be said.
                    let is_silent = said
                        .condition("AgentReachable")
                        .is_some_and(|reached| reached.status == ConditionStatus::False);
                    let state = said.status.state();
                    ensure!(
                        state == "Running" || state == "Starting" && is_silent,
                        "it is {:?}",
                        said.status
                    );
                }
                Err(error) => check(fault, error)?,
            }
            Ok((was_made, said.map(drop).map_err(|error| error.kind())))
        })
        .await?;
    }
    scene::end(&pods, &healthy, &name).await
}

async fn read(
    broken: &Broken,
    is_list: bool,
    name: &WorkspaceName,
    timeout: Duration,
) -> Result<Workspace, Error> {
    if !is_list {
        let options = StatusOptions { timeout };
        return broken.provider.workspace_status(name, options).await;
    }
    let options = ListOptions { timeout, ..ListOptions::default() };
    let list: Vec<_> = broken.provider.list_workspaces(options).try_collect().await?;
    let missing = || Error::new(ErrorKind::NotFound, "it is not listed");
    list.into_iter().find(|workspace| workspace.name == *name).ok_or_else(missing)
}
