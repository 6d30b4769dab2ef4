//! What the sidecar does through the Kubernetes API: three changes, of its own workspace only.

use std::time::Duration;

use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use kled_core::workspace::Condition;
use kled_core::{Error, ErrorKind, Result};
use kube::client::Body;
use serde_json::{Value, json};

use super::conditions;
use super::settings::Place;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(20);

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/strategic-merge-patch+json";

/// The annotation that says why a workspace is stopped.
const STOP_REASON: &str = "kled.io~1stop-reason";

/// The annotation that says since when.
const STOPPED_AT: &str = "kled.io~1stopped-at";

/// The workspace's objects.
pub(super) struct Cluster {
    client: kube::Client,
    place: Place,
    /// The identity of the StatefulSet, so that a later one of the same name is left alone.
    uid: Option<String>,
}

/// Why the API server did not do it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: Error,
    pub(super) retry_after: Option<Duration>,
    status: Option<StatusCode>,
}

/// No answer came.
impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None, status: None }
    }
}

impl Refused {
    /// True when the service account has no right to it.
    pub(super) fn is_forbidden(&self) -> bool {
        self.status == Some(StatusCode::FORBIDDEN)
    }
}

/// What an attempt to delete came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    /// It is being deleted, or gone.
    Done,
    /// By the API server's clock its time is not over yet: one of both clocks is wrong.
    TooEarly { time: Timestamp },
}

/// An answer that is no failure.
struct Answer {
    date: Option<Timestamp>,
    body: Value,
}

impl Cluster {
    /// A client with the pod's service account.
    ///
    /// # Errors
    /// When the pod has none.
    pub(super) fn new(place: &Place) -> Result<Self> {
        let missing = |what: &str| Error::new(ErrorKind::Unauthenticated, format!("the pod has no {what}"));
        let server = place.api_server.as_ref().ok_or_else(|| missing("address of the API server"))?;
        let url = format!("https://{server}").parse().map_err(|cause: http::uri::InvalidUri| {
            Error::new(ErrorKind::InvalidInput, "malformed address of the API server").because(cause)
        })?;
        let file = |name: &str| {
            let path = place.service_account.join(name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(missing(&format!("service account: no {}", path.display())))
            }
        };
        let mut config = kube::Config::new(url);
        config.auth_info.token_file = Some(file("token")?.display().to_string());
        config.root_cert_file = Some(file("ca.crt")?);
        // The file is what counts. Without this the certificates of the system are looked for, and its image has none.
        config.root_cert = Some(Vec::new());
        config.default_namespace.clone_from(&place.namespace);
        // What is tried again, and when, is decided from what is to be done then.
        config.default_retry = false;
        config.connect_timeout = Some(LIMIT);
        let client = kube::Client::try_from(config).map_err(|cause| {
            Error::new(ErrorKind::Internal, "the Kubernetes client cannot be made").because(cause)
        })?;
        Ok(Self { client, place: place.clone(), uid: place.stateful_set_uid.clone() })
    }

    /// Scales the workspace to nothing and notes why, in one change. A workspace that is gone is stopped.
    pub(super) async fn stop(&mut self, now: Timestamp) -> Result<(), Refused> {
        let Some(uid) = self.uid().await? else { return Ok(()) };
        let (path, patch) = (self.stateful_set(), stop_patch(&uid, now, true));
        let first = self.send(Method::PATCH, &path, JSON_PATCH, &patch).await;
        match first {
            // An object without any annotation has no place for one.
            Err(refused) if refused.status == Some(StatusCode::UNPROCESSABLE_ENTITY) => {
                let patch = stop_patch(&uid, now, false);
                absent_is_done(self.send(Method::PATCH, &path, JSON_PATCH, &patch).await)
            }
            result => absent_is_done(result),
        }
    }

    /// Deletes the workspace, if by the API server's clock, too, it has expired.
    pub(super) async fn delete(&mut self, expires: Timestamp) -> Result<Deletion, Refused> {
        let Some(uid) = self.uid().await? else { return Ok(Deletion::Done) };
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": { "uid": uid },
            "propagationPolicy": "Foreground",
        });
        let path = self.stateful_set();
        // The same request without effect takes no further right, and its answer has the time.
        let rehearsal = format!("{path}?dryRun=All");
        match self.send(Method::DELETE, &rehearsal, JSON, &options).await {
            Ok(answer) => {
                if let Some(time) = answer.date.filter(|time| *time < expires) {
                    return Ok(Deletion::TooEarly { time });
                }
            }
            Err(refused) if is_gone(&refused) => return Ok(Deletion::Done),
            Err(refused) => return Err(refused),
        }
        match self.send(Method::DELETE, &path, JSON, &options).await {
            Err(refused) if !is_gone(&refused) => Err(refused),
            _ => Ok(Deletion::Done),
        }
    }

    /// Writes conditions into the pod's status.
    pub(super) async fn set_conditions(
        &self,
        conditions: &[Condition],
        now: Timestamp,
    ) -> Result<(), Refused> {
        let path = format!("{}/status", self.pod());
        self.send(Method::PATCH, &path, MERGE_PATCH, &conditions::patch(conditions, now)).await.map(drop)
    }

    fn stateful_set(&self) -> String {
        format!("/apis/apps/v1/namespaces/{}/statefulsets/{}", self.place.namespace, self.place.stateful_set)
    }

    fn pod(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.place.namespace, self.place.pod)
    }

    /// The identity of the StatefulSet: as told, else as the pod says. `None` when the pod is gone.
    async fn uid(&mut self) -> Result<Option<String>, Refused> {
        if let Some(uid) = &self.uid {
            return Ok(Some(uid.clone()));
        }
        let pod = match self.send(Method::GET, &self.pod(), JSON, &Value::Null).await {
            Ok(answer) => answer.body,
            Err(refused) if refused.status == Some(StatusCode::NOT_FOUND) => return Ok(None),
            Err(refused) => return Err(refused),
        };
        let uid = owner(&pod, &self.place.stateful_set).ok_or_else(|| {
            Refused::from(Error::new(
                ErrorKind::NotFound,
                "the pod has no StatefulSet of this name as its owner",
            ))
        })?;
        self.uid = Some(uid.clone());
        Ok(Some(uid))
    }

    async fn send(&self, method: Method, path: &str, content: &str, body: &Value) -> Result<Answer, Refused> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, content);
        let request = request.body(Body::from(body)).map_err(|cause| {
            Refused::from(Error::new(ErrorKind::Internal, "malformed request").because(cause))
        })?;
        let answer = tokio::time::timeout(LIMIT, self.exchange(request)).await;
        answer.unwrap_or_else(|_| {
            Err(Refused::from(Error::new(ErrorKind::Timeout, "the API server does not answer")))
        })
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Answer, Refused> {
        let lost = |cause: kube::Error| {
            Refused::from(
                Error::new(ErrorKind::Unavailable, "the API server cannot be reached").because(cause),
            )
        };
        let (parts, body) = self.client.send(request).await.map_err(lost)?.into_parts();
        let body = body.collect_bytes().await.map_err(lost)?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        answer(parts.status, &parts.headers, body)
    }
}

