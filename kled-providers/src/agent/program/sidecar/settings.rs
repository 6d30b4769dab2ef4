//! What the sidecar is told, in environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use kled_core::{Error, ErrorKind, Result, WorkspaceId, WorkspaceName};

use super::decision::Spec;
use crate::agent::program::settings::Variables;

/// Where Kubernetes mounts the token of a service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the sidecar has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) name: WorkspaceName,
    pub(super) id: WorkspaceId,
    pub(super) place: Place,
    pub(super) spec: Spec,
    /// Where the agent listens.
    pub(super) agent: SocketAddr,
    pub(super) token_file: PathBuf,
}

/// Where the workspace is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) stateful_set: String,
    /// Absent where it is to be read from the pod, which names its owner.
    pub(super) stateful_set_uid: Option<String>,
    /// The folder with the service account's token and the API server's certificate authority.
    pub(super) service_account: PathBuf,
    /// `HOST:PORT` of the API server, as every pod is told it.
    pub(super) api_server: Option<String>,
}

impl Settings {
    /// Settings from variables by their names.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variables = Variables(variable);
        let idle_timeout = variables.optional("KLED_IDLE_SECONDS")?.map(Duration::from_secs);
        if idle_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::new(ErrorKind::InvalidInput, "KLED_IDLE_SECONDS is at least 1"));
        }
        let host = variables.given("KUBERNETES_SERVICE_HOST");
        let port = variables.or("KUBERNETES_SERVICE_PORT", 443_u16)?;
        Ok(Self {
            name: variables.required("KLED_WORKSPACE")?,
            id: variables.required("KLED_WORKSPACE_ID")?,
            place: Place {
                namespace: variables.required("KLED_NAMESPACE")?,
                pod: variables.required("KLED_POD")?,
                stateful_set: variables.required("KLED_STATEFULSET")?,
                stateful_set_uid: variables.given("KLED_STATEFULSET_UID"),
                service_account: PathBuf::from(variables.text("KLED_SERVICE_ACCOUNT", SERVICE_ACCOUNT)),
                api_server: host.map(|host| authority(&host, port)),
            },
            spec: Spec { idle_timeout, expires: variables.optional::<Timestamp>("KLED_EXPIRES")? },
            agent: variables.listen()?,
            token_file: variables.token_file(),
        })
    }
}

/// An IPv6 address has brackets there.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &[(&str, &str)]) -> Result<Settings> {
        let variables = [
            ("KLED_WORKSPACE", "web"),
            ("KLED_WORKSPACE_ID", "6f2ad1a5-9a63-4f4d-a4f6-7c3f5f1f4d11"),
            ("KLED_NAMESPACE", "default"),
            ("KLED_POD", "web-0"),
            ("KLED_STATEFULSET", "web"),
        ];
        let variables = [more, &variables].concat();
        Settings::read(|name| {
            variables.iter().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn limits_are_optional() {
        assert_eq!(read(&[]).unwrap().spec, Spec::default());
        let settings =
            read(&[("KLED_IDLE_SECONDS", "60"), ("KLED_EXPIRES", "2026-11-22T18:00:00Z")]).unwrap();
        assert_eq!(settings.spec.idle_timeout, Some(Duration::from_secs(60)));
        assert!(settings.spec.expires.is_some());
        assert!(read(&[("KLED_IDLE_SECONDS", "0")]).is_err());
        assert!(read(&[("KLED_EXPIRES", "tomorrow")]).is_err());
    }

    #[test]
    fn the_api_server_is_where_kubernetes_says() {
        assert_eq!(read(&[]).unwrap().place.api_server, None);
        for (host, expected) in [("10.96.0.1", "10.96.0.1:443"), ("fd00::1", "[fd00::1]:443")] {
            let place = read(&[("KUBERNETES_SERVICE_HOST", host)]).unwrap().place;
            assert_eq!(place.api_server.as_deref(), Some(expected));
        }
    }
}
