//! The labels and annotations by which a workspace is found again: on all that it is made of, from the moment it is
//! made. The StatefulSet's annotations hold the spec, so a machine with no local state finds everything.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kled_core::workspace::{Operation, StopReason, WorkspaceSpec};
use kled_core::{Error, ErrorKind, Result, WorkspaceId, WorkspaceName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The label with the workspace's name, and the selector of its pod.
pub(super) const WORKSPACE: &str = "kled.io/workspace";
const ID: &str = "kled.io/id";
const SPEC: &str = "kled.io/spec";
const CREATED: &str = "kled.io/created";
const COMMIT: &str = "kled.io/commit";
const UNDER_WAY: &str = "kled.io/operation";
const FAILURE: &str = "kled.io/failure";
/// Why it is stopped, and since when. The agent beside the workspace writes them, too.
pub(super) const STOP_REASON: &str = "kled.io/stop-reason";
pub(super) const STOPPED_AT: &str = "kled.io/stopped-at";

/// The label that all objects of Kled have.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kled");

/// The component of all objects of workspaces.
pub(super) const COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "workspace");

/// The manager of the fields that Kled sets.
pub(super) const FIELD_MANAGER: &str = "kled";

/// The longest name that a StatefulSet may have: Kubernetes adds a hyphen and ten characters for the label of a
/// revision, which has at most 63.
const OBJECT_NAME_MAX: usize = 52;

/// What a create says of itself has to be renewed within this time, else it has been cut short.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// The name of the StatefulSet and of most objects: the workspace's, cut and told apart by a digest where it is longer
/// than Kubernetes takes.
pub(super) fn object_name(name: &WorkspaceName) -> String {
    let name = name.as_str();
    if name.len() <= OBJECT_NAME_MAX {
        return name.to_owned();
    }
    let digest = hex::encode(Sha256::digest(name))[..10].to_owned();
    format!("{}-{digest}", name[..OBJECT_NAME_MAX - 11].trim_end_matches('-'))
}

/// The name of the one pod.
pub(super) fn pod_name(name: &WorkspaceName) -> String {
    format!("{}-0", object_name(name))
}

/// The name of the claim of the volume.
pub(super) fn claim_name(name: &WorkspaceName) -> String {
    format!("workspace-data-{}", object_name(name))
}

/// The name of the Secret with the log of a stopped workspace.
pub(super) fn log_name(name: &WorkspaceName) -> String {
    format!("{}-log", object_name(name))
}

/// The selector of all objects of one workspace.
pub(super) fn selector(name: &WorkspaceName) -> String {
    format!("{WORKSPACE}={name}")
}

/// The labels of every object of a workspace. Those of the spec never replace our own.
pub(super) fn labels(name: &WorkspaceName, spec: &WorkspaceSpec) -> BTreeMap<String, String> {
    let own = [
        ("app.kubernetes.io/name", "workspace"),
        ("app.kubernetes.io/instance", name.as_str()),
        ("app.kubernetes.io/part-of", "kled"),
        COMPONENT,
        MANAGED_BY,
        (WORKSPACE, name.as_str()),
    ];
    let mut labels: BTreeMap<_, _> =
        spec.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

/// What a create or start says of itself while it is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UnderWay {
    /// Who is at it; every call is somebody else.
    pub(super) holder: WorkspaceId,
    pub(super) operation: Operation,
    pub(super) step: String,
    pub(super) renewed: Timestamp,
}

impl UnderWay {
    pub(super) fn new(operation: Operation, step: &str) -> Self {
        Self { holder: WorkspaceId::random(), operation, step: step.into(), renewed: Timestamp::now() }
    }

    /// True while whoever is at it has renewed in time. A clock that is ahead counts as in time for as long again.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.renewed).unsigned_abs();
        age < LEASE
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the annotations of a StatefulSet say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Marks {
    pub(super) name: WorkspaceName,
    pub(super) id: WorkspaceId,
    pub(super) spec: WorkspaceSpec,
    pub(super) created: Timestamp,
    /// There once the create is done.
    pub(super) commit: Option<String>,
    pub(super) under_way: Option<UnderWay>,
    /// Why the last create failed.
    pub(super) failure: Option<String>,
    pub(super) stop: Option<(StopReason, Timestamp)>,
}

impl Marks {
    pub(super) fn new(name: &WorkspaceName, spec: &WorkspaceSpec, under_way: UnderWay) -> Self {
        Self {
            name: name.clone(),
            id: WorkspaceId::random(),
            spec: spec.clone(),
            created: Timestamp::now(),
            commit: None,
            under_way: Some(under_way),
            failure: None,
            stop: None,
        }
    }

