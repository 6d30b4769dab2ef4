//! The cluster: typed handles, and the few requests that need more than one line. Requests that the server is too busy
//! for are tried again by the client itself, after the time that the server says.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, Secret};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::GroupVersionKind;
use kube::{Api, Resource};
use serde_json::json;

use super::error::{from_kube, is_conflict, is_not_found};
use super::forward::{self, Forward};
use super::marks::{Change, FIELD_MANAGER, Marks, claim_name, log_name, object_name, pod_name, selector};
use super::objects::{Companion, LOG, TOKEN};
use crate::agent::Token;

/// The kinds of which a workspace may have objects besides the StatefulSet and its pod.
const COMPANIONS: [(&str, &str); 6] = [
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Secret"),
    ("v1", "ServiceAccount"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
];

/// How often a change that another one came before is tried. Others change a StatefulSet seldom.
const CONFLICTS_MAX: u32 = 3;

/// One namespace of a cluster.
#[derive(Clone)]
pub(super) struct Cluster {
    client: kube::Client,
    namespace: String,
}

/// The StatefulSet of a workspace and what it says.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    pub(super) marks: Marks,
    pub(super) set: StatefulSet,
}

impl Claimed {
    pub(super) fn uid(&self) -> &str {
        self.set.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.set.metadata.deletion_timestamp.is_some()
    }
}

/// What is done to a StatefulSet besides its annotations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Only<'a> {
    /// Not if another one has its name by now.
    pub(super) uid: &'a str,
    /// Not if it was changed since it was read.
    pub(super) version: Option<&'a str>,
}

impl Cluster {
    pub(super) fn new(client: kube::Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) fn sets(&self) -> Api<StatefulSet> {
        self.api()
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        self.api()
    }

    pub(super) fn claims(&self) -> Api<PersistentVolumeClaim> {
        self.api()
    }

    pub(super) fn events(&self) -> Api<Event> {
        self.api()
    }

