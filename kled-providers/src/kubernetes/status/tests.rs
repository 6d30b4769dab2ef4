use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kled_core::WorkspaceName;
use kled_core::workspace::{Operation, StopReason, WorkspaceSpec};
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::marks::UnderWay;
use crate::kubernetes::objects::Blueprint;
use crate::kubernetes::settings::PodSettings;

/// A workspace that is made and should run, with this pod status.
fn observation(pod: Option<Value>) -> Observation {
    let name = WorkspaceName::new("demo").unwrap();
    let spec = WorkspaceSpec::builder("https://example.com/app").build().unwrap();
    let marks = Marks::new(&name, &spec, UnderWay::new(Operation::Create, "claim"));
    let settings = PodSettings::default();
    let mut set = Blueprint { marks: &marks, settings: &settings }.stateful_set().unwrap();
    set.metadata.uid = Some("set".into());
    set.spec.as_mut().unwrap().replicas = Some(1);
    let pod = pod.map(|status| {
        let pod = json!({ "metadata": { "name": "demo-0", "uid": "pod" }, "status": status });
        serde_json::from_value(pod).unwrap()
    });
    let marks = Marks { commit: Some("0123".into()), under_way: None, ..marks };
    Observation { marks, set, pod, claim: None, events: Vec::new(), agent: None }
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "phase": "Pending", "containerStatuses": [{
        "name": "workspace", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": reason, "message": message } },
        "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } },
    }] })
}

fn event(uid: &str, reason: &str, message: &str) -> Event {
    serde_json::from_value(json!({
        "metadata": {}, "involvedObject": { "uid": uid }, "reason": reason, "message": message,
        "type": "Warning", "lastTimestamp": "2026-01-01T00:00:00Z",
    }))
    .unwrap()
}

fn state(observation: &Observation) -> WorkspaceStatus {
    observation.status(Timestamp::now())
}

#[test]
fn what_containers_wait_for_is_told_with_its_message() {
    let cases = [
        ("ErrImagePull", ErrorKind::ImageUnavailable, "no such image"),
        ("ImagePullBackOff", ErrorKind::ImageUnavailable, "no such image"),
        ("InvalidImageName", ErrorKind::ImageUnavailable, "no such image"),
        ("CreateContainerConfigError", ErrorKind::InvalidInput, "no such image"),
        ("CrashLoopBackOff", ErrorKind::Unavailable, "exit code 137: OOMKilled"),
    ];
    for (reason, kind, told) in cases {
        let observation = observation(Some(waiting(reason, "no such image")));
        let obstacle = observation.obstacle().unwrap();
        assert_eq!((obstacle.kind, obstacle.is_final), (kind, true), "{reason}");
        assert!(obstacle.error().to_string().contains(told), "{}", obstacle.error());
        let failed = state(&observation);
        assert!(
            matches!(&failed, WorkspaceStatus::Failed { reason: told, .. } if told == reason),
            "{failed}"
        );
    }
    let starting = observation(Some(waiting("ContainerCreating", "")));
    assert_eq!(starting.obstacle(), None);
    assert_eq!(state(&starting).state(), "Starting");
}

#[test]
fn a_pod_that_fits_nowhere_is_told_by_the_scheduler() {
    let pending = |message: &str| {
        observation(Some(json!({ "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        }] })))
    };
    let obstacle = pending("0/1 nodes are available: 1 Insufficient cpu").obstacle().unwrap();
    assert_eq!((obstacle.kind, obstacle.is_final), (ErrorKind::QuotaExceeded, true));
    let binding = pending("pod has unbound immediate PersistentVolumeClaims").obstacle().unwrap();
    assert!(!binding.is_final, "a volume that is being made is waited for");
}

#[test]
fn events_count_for_the_objects_of_now_only() {
    let mut none = observation(None);
    let message = "create Pod demo-0 failed: pods \"demo-0\" is forbidden: exceeded quota: q";
    none.events = vec![event("an earlier set", "FailedCreate", message)];
    assert_eq!(none.obstacle(), None);
    none.events.push(event("set", "FailedCreate", message));
    assert_eq!(none.obstacle().unwrap().kind, ErrorKind::QuotaExceeded);
    assert_eq!(state(&none).state(), "Failed");

    let mut unbound = observation(Some(json!({ "phase": "Pending" })));
    unbound.claim = Some(serde_json::from_value(json!({ "metadata": { "uid": "claim" } })).unwrap());
    let missing = "storageclass.storage.k8s.io \"fast\" not found";
    unbound.events = vec![event("claim", "ProvisioningFailed", missing)];
    let obstacle = unbound.obstacle().unwrap();
    assert_eq!((obstacle.kind, obstacle.message.as_str()), (ErrorKind::StorageFull, missing));
    unbound.claim = Some(
        serde_json::from_value(json!({ "metadata": { "uid": "claim" }, "status": { "phase": "Bound" } }))
            .unwrap(),
    );
    assert_eq!(unbound.obstacle(), None, "it passed");
}

#[test]
fn the_agents_answer_is_newer_than_the_kubelets() {
    let running = json!({
        "phase": "Running",
        "conditions": [{ "type": "Ready", "status": "True" }],
        "containerStatuses": [{
            "name": "workspace", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
        }],
    });
    let mut observation = observation(Some(running));
    assert!(state(&observation).is_running());
    observation.agent = Some(Answer::Silent("connection refused".into()));
    let starting = state(&observation);
    assert_eq!(starting.state(), "Starting");
    assert!(starting.to_string().contains("connection refused"), "{starting}");
    observation.agent = Some(Answer::Up { started: Timestamp::UNIX_EPOCH });
    assert_eq!(state(&observation), WorkspaceStatus::Running { since: Timestamp::UNIX_EPOCH });
}

#[test]
fn what_is_asked_for_counts_before_what_is_there() {
    let mut observation = observation(Some(json!({ "phase": "Running" })));
    observation.set.spec.as_mut().unwrap().replicas = Some(0);
    observation.marks.stop = Some((StopReason::Idle, Timestamp::UNIX_EPOCH));
    let stopped = WorkspaceStatus::Stopped { since: Timestamp::UNIX_EPOCH, reason: StopReason::Idle };
    assert_eq!(state(&observation), stopped);
    observation.set.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
    assert_eq!(state(&observation), WorkspaceStatus::Deleting);
}

#[test]
fn a_create_that_is_not_renewed_was_cut_short() {
    let mut observation = observation(None);
    observation.marks.commit = None;
    let now = Timestamp::now();
    let under_way = UnderWay::new(Operation::Create, "checkout");
    for (renewed, expected) in [
        (now, "Creating"),
        (now - Duration::from_secs(14), "Creating"),
        (now - Duration::from_secs(16), "Interrupted"),
        (Timestamp::UNIX_EPOCH, "Interrupted"),
        // Another machine's clock.
        (now + Duration::from_secs(10), "Creating"),
        (now + Duration::from_secs(3600), "Interrupted"),
    ] {
        observation.marks.under_way = Some(UnderWay { renewed, ..under_way.clone() });
        assert_eq!(observation.status(now).state(), expected, "{renewed}");
    }
    observation.marks.failure = Some("no such image".into());
    assert!(state(&observation).to_string().contains("no such image"));
}
