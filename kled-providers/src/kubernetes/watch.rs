//! Waiting for the cluster: watches instead of polling.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use kube::runtime::watcher::{self, watch_object};
use kube::runtime::{WatchStreamExt, watcher as watch_kind};
use tokio::time::Instant;

use super::Context;
use super::client::Claimed;
use super::marks::{Marks, claim_name, object_name, pod_name};
use super::status::{Observation, Obstacle};
use crate::agent::{AgentClient, Token};

/// Between two attempts to reach an agent whose pod has a node.
const ATTEMPT: Duration = Duration::from_millis(100);

/// How long an attempt may take until the next one is worth more.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Warnings that are kept.
const EVENTS_MAX: usize = 64;

/// How long the API server may be away until a wait gives up.
const OUTAGE_LIMIT: Duration = Duration::from_secs(30);

/// For how long the API server has been away.
#[derive(Default)]
struct Outage(Option<Instant>);

impl Outage {
    /// An attempt failed: an error when it has gone on for too long.
    fn goes_on(&mut self, cause: watcher::Error) -> Result<()> {
        let since = *self.0.get_or_insert_with(Instant::now);
        if since.elapsed() <= OUTAGE_LIMIT {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "the cluster cannot be watched").because(cause))
    }

    fn is_over(&mut self) {
        self.0 = None;
    }
}

/// What the watches bring.
enum Change {
    Set(Option<Box<StatefulSet>>),
    Pod(Option<Box<Pod>>),
    Claim(Option<Box<PersistentVolumeClaim>>),
    Warning(Box<Event>),
    Failed(watcher::Error),
}

/// A workspace as it changes.
pub(super) struct Watch {
    changes: SelectAll<BoxStream<'static, Change>>,
    set: Option<Option<Box<StatefulSet>>>,
    pod: Option<Box<Pod>>,
    claim: Option<Box<PersistentVolumeClaim>>,
    warnings: VecDeque<Event>,
    outage: Outage,
}

impl Watch {
    pub(super) fn new(context: &Context, name: &WorkspaceName) -> Self {
        let cluster = &context.cluster;
        let mut changes = SelectAll::new();
        let sets = watch_object(cluster.sets(), &object_name(name));
        changes.push(sets.map(|set| told(set, |set| Change::Set(set.map(Box::new)))).boxed());
        let pods = watch_object(cluster.pods(), &pod_name(name));
        changes.push(pods.map(|pod| told(pod, |pod| Change::Pod(pod.map(Box::new)))).boxed());
        let claims = watch_object(cluster.claims(), &claim_name(name));
        changes.push(claims.map(|claim| told(claim, |claim| Change::Claim(claim.map(Box::new)))).boxed());
        let involved = [object_name(name), pod_name(name), claim_name(name)];
        let configuration = watcher::Config::default().fields("type=Warning");
        let warnings = watch_kind(cluster.events(), configuration).default_backoff().applied_objects();
        let warnings = warnings.try_filter(move |event| {
            let of_this = event.involved_object.name.as_ref().is_some_and(|name| involved.contains(name));
            std::future::ready(of_this)
        });
        changes.push(warnings.map(|event| told(event, |event| Change::Warning(Box::new(event)))).boxed());
        Self {
            changes,
            set: None,
            pod: None,
            claim: None,
            warnings: VecDeque::new(),
            outage: Outage::default(),
        }
    }

    /// Waits for the next change.
    pub(super) async fn next(&mut self) -> Result<()> {
        match self.changes.next().await {
            Some(Change::Failed(cause)) => return self.outage.goes_on(cause),
            Some(Change::Set(set)) => self.set = Some(set),
            Some(Change::Pod(pod)) => self.pod = pod,
            Some(Change::Claim(claim)) => self.claim = claim,
            Some(Change::Warning(event)) => {
                if self.warnings.len() >= EVENTS_MAX {
                    self.warnings.pop_front();
                }
                self.warnings.push_back(*event);
            }
            None => return Err(Error::new(ErrorKind::Unavailable, "the watches of the cluster ended")),
        }
        self.outage.is_over();
        Ok(())
    }