    fn companions(&self, api_version: &str, kind: &str) -> Result<Api<DynamicObject>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let resource = match kind {
            "NetworkPolicy" => ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk(group, version, kind),
                "networkpolicies",
            ),
            _ => ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)),
        };
        Ok(Api::namespaced_with(self.client.clone(), &self.namespace, &resource))
    }

    /// The StatefulSet of a workspace. One of the name that is not a workspace's is none.
    pub(super) async fn claimed(&self, name: &WorkspaceName) -> Result<Option<Claimed>> {
        match self.sets().get_opt(&object_name(name)).await.map_err(from_kube)? {
            Some(set) => self.read(name, set),
            None => Ok(None),
        }
    }

    /// True when something that is not a workspace has the name.
    pub(super) async fn is_foreign(&self, name: &WorkspaceName) -> Result<bool> {
        match self.sets().get_opt(&object_name(name)).await.map_err(from_kube)? {
            Some(set) => Ok(self.read(name, set)?.is_none()),
            None => Ok(false),
        }
    }

    fn read(&self, name: &WorkspaceName, set: StatefulSet) -> Result<Option<Claimed>> {
        let marks = Marks::read(&set.metadata)?.filter(|marks| marks.name == *name);
        Ok(marks.map(|marks| Claimed { marks, set }))
    }

    /// Makes the StatefulSet, which takes the name. `None` when it is taken.
    pub(super) async fn claim(&self, name: &WorkspaceName, set: &StatefulSet) -> Result<Option<Claimed>> {
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        match self.sets().create(&parameters, set).await {
            Ok(set) => self.read(name, set),
            Err(error) if is_conflict(&error) => Ok(None),
            Err(error) => Err(self.explained(error)),
        }
    }

    /// A namespace that is missing is named as what it is.
    fn explained(&self, error: kube::Error) -> Error {
        let converted = from_kube(error);
        if converted.kind() == ErrorKind::NotFound && converted.message().contains("namespaces") {
            return Error::new(ErrorKind::InvalidInput, "the namespace does not exist")
                .with("namespace", &self.namespace)
                .hint("create it, or choose another: --namespace NAME");
        }
        converted
    }

    /// Makes an object that belongs to a StatefulSet, or brings it into its form.
    pub(super) async fn apply(&self, companion: &Companion) -> Result<()> {
        let api = self.companions(companion.api_version, companion.kind)?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(&companion.name, &parameters, &Patch::Apply(&companion.body.0)).await;
        applied.map(drop).map_err(|error| self.explained(error).with("object", companion.kind))
    }

    /// Changes the annotations, and the number of pods where one is given. `None` when it is not that one any more, or
    /// was changed since.
    pub(super) async fn change(
        &self,
        name: &WorkspaceName,
        only: Only<'_>,
        change: &Change,
        replicas: Option<i32>,
    ) -> Result<Option<Claimed>> {
        let mut patch = json!({ "metadata": { "uid": only.uid, "annotations": change.annotations() } });
        if let Some(version) = only.version {
            patch["metadata"]["resourceVersion"] = json!(version);
        }
        if let Some(replicas) = replicas {
            patch["spec"] = json!({ "replicas": replicas });
        }
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let mut tries = CONFLICTS_MAX;
        loop {
            tries -= 1;
            match self.sets().patch(&object_name(name), &parameters, &Patch::Merge(&patch)).await {
                Ok(set) => return self.read(name, set),
                Err(error) if is_not_found(&error) => return Ok(None),
                Err(error) if is_conflict(&error) => {
                    if only.version.is_some() || !self.is_still(name, only.uid).await? {
                        return Ok(None);
                    }
                    if tries == 0 {
                        return Err(from_kube(error));
                    }
                }
                Err(error) => return Err(from_kube(error)),
            }
        }
    }

    /// Whether the StatefulSet is the one of this identity: a conflict alone does not say so.
    async fn is_still(&self, name: &WorkspaceName, uid: &str) -> Result<bool> {
        Ok(self.claimed(name).await?.is_some_and(|claimed| claimed.uid() == uid))
    }

    /// Lets Kubernetes merge something into the pod template.
    pub(super) async fn merge_template(
        &self,
        name: &WorkspaceName,
        overrides: &serde_json::Value,
    ) -> Result<()> {
        let patch = json!({ "spec": { "template": overrides } });
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let merged = self.sets().patch(&object_name(name), &parameters, &Patch::Strategic(&patch)).await;
        merged.map(drop).map_err(|error| {
            from_kube(error).hint("check the setting pod-template-overrides against the PodTemplateSpec")
        })
    }

    /// Opens a port of a pod.
    pub(super) async fn forward(&self, pod: &str, port: u16) -> Result<Forward> {
        let pods = self.pods();
        forward::open(&self.client, pods.resource_url(), pod, port).await
    }

    pub(super) async fn pod(&self, name: &WorkspaceName) -> Result<Option<Pod>> {
        self.pods().get_opt(&pod_name(name)).await.map_err(from_kube)
    }

    pub(super) async fn volume_claim(&self, name: &WorkspaceName) -> Result<Option<PersistentVolumeClaim>> {
        self.claims().get_opt(&claim_name(name)).await.map_err(from_kube)
    }

    /// Asks the pod to end within so many seconds. One that is gone is gone.
    pub(super) async fn end_pod(&self, name: &WorkspaceName, grace_seconds: u32) -> Result<()> {
        let parameters = DeleteParams::default().grace_period(grace_seconds);
        match self.pods().delete(&pod_name(name), &parameters).await {
            Err(error) if !is_not_found(&error) => Err(from_kube(error)),
            _ => Ok(()),
        }
    }

    /// Asks for the deletion of a StatefulSet after all that belongs to it. False when it is not there any more.
    pub(super) async fn delete(&self, claimed: &Claimed) -> Result<bool> {
        let uid = Some(claimed.uid().to_owned());
        let parameters =
            DeleteParams::foreground().preconditions(Preconditions { uid, resource_version: None });
        let name = &claimed.marks.name;
        let mut tries = CONFLICTS_MAX;
        loop {
            tries -= 1;
            match self.sets().delete(&object_name(name), &parameters).await {
                Ok(_) => return Ok(true),
                Err(error) if is_not_found(&error) => return Ok(false),
                Err(error) if is_conflict(&error) => {
                    if !self.is_still(name, claimed.uid()).await? {
                        return Ok(false);
                    }
                    if tries == 0 {
                        return Err(from_kube(error));
                    }
                }
                Err(error) => return Err(from_kube(error)),
            }
        }
    }

    /// Deletes what is left of a workspace whose StatefulSet is gone, and says what that was. What belongs to another
    /// workspace of the name stays.
    pub(super) async fn sweep(&self, name: &WorkspaceName) -> Result<Vec<String>> {
        let parameters = ListParams::default().labels(&selector(name));
        let mut left = Vec::new();
        let kinds = COMPANIONS.into_iter().chain([("v1", "Pod")]);
        let listed = kinds.map(|(api_version, kind)| {
            let parameters = parameters.clone();
            async move {
                let api = self.companions(api_version, kind)?;
                let found = match api.list(&parameters).await {
                    Ok(found) => found.items,
                    // Who may not even see these has made none: the workspace needed none.
                    Err(error) if from_kube_kind(&error) == ErrorKind::PermissionDenied => Vec::new(),
                    Err(error) => return Err(from_kube(error)),
                };
                Ok::<_, Error>((api, kind, found))
            }
        });
        let listed = futures::future::try_join_all(listed).await?;
        // Looked at after the list: what belongs to a workspace that has the name by now is its own.
        let successor = self.claimed(name).await?;
        let belongs = |object: &DynamicObject| {
            let owners = object.metadata.owner_references.iter().flatten();
            successor.as_ref().is_some_and(|claimed| owners.clone().any(|owner| owner.uid == claimed.uid()))
        };
        for (api, kind, found) in listed {
            for object in found.into_iter().filter(|object| !belongs(object)) {
                let (object_name, uid) = (object.metadata.name.unwrap_or_default(), object.metadata.uid);
                if object.metadata.deletion_timestamp.is_none() {
                    let this_one = Preconditions { uid, resource_version: None };
                    let parameters = DeleteParams::background().preconditions(this_one);
                    match api.delete(&object_name, &parameters).await {
                        Err(error) if !is_not_found(&error) && !is_conflict(&error) => {
                            return Err(from_kube(error));
                        }
                        _ => {}
                    }
                }
                left.push(format!("{kind} {object_name}"));
            }
        }
        Ok(left)
    }

    /// The token of a workspace's agent.
    pub(super) async fn token(&self, name: &WorkspaceName) -> Result<Token> {
        let secret = self.api::<Secret>().get(&object_name(name)).await.map_err(from_kube)?;
        let missing = || Error::new(ErrorKind::Internal, "the workspace's Secret has no token");
        let token = secret.data.and_then(|mut data| data.remove(TOKEN)).ok_or_else(missing)?;
        Token::new(String::from_utf8(token.0).map_err(|_| missing())?)
    }

    /// What is kept of the log; empty when nothing is.
    pub(super) async fn kept_log(&self, name: &WorkspaceName) -> Result<String> {
        let secret = self.api::<Secret>().get_opt(&log_name(name)).await.map_err(from_kube)?;
        let log = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove(LOG));
        Ok(log.map(|log| String::from_utf8_lossy(&log.0).into_owned()).unwrap_or_default())
    }

    /// The token, if the Secret is there.
    pub(super) async fn known_token(&self, name: &WorkspaceName) -> Result<Option<Token>> {
        match self.token(name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }
}

fn from_kube_kind(error: &kube::Error) -> ErrorKind {
    match error {
        kube::Error::Api(status) if status.code == 403 => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    }
}
