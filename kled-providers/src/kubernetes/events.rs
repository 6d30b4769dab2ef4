//! Events, kept where Kubernetes users look for them: on the StatefulSet, beside those of the controllers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as Kept, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kled_core::provider::{Event, Progress, Severity};
use kled_core::workspace::Operation;
use kled_core::{Error, Result, WorkspaceName};
use kube::api::{ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinSet;

use super::Context;
use super::client::{Claimed, Cluster};
use super::error::from_kube;
use super::marks::{FIELD_MANAGER, claim_name, labels, object_name, pod_name};
use super::status::time;

/// The annotation that says in which operation an event of ours happened.
const OPERATION: &str = "kled.io/operation";

/// The longest message that Kubernetes takes.
const MESSAGE_MAX: usize = 1024;

/// How long the last events of an operation may take to be written.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Different events of one operation that are kept; progress may have many lines.
const KEPT_MAX: usize = 16;

/// Tells the progress of one operation, and keeps the first event of each reason in the cluster.
#[derive(Clone)]
pub(super) struct Reporter {
    cluster: Cluster,
    progress: Progress,
    name: WorkspaceName,
    operation: Operation,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    set: Option<Claimed>,
    waiting: Vec<Event>,
    reasons: Vec<String>,
    writing: JoinSet<()>,
}

impl Reporter {
    pub(super) fn new(
        cluster: &Cluster,
        progress: &Progress,
        name: &WorkspaceName,
        operation: Operation,
    ) -> Self {
        Self {
            cluster: cluster.clone(),
            progress: progress.clone(),
            name: name.clone(),
            operation,
            state: Arc::default(),
        }
    }

    /// From now on events are kept with this StatefulSet.
    pub(super) fn attach(&self, claimed: &Claimed) {
        let waiting = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.set = Some(claimed.clone());
            std::mem::take(&mut state.waiting)
        };
        for event in waiting {
            self.keep(event);
        }
    }

    pub(super) fn say(&self, reason: &str, message: impl Into<String>) {
        self.tell(Severity::Normal, reason, message.into());
    }

    pub(super) fn tell(&self, severity: Severity, reason: &str, message: String) {
        let event = Event {
            time: Timestamp::now(),
            workspace: self.name.clone(),
            operation: self.operation,
            severity,
            reason: reason.into(),
            message,
            step: None,
        };
        self.progress.report(event.clone());
        self.keep(event);
    }

    fn keep(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.reasons.contains(&event.reason) || state.reasons.len() >= KEPT_MAX {
            return;
        }
        let Some(claimed) = &state.set else {
            state.waiting.push(event);
            return;
        };
        let kept = to_kubernetes(claimed, self.cluster.namespace(), &event);
        state.reasons.push(event.reason);
        let events = self.cluster.events();
        state.writing.spawn(async move {
            // An event is told to whoever waits in any case; one that cannot be kept stops nothing.
            if let Err(error) = events.create(&PostParams::default(), &kept).await {
                tracing::warn!(%error, "an event cannot be kept");
            }
        });
    }

    /// Says how it failed, if it did, and waits until all is kept.
    pub(super) async fn finish(&self, failure: Option<&Error>) {
        if let Some(error) = failure {
            self.tell(Severity::Warning, "Failed", error.to_string());
        }
        let mut writing = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut state.writing)
        };
        let all = async { while writing.join_next().await.is_some() {} };
        let _late = tokio::time::timeout(FLUSH_LIMIT, all).await;
    }
}