    /// What is known. `None` until the StatefulSet was seen, `Some(None)` when there is none of a workspace.
    pub(super) fn observation(&self) -> Result<Option<Option<Observation>>> {
        let Some(set) = &self.set else { return Ok(None) };
        let Some(set) = set else { return Ok(Some(None)) };
        let Some(marks) = Marks::read(&set.metadata)? else { return Ok(Some(None)) };
        Ok(Some(Some(Observation {
            marks,
            set: (**set).clone(),
            pod: self.pod.as_deref().cloned(),
            claim: self.claim.as_deref().cloned(),
            events: self.warnings.iter().cloned().collect(),
            agent: None,
        })))
    }

    /// The observation, if the StatefulSet is still the one of this identity and not on its way out.
    fn still(&self, uid: &str) -> Result<Option<Observation>> {
        match self.observation()? {
            None => Ok(None),
            Some(Some(observation)) if observation.is(uid) => Ok(Some(observation)),
            Some(_) => Err(overtaken()),
        }
    }
}

fn told<K>(item: watcher::Result<K>, change: impl FnOnce(K) -> Change) -> Change {
    match item {
        Ok(object) => change(object),
        Err(cause) => Change::Failed(cause),
    }
}

impl Observation {
    fn is(&self, uid: &str) -> bool {
        self.set.metadata.uid.as_deref() == Some(uid) && !self.is_deleting()
    }

    /// True when a node has the pod, so that its ports can be asked for. That the pod has an address by now is told by the
    /// kubelet up to a second after the agent listens.
    pub(super) fn has_node(&self) -> bool {
        let spec = self.pod.as_ref().and_then(|pod| pod.spec.as_ref());
        self.pod_uid().is_some() && spec.is_some_and(|spec| spec.node_name.is_some())
    }
}

pub(super) fn overtaken() -> Error {
    Error::new(ErrorKind::Cancelled, "the workspace was deleted meanwhile")
}

/// Waits out what may pass by itself.
#[derive(Default)]
struct Patience(Option<(Obstacle, Instant)>);

impl Patience {
    /// The obstacle, when it has stood for long enough.
    fn exhausted(&mut self, obstacle: Option<Obstacle>, unschedulable: Duration) -> Option<Obstacle> {
        let Some(obstacle) = obstacle.filter(|obstacle| obstacle.is_final) else {
            self.0 = None;
            return None;
        };
        if obstacle.reason != "Unschedulable" {
            return Some(obstacle);
        }
        match &self.0 {
            Some((known, since)) if known.reason == obstacle.reason => {
                (since.elapsed() >= unschedulable).then_some(obstacle)
            }
            _ => {
                self.0 = Some((obstacle, Instant::now()));
                None
            }
        }
    }
}