    /// The annotations of a StatefulSet that is made now.
    pub(super) fn annotations(&self) -> Result<BTreeMap<String, String>> {
        let spec = serde_json::to_string(&self.spec)
            .map_err(|cause| Error::new(ErrorKind::Internal, "the spec cannot be written").because(cause))?;
        let pairs = [
            (ID, Some(self.id.to_string())),
            (SPEC, Some(spec)),
            (CREATED, Some(self.created.to_string())),
            (COMMIT, self.commit.clone()),
            (UNDER_WAY, self.under_way.as_ref().map(UnderWay::text)),
        ];
        Ok(pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
    }

    /// What stands in the metadata. `None` when the object is not Kled's.
    pub(super) fn read(metadata: &ObjectMeta) -> Result<Option<Self>> {
        let empty = BTreeMap::new();
        let (labels, annotations) =
            (metadata.labels.as_ref().unwrap_or(&empty), metadata.annotations.as_ref().unwrap_or(&empty));
        let managed = labels.get(MANAGED_BY.0).is_some_and(|manager| manager == MANAGED_BY.1);
        let Some(name) = labels.get(WORKSPACE).filter(|_| managed) else { return Ok(None) };
        let text = |key: &'static str| {
            annotations.get(key).ok_or_else(|| {
                Error::new(ErrorKind::Internal, "an annotation of the workspace is missing")
                    .with("annotation", key)
            })
        };
        let malformed = |key: &'static str| {
            move |cause: Box<dyn std::error::Error + Send + Sync>| {
                Error::new(ErrorKind::Internal, "an annotation of the workspace is malformed")
                    .with("annotation", key)
                    .because(cause)
            }
        };
        let stop = annotations.get(STOPPED_AT).and_then(|since| since.parse::<Timestamp>().ok());
        let stop = stop.map(|since| (stop_reason(annotations.get(STOP_REASON)), since));
        Ok(Some(Self {
            name: name.parse().map_err(|cause: Error| malformed(WORKSPACE)(cause.into()))?,
            id: text(ID)?.parse().map_err(|cause: Error| malformed(ID)(cause.into()))?,
            spec: serde_json::from_str(text(SPEC)?).map_err(|cause| malformed(SPEC)(cause.into()))?,
            created: text(CREATED)?.parse().map_err(|cause: jiff::Error| malformed(CREATED)(cause.into()))?,
            commit: annotations.get(COMMIT).cloned(),
            under_way: annotations.get(UNDER_WAY).and_then(|text| serde_json::from_str(text).ok()),
            failure: annotations.get(FAILURE).cloned(),
            stop,
        }))
    }
}

fn stop_reason(text: Option<&String>) -> StopReason {
    match text.map(String::as_str) {
        Some("idle") => StopReason::Idle,
        _ => StopReason::Requested,
    }
}

/// A change of the annotations, for a merge patch: what is `None` is removed.
#[derive(Clone, Debug, Default)]
pub(super) struct Change(BTreeMap<&'static str, Option<String>>);

impl Change {
    pub(super) fn under_way(mut self, under_way: Option<&UnderWay>) -> Self {
        self.0.insert(UNDER_WAY, under_way.map(UnderWay::text));
        self
    }

    pub(super) fn commit(mut self, commit: &str) -> Self {
        self.0.insert(COMMIT, Some(commit.to_owned()));
        self.failure(None)
    }

    pub(super) fn failure(mut self, failure: Option<String>) -> Self {
        self.0.insert(FAILURE, failure);
        self
    }

    pub(super) fn stopped(mut self, now: Timestamp) -> Self {
        self.0.insert(STOP_REASON, Some("requested".into()));
        self.0.insert(STOPPED_AT, Some(now.to_string()));
        self
    }

    pub(super) fn started(mut self) -> Self {
        self.0.insert(STOP_REASON, None);
        self.0.insert(STOPPED_AT, None);
        self
    }

    pub(super) fn annotations(&self) -> &BTreeMap<&'static str, Option<String>> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_in_metadata() {
        let name = WorkspaceName::new("demo").unwrap();
        let spec =
            WorkspaceSpec::builder("https://example.com/app").secret("TOKEN", "env:TOKEN").build().unwrap();
        let marks = Marks::new(&name, &spec, UnderWay::new(Operation::Create, "volume"));
        let metadata = ObjectMeta {
            labels: Some(labels(&name, &spec)),
            annotations: Some(marks.annotations().unwrap()),
            ..ObjectMeta::default()
        };
        assert_eq!(Marks::read(&metadata).unwrap(), Some(marks));
        assert_eq!(Marks::read(&ObjectMeta::default()).unwrap(), None);
        for key in [ID, SPEC, CREATED] {
            let mut metadata = metadata.clone();
            metadata.annotations.as_mut().unwrap().insert(key.into(), "{".into());
            let error = Marks::read(&metadata).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn long_names_are_cut_and_told_apart() {
        let name = |text: &str| WorkspaceName::new(text).unwrap();
        assert_eq!(object_name(&name("demo")), "demo");
        let (one, other) = (name(&format!("{}-a", "x".repeat(60))), name(&format!("{}-b", "x".repeat(60))));
        assert_ne!(object_name(&one), object_name(&other));
        assert!(object_name(&one).len() <= OBJECT_NAME_MAX);
        let hyphens = name(&format!("{}x", "a-".repeat(30)));
        assert!(WorkspaceName::new(object_name(&hyphens)).is_ok(), "{}", object_name(&hyphens));
    }

    #[test]
    fn labels_of_the_spec_do_not_replace_ours() {
        let spec = WorkspaceSpec::builder(".").label(WORKSPACE, "other").label("team", "a").build().unwrap();
        let labels = labels(&WorkspaceName::new("demo").unwrap(), &spec);
        assert_eq!(labels[WORKSPACE], "demo");
        assert_eq!(labels["team"], "a");
    }
}