fn to_kubernetes(claimed: &Claimed, namespace: &str, event: &Event) -> Kept {
    let name = object_name(&claimed.marks.name);
    let uid = Some(claimed.uid().to_owned());
    let mut message = event.message.clone();
    while message.len() > MESSAGE_MAX {
        message.pop();
    }
    let time = Time(event.time);
    Kept {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}.")),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels(&claimed.marks.name, &claimed.marks.spec)),
            annotations: Some([(OPERATION.to_owned(), event.operation.as_str().to_owned())].into()),
            // Goes with the workspace, instead of naming one that is gone for an hour.
            owner_references: Some(vec![OwnerReference {
                api_version: "apps/v1".into(),
                kind: "StatefulSet".into(),
                name: name.clone(),
                uid: claimed.uid().to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("apps/v1".into()),
            kind: Some("StatefulSet".into()),
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            uid,
            ..ObjectReference::default()
        },
        reason: Some(event.reason.clone()),
        message: Some(message),
        type_: Some(match event.severity {
            Severity::Warning => "Warning".into(),
            Severity::Normal => "Normal".into(),
        }),
        action: Some(event.operation.as_str().into()),
        event_time: Some(MicroTime(event.time)),
        first_timestamp: Some(time.clone()),
        last_timestamp: Some(time),
        reporting_component: Some("kled.io/provider".into()),
        reporting_instance: Some(FIELD_MANAGER.into()),
        ..Kept::default()
    }
}

/// An event of the cluster as one of the workspace. What controllers say has no operation of ours; it is said of a
/// workspace that is being brought up.
fn from_kubernetes(name: &WorkspaceName, kept: &Kept) -> Event {
    let operation = kept.metadata.annotations.as_ref().and_then(|annotations| annotations.get(OPERATION));
    let known = [Operation::Create, Operation::Start, Operation::Stop, Operation::Delete];
    let operation = operation.and_then(|text| known.into_iter().find(|known| known.as_str() == text));
    // Written to the microsecond there, to the second elsewhere.
    let exact = kept.event_time.as_ref().map(|time| time.0);
    Event {
        time: exact.or_else(|| time(kept)).unwrap_or(Timestamp::UNIX_EPOCH),
        workspace: name.clone(),
        operation: operation.unwrap_or(Operation::Start),
        severity: match kept.type_.as_deref() {
            Some("Warning") => Severity::Warning,
            _ => Severity::Normal,
        },
        reason: kept.reason.clone().unwrap_or_default(),
        message: kept.message.clone().unwrap_or_default(),
        step: None,
    }
}

impl Context {
    /// What Kubernetes warns of about the objects of a workspace.
    pub(super) async fn warnings(&self, name: &WorkspaceName) -> Result<Vec<Kept>> {
        self.kept(name, "type=Warning").await
    }

    async fn kept(&self, name: &WorkspaceName, fields: &str) -> Result<Vec<Kept>> {
        let involved = [object_name(name), pod_name(name), claim_name(name)];
        let lists = involved.map(|object| {
            let separator = if fields.is_empty() { "" } else { "," };
            let fields = format!("involvedObject.name={object}{separator}{fields}");
            async move { self.cluster.events().list(&ListParams::default().fields(&fields)).await }
        });
        let lists = futures::future::try_join_all(lists).await.map_err(from_kube)?;
        Ok(lists.into_iter().flat_map(|list| list.items).collect())
    }

    pub(super) async fn events(
        &self,
        name: &WorkspaceName,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        self.faults.at(Operation::Events, "read").await?;
        let claimed = self.cluster.claimed(name).await?.ok_or_else(|| Error::workspace_not_found(name))?;
        if !follow {
            let mut events: Vec<_> =
                self.kept(name, "").await?.iter().map(|kept| from_kubernetes(name, kept)).collect();
            events.sort_by_key(|event| event.time);
            return Ok(futures::stream::iter(events.into_iter().map(Ok)).boxed());
        }
        let involved = [object_name(name), pod_name(name), claim_name(name)];
        let name_of_events = name.clone();
        let events = watcher(self.cluster.events(), watcher::Config::default())
            .default_backoff()
            .applied_objects()
            .try_filter(move |kept| {
                let of_this = kept.involved_object.name.as_ref().is_some_and(|name| involved.contains(name));
                std::future::ready(of_this)
            })
            .map_ok(move |kept| from_kubernetes(&name_of_events, &kept))
            .map_err(|cause| {
                Error::new(kled_core::ErrorKind::Unavailable, "the events cannot be watched").because(cause)
            });
        let sets = watcher::watch_object(self.cluster.sets(), &object_name(name));
        let uid = claimed.uid().to_owned();
        let deleted = async move {
            let mut sets = std::pin::pin!(sets);
            while let Some(set) = sets.next().await {
                let is_gone = |set: &Option<k8s_openapi::api::apps::v1::StatefulSet>| {
                    set.as_ref().is_none_or(|set| set.metadata.uid.as_deref() != Some(&*uid))
                };
                if set.as_ref().is_ok_and(is_gone) {
                    return;
                }
            }
        };
        Ok(events.take_until(deleted).boxed())
    }
}