/// What an answer means.
fn answer(status: StatusCode, headers: &HeaderMap, body: Value) -> Result<Answer, Refused> {
    let header = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    if status.is_success() {
        let date = header(DATE).and_then(|date| rfc2822::parse(date).ok()).map(|date| date.timestamp());
        return Ok(Answer { date, body });
    }
    let kind = match status {
        StatusCode::UNAUTHORIZED => ErrorKind::Unauthenticated,
        StatusCode::FORBIDDEN => ErrorKind::PermissionDenied,
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::CONFLICT => ErrorKind::Conflict,
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => ErrorKind::InvalidInput,
        _ => ErrorKind::Unavailable,
    };
    let said = body["message"].as_str().unwrap_or("it does not say why");
    let error = Error::new(kind, format!("the API server refuses: {said}")).with("status", status.as_u16());
    // Dates are allowed there, too; API servers send seconds.
    let seconds = header(RETRY_AFTER).and_then(|value| value.parse().ok());
    let seconds = seconds.or_else(|| body["details"]["retryAfterSeconds"].as_u64());
    Err(Refused { error, retry_after: seconds.map(Duration::from_secs), status: Some(status) })
}

fn absent_is_done(result: Result<Answer, Refused>) -> Result<(), Refused> {
    match result {
        Err(refused) if refused.status != Some(StatusCode::NOT_FOUND) => Err(refused),
        _ => Ok(()),
    }
}

/// Gone, or another one of the same name.
fn is_gone(refused: &Refused) -> bool {
    matches!(refused.status, Some(StatusCode::NOT_FOUND | StatusCode::CONFLICT))
}

/// The change that stops a workspace, if it is still the same one.
fn stop_patch(uid: &str, now: Timestamp, has_annotations: bool) -> Value {
    let operation =
        |operation: &str, path: &str, value: Value| json!({ "op": operation, "path": path, "value": value });
    let mut patch = vec![operation("test", "/metadata/uid", uid.into())];
    if !has_annotations {
        // Only if there really are none.
        patch.push(operation("test", "/metadata/annotations", Value::Null));
        patch.push(operation("add", "/metadata/annotations", json!({})));
    }
    patch.push(operation("add", &format!("/metadata/annotations/{STOP_REASON}"), "idle".into()));
    patch.push(operation("add", &format!("/metadata/annotations/{STOPPED_AT}"), now.to_string().into()));
    patch.push(operation("add", "/spec/replicas", 0.into()));
    Value::Array(patch)
}

/// The identity of the StatefulSet that owns a pod.
fn owner(pod: &Value, name: &str) -> Option<String> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["kind"] == "StatefulSet" && owner["name"] == name)?;
    owner["uid"].as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn refusals_have_a_kind_a_cause_and_a_time() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        let busy =
            answer(StatusCode::TOO_MANY_REQUESTS, &headers, json!({"message": "too many"})).err().unwrap();
        assert_eq!(busy.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(busy.error.kind(), ErrorKind::Unavailable);
        assert_eq!(busy.error.to_string(), "the API server refuses: too many (status: 429)");
        let body = json!({"message": "no", "details": {"retryAfterSeconds": 3}});
        let refused = answer(StatusCode::FORBIDDEN, &HeaderMap::new(), body).err().unwrap();
        assert_eq!(refused.retry_after, Some(Duration::from_secs(3)));
        assert!(refused.is_forbidden());
    }

    #[test]
    fn answers_have_the_servers_time() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, HeaderValue::from_static("Sun, 22 Nov 2026 18:00:00 GMT"));
        let answer = answer(StatusCode::OK, &headers, Value::Null).ok().unwrap();
        assert_eq!(answer.date, Some("2026-11-22T18:00:00Z".parse().unwrap()));
    }

    #[test]
    fn a_pod_names_its_owner() {
        let pod = json!({"metadata": {"ownerReferences": [
            {"kind": "ReplicaSet", "name": "web", "uid": "1"},
            {"kind": "StatefulSet", "name": "web", "uid": "2"},
        ]}});
        assert_eq!(owner(&pod, "web").as_deref(), Some("2"));
        assert_eq!(owner(&pod, "other"), None);
        assert_eq!(owner(&Value::Null, "web"), None);
    }
}
