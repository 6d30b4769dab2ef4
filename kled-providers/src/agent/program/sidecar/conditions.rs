//! What a pod's conditions say of its workspace, for `kubectl get` and for whoever watches the pod.

use std::time::Duration;

use jiff::Timestamp;
use kled_core::workspace::{Condition, ConditionStatus};
use serde_json::{Value, json};

use super::decision::{Contact, Moment, Observed, Spec};

/// Quiet for less than this is a pause between two commands.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// The type of the condition that says whether something is done in the workspace.
pub(super) const IDLE: &str = "kled.io/Idle";

/// The type of the condition that says whether its agent answers.
pub(super) const AGENT_HEALTHY: &str = "kled.io/AgentHealthy";

/// The conditions now; none before the agent was heard for the first time, or should have been.
pub(super) fn conditions(observed: &Observed, spec: &Spec, now: Moment) -> Vec<Condition> {
    let quiet = observed.quiet(now);
    let healthy = match observed.contact {
        Contact::Answers => Condition::new(AGENT_HEALTHY, true, "Answers", "the agent answers"),
        Contact::Never if quiet < IDLE_AFTER => return Vec::new(),
        Contact::Never => {
            Condition::new(AGENT_HEALTHY, false, "NeverAnswered", "the agent has not answered yet")
        }
        Contact::Lost { .. } => {
            Condition::new(AGENT_HEALTHY, false, "Unreachable", "the agent does not answer")
        }
    };
    let idle = if observed.busy {
        Condition::new(IDLE, false, "CommandsRun", "commands run in the workspace")
    } else if quiet < spec.idle_timeout.map_or(IDLE_AFTER, |timeout| timeout.min(IDLE_AFTER)) {
        Condition::new(IDLE, false, "RecentActivity", "something was done in the workspace a moment ago")
    } else {
        Condition::new(IDLE, true, "NothingDone", idle_message(spec))
    };
    vec![healthy, idle]
}

fn idle_message(spec: &Spec) -> String {
    match spec.idle_timeout {
        Some(timeout) => {
            format!("nothing is done in the workspace; it is stopped after {} s of that", timeout.as_secs())
        }
        None => "nothing is done in the workspace".into(),
    }
}

/// The change of a pod's status, as a strategic merge patch: conditions of others stay.
pub(super) fn patch(conditions: &[Condition], now: Timestamp) -> Value {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|condition| {
            json!({
                "type": condition.condition_type,
                "status": match condition.status {
                    ConditionStatus::True => "True",
                    ConditionStatus::False => "False",
                    ConditionStatus::Unknown => "Unknown",
                },
                "reason": condition.reason,
                "message": condition.message,
                // The API server takes whole seconds only.
                "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            })
        })
        .collect();
    json!({ "status": { "conditions": conditions } })
}

#[cfg(test)]
mod tests {
    use super::super::decision::Heard;
    use super::*;

    fn reasons(observed: &Observed, second: i64) -> Vec<String> {
        let spec = Spec { idle_timeout: Some(Duration::from_secs(600)), expires: None };
        let conditions = conditions(observed, &spec, Moment::from_secs(second));
        conditions.into_iter().map(|condition| condition.reason).collect()
    }

    #[test]
    fn they_follow_what_is_seen() {
        let mut observed = Observed::nothing();
        assert!(reasons(&observed, 59).is_empty());
        assert_eq!(reasons(&observed, 60), ["NeverAnswered", "NothingDone"]);
        observed.heard(Heard { idle: None, used: true }, Moment::from_secs(100));
        assert_eq!(reasons(&observed, 1000), ["Answers", "CommandsRun"]);
        observed.heard(Heard { idle: Some(Duration::ZERO), used: true }, Moment::from_secs(1000));
        assert_eq!(reasons(&observed, 1059), ["Answers", "RecentActivity"]);
        assert_eq!(reasons(&observed, 1060), ["Answers", "NothingDone"]);
        observed.lost(Moment::from_secs(1100));
        assert_eq!(reasons(&observed, 1100), ["Unreachable", "NothingDone"]);
    }
}
