//! Projects that ask for a set-up.

use crate::setup::PROJECT_FILE;

/// A repository of which the suite makes workspaces to see how they are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Project {
    /// It asks in a `devcontainer.json`.
    Devcontainer,
    /// It asks in a `.kled.yaml`.
    ProjectFile,
    /// Its set-up fails when it is carried out for the first time.
    Failing,
}

impl Project {
    /// All.
    pub const ALL: [Self; 3] = [Self::Devcontainer, Self::ProjectFile, Self::Failing];

    /// A name for its repository, in kebab case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Devcontainer => "devcontainer",
            Self::ProjectFile => "project-file",
            Self::Failing => "failing",
        }
    }

    /// The file that its repository has at least: the path in it, and the text.
    #[must_use]
    pub const fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::Devcontainer => {
                (".devcontainer/devcontainer.json", include_str!("project/devcontainer/devcontainer.json"))
            }
            Self::ProjectFile => (PROJECT_FILE, include_str!("project/file/kled.yaml")),
            Self::Failing => {
                (".devcontainer/devcontainer.json", include_str!("project/failing/devcontainer.json"))
            }
        }
    }

    /// What the steps of a creation write, each a line, to the file that the steps of a start write to as well.
    pub(super) const fn created(self) -> &'static [&'static str] {
        match self {
            Self::Devcontainer | Self::Failing => &["on create", CREATED],
            Self::ProjectFile => &[CREATED],
        }
    }
}

/// Where the steps write.
pub(super) const STEPS: &str = "conformance-steps";

/// What the last step of a creation writes; but for the failing project it says so, too.
pub(super) const CREATED: &str = "created from the project";

/// What the step of a start writes.
pub(super) const STARTED: &str = "started";

/// A variable that commands have.
pub(super) const VARIABLE: &str = "CONFORMANCE_PROJECT=from the project";

/// What the failing set-up says.
pub(super) const COMPLAINT: &str = "the toolchain is missing";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::{Done, Phase, ProjectFile, Setup, parse_devcontainer, plan};

    #[test]
    fn each_project_asks_for_something_at_creation_and_at_start() {
        for project in Project::ALL {
            let (path, text) = project.file();
            let setup: Setup = match project {
                Project::ProjectFile => serde_saphyr::from_str::<ProjectFile>(text).unwrap().into(),
                Project::Devcontainer | Project::Failing => parse_devcontainer(path, text).unwrap(),
            };
            assert!(setup.ignored.is_empty(), "{project:?}: {:?}", setup.ignored);
            assert_eq!(plan(&setup, Phase::Create, &Done::default()).len(), project.created().len());
            assert_eq!(plan(&setup, Phase::Start, &Done::default()).len(), 1);
        }
    }
}
