//! What the agent of a workspace says of it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What goes on in a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// The version of the agent.
    pub version: String,
    /// When the agent began.
    pub started: Timestamp,
    /// Commands that run now, detached ones included.
    pub commands: u32,
    /// Connections to ports that are open now.
    pub connections: u32,
    /// When something was last done.
    pub last_activity: Timestamp,
    /// How long nothing has been done. `None` while a command runs.
    #[serde(
        rename = "idleMilliseconds",
        default,
        skip_serializing_if = "Option::is_none",
        with = "milliseconds"
    )]
    pub idle: Option<Duration>,
    /// What it uses.
    pub usage: Usage,
}

/// What a workspace uses, from its control group and file system; what is not known there is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Memory in use, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Processor time since the start.
    #[serde(
        rename = "cpuMilliseconds",
        default,
        skip_serializing_if = "Option::is_none",
        with = "milliseconds"
    )]
    pub cpu: Option<Duration>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Used bytes of the file system that holds the checkout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_used_bytes: Option<u64>,
    /// Its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_total_bytes: Option<u64>,
}

/// Durations are numbers of milliseconds: they are measured, not written by people.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::ref_option, reason = "serde passes the field by reference")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let status = AgentStatus {
            version: "1.2.3".into(),
            started: Timestamp::UNIX_EPOCH,
            commands: 0,
            connections: 2,
            last_activity: Timestamp::UNIX_EPOCH,
            idle: Some(Duration::from_millis(1500)),
            usage: Usage { memory_bytes: Some(7), ..Usage::default() },
        };
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(
            json,
            r#"{"version":"1.2.3","started":"1970-01-01T00:00:00Z","commands":0,"connections":2,"lastActivity":"1970-01-01T00:00:00Z","idleMilliseconds":1500,"usage":{"memoryBytes":7}}"#
        );
        assert_eq!(serde_json::from_str::<AgentStatus>(&json).unwrap(), status);
    }
}
