//! The labels by which a workspace is found again: on all that it is made of, from the moment it is made.

use jiff::Timestamp;
use kled_core::workspace::WorkspaceSpec;
use kled_core::{Error, ErrorKind, Result, WorkspaceId, WorkspaceName};

use super::engine::Labels;

pub(super) const WORKSPACE: &str = "kled.io/workspace";
pub(super) const ID: &str = "kled.io/id";
const SPEC: &str = "kled.io/spec";
const CREATED: &str = "kled.io/created";
const COMMIT: &str = "kled.io/commit";

/// In the terms of Kubernetes, so that common tools group by it.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kled");

/// What the labels say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Marks {
    pub(super) name: WorkspaceName,
    pub(super) id: WorkspaceId,
    pub(super) spec: WorkspaceSpec,
    pub(super) created: Timestamp,
    /// Known once there is a checkout, so on containers only.
    pub(super) commit: Option<String>,
}

impl Marks {
    pub(super) fn new(name: &WorkspaceName, spec: &WorkspaceSpec) -> Self {
        Self {
            name: name.clone(),
            id: WorkspaceId::random(),
            spec: spec.clone(),
            created: Timestamp::now(),
            commit: None,
        }
    }

    pub(super) fn labels(&self) -> Result<Labels> {
        let spec = serde_json::to_string(&self.spec)
            .map_err(|cause| Error::new(ErrorKind::Internal, "the spec cannot be written").because(cause))?;
        let pairs = [
            (WORKSPACE, Some(self.name.to_string())),
            (ID, Some(self.id.to_string())),
            (SPEC, Some(spec)),
            (CREATED, Some(self.created.to_string())),
            (COMMIT, self.commit.clone()),
            (MANAGED_BY.0, Some(MANAGED_BY.1.to_owned())),
        ];
        Ok(pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
    }

    pub(super) fn read(labels: &Labels) -> Result<Self> {
        let text = |key: &'static str| {
            labels
                .get(key)
                .ok_or_else(|| Error::new(ErrorKind::Internal, "a label is missing").with("label", key))
        };
        let malformed = |key: &'static str| {
            move |cause: Box<dyn std::error::Error + Send + Sync>| {
                Error::new(ErrorKind::Internal, "a label is malformed").with("label", key).because(cause)
            }
        };
        Ok(Self {
            name: text(WORKSPACE)?.parse().map_err(|cause: Error| malformed(WORKSPACE)(cause.into()))?,
            id: text(ID)?.parse().map_err(|cause: Error| malformed(ID)(cause.into()))?,
            spec: serde_json::from_str(text(SPEC)?).map_err(|cause| malformed(SPEC)(cause.into()))?,
            created: text(CREATED)?.parse().map_err(|cause: jiff::Error| malformed(CREATED)(cause.into()))?,
            commit: labels.get(COMMIT).cloned(),
        })
    }
}

/// The identity in the labels, without the rest, which may be malformed.
pub(super) fn identity(labels: &Labels) -> Option<&str> {
    labels.get(ID).map(String::as_str)
}

/// The label filter for one workspace.
pub(super) fn of_workspace(name: &WorkspaceName) -> String {
    format!("{WORKSPACE}={name}")
}

/// The label filter for all of them.
pub(super) fn of_all() -> String {
    format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)
}

/// The name of the volume that claims a workspace name, and of the finished container.
pub(super) fn object_name(name: &WorkspaceName) -> String {
    format!("kled-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_as_labels() {
        let name = WorkspaceName::new("demo").unwrap();
        let spec =
            WorkspaceSpec::builder("https://example.com/app").secret("TOKEN", "env:TOKEN").build().unwrap();
        let marks = Marks { commit: Some("0123".into()), ..Marks::new(&name, &spec) };
        let labels = marks.labels().unwrap();
        assert_eq!(Marks::read(&labels).unwrap(), marks);
        for key in [WORKSPACE, ID, SPEC, CREATED] {
            let mut labels = labels.clone();
            labels.insert(key.into(), "{".into());
            let error = Marks::read(&labels).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
            labels.remove(key);
            assert!(Marks::read(&labels).is_err());
        }
    }
}