impl Context {
    /// Does something, and gives it up when the workspace is deleted meanwhile.
    pub(super) async fn unless_deleted<T>(
        &self,
        name: &WorkspaceName,
        uid: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let sets = watch_object(self.cluster.sets(), &object_name(name));
        let deleted = self.until(sets, |set: &Option<StatefulSet>| {
            set.as_ref().is_none_or(|set| {
                set.metadata.uid.as_deref() != Some(uid) || set.metadata.deletion_timestamp.is_some()
            })
        });
        let deleted = async {
            match deleted.await {
                Ok(_) => overtaken(),
                // What cannot be watched just now is the work's to find out.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            result = work => result,
            error = deleted => Err(error),
        }
    }

    /// Waits until the agent of the workspace answers, or until the cluster says why it cannot.
    pub(super) async fn until_reachable(
        &self,
        name: &WorkspaceName,
        uid: &str,
        token: &Token,
    ) -> Result<AgentClient> {
        let mut watch = Watch::new(self, name);
        let mut patience = Patience::default();
        let mut attempts = std::pin::pin!(self.attempts(name, token));
        let mut has_node = false;
        loop {
            if let Some(observation) = watch.still(uid)? {
                if !observation.has_pods() {
                    return Err(Error::new(ErrorKind::Cancelled, "the workspace was stopped meanwhile"));
                }
                let unschedulable = self.settings.unschedulable_patience;
                if let Some(obstacle) = patience.exhausted(observation.obstacle(), unschedulable) {
                    return Err(obstacle.error());
                }
                has_node = observation.has_node();
            }
            tokio::select! {
                changed = watch.next() => changed?,
                client = &mut attempts, if has_node => return client,
                () = tokio::time::sleep(ATTEMPT) => {}
            }
        }
    }

    /// Tries to reach the agent until it answers.
    async fn attempts(&self, name: &WorkspaceName, token: &Token) -> Result<AgentClient> {
        loop {
            let attempt = tokio::time::timeout(ATTEMPT_LIMIT, self.connect_agent(name, token)).await;
            match attempt.unwrap_or_else(|_| Err(Error::timeout("connect", ATTEMPT_LIMIT))) {
                Ok((client, _)) => return Ok(client),
                // Not listening yet, as the kubelet, the API server or the connection tells it.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Unavailable
                            | ErrorKind::NotFound
                            | ErrorKind::InvalidInput
                            | ErrorKind::Internal
                            | ErrorKind::Timeout
                    ) =>
                {
                    tracing::trace!(workspace = %name, %error, "the agent does not answer yet");
                    tokio::time::sleep(ATTEMPT).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until there is no pod of the workspace. One of another workspace of the name is not waited for.
    pub(super) async fn until_no_pod(&self, name: &WorkspaceName, pod_uid: Option<&str>) -> Result<()> {
        let Some(uid) = pod_uid else { return Ok(()) };
        let pods = watch_object(self.cluster.pods(), &pod_name(name));
        self.until(pods, |pod: &Option<Pod>| {
            pod.as_ref().is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid))
        })
        .await
        .map(drop)
    }

    /// Waits until the StatefulSet of this identity is gone.
    pub(super) async fn until_gone(&self, claimed: &Claimed) -> Result<()> {
        let sets = watch_object(self.cluster.sets(), &object_name(&claimed.marks.name));
        self.until(sets, |set: &Option<StatefulSet>| {
            set.as_ref().is_none_or(|set| set.metadata.uid.as_deref() != Some(claimed.uid()))
        })
        .await
        .map(drop)
    }

    /// Waits until whoever is at it is done, or has not renewed in time.
    pub(super) async fn until_settled(&self, claimed: &Claimed) -> Result<()> {
        let sets = watch_object(self.cluster.sets(), &object_name(&claimed.marks.name));
        let renewed = claimed.marks.under_way.clone();
        let settled = self.until(sets, |set: &Option<StatefulSet>| {
            let marks = set.as_ref().and_then(|set| Marks::read(&set.metadata).ok().flatten());
            marks.is_none_or(|marks| {
                marks.under_way.as_ref().map(|now| now.holder) != renewed.as_ref().map(|then| then.holder)
                    || marks.under_way.is_some_and(|under_way| !under_way.is_fresh(Timestamp::now()))
            })
        });
        // A holder that renews no more changes nothing that could be watched.
        match tokio::time::timeout(super::marks::LEASE, settled).await {
            Ok(result) => result.map(drop),
            Err(_) => Ok(()),
        }
    }

    async fn until<K>(
        &self,
        objects: impl futures::Stream<Item = watcher::Result<Option<K>>>,
        is_true: impl Fn(&Option<K>) -> bool,
    ) -> Result<Option<K>> {
        let mut objects = std::pin::pin!(objects);
        let mut outage = Outage::default();
        loop {
            match objects.next().await {
                Some(Ok(object)) if is_true(&object) => return Ok(object),
                Some(Ok(_)) => outage.is_over(),
                Some(Err(cause)) => outage.goes_on(cause)?,
                None => return Err(Error::new(ErrorKind::Unavailable, "the watch of the cluster ended")),
            }
        }
    }
}
