//! `.kled.yaml`.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use serde::{Deserialize, Deserializer, Serialize};

use super::{CommandSet, ForwardedPort, PROJECT_FILE, Setup, SetupCommand, StepKind};
use crate::VariableName;

/// The `.kled.yaml` of a project, for those that have no `devcontainer.json`.
///
/// ```yaml
#[doc = include_str!("example/kled.yaml")]
/// ```
///
/// It has no place for secrets, which are given when a workspace is created, nor for who commits, which is not a
/// matter of the project.
///
/// It is a plain `serde` type: this crate brings no YAML parser. Whoever reads the file gives it to the parser of
/// choice, and turns its error into one with [`malformed`](super::malformed).
///
/// ```
/// use kled_core::setup::{Done, Phase, ProjectFile, Setup, plan};
///
/// let text = "
/// tools: [bin]
/// setup:
///   create: npm ci
/// ports: [3000]
/// ";
/// let file: ProjectFile = serde_saphyr::from_str(text)?;
/// let setup = Setup::from(file);
/// assert_eq!(setup.tools, ["bin"]);
/// assert_eq!(plan(&setup, Phase::Create, &Done::default()).len(), 1);
/// # Ok::<_, serde_saphyr::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProjectFile {
    /// Environment of every command.
    #[serde(default)]
    pub environment: BTreeMap<VariableName, String>,
    /// Folders that come first on `PATH`.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Commands.
    #[serde(default)]
    pub setup: ProjectSetup,
    /// Ports on which the project serves.
    #[serde(default)]
    pub ports: Vec<ProjectPort>,
}

/// The commands of a [`ProjectFile`], by name; a single one has an empty name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProjectSetup {
    /// Once, after the checkout.
    #[serde(default, deserialize_with = "commands")]
    pub create: BTreeMap<String, SetupCommand>,
    /// At every start.
    #[serde(default, deserialize_with = "commands")]
    pub start: BTreeMap<String, SetupCommand>,
}

/// A port of a [`ProjectFile`]: a number, or a number and a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "write 3000, or a map of port and label")]
pub enum ProjectPort {
    /// `3000`
    Number(NonZeroU16),
    /// `{port: 3000, label: web}`
    Named(NamedPort),
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedPort {
    /// 1 to 65535.
    pub port: NonZeroU16,
    /// For people.
    pub label: String,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "write a string for a shell, a list of strings for a program, or a map of both"
)]
enum Commands {
    One(SetupCommand),
    Several(BTreeMap<String, SetupCommand>),
}

fn commands<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, SetupCommand>, D::Error> {
    Ok(match Commands::deserialize(deserializer)? {
        Commands::One(command) => BTreeMap::from([(String::new(), command)]),
        Commands::Several(commands) => commands,
    })
}

impl From<ProjectPort> for ForwardedPort {
    fn from(port: ProjectPort) -> Self {
        match port {
            ProjectPort::Number(number) => Self { host: None, number, label: None },
            ProjectPort::Named(NamedPort { port, label }) => {
                Self { host: None, number: port, label: Some(label) }
            }
        }
    }
}

impl From<ProjectFile> for Setup {
    fn from(file: ProjectFile) -> Self {
        let create = CommandSet::new("setup.create", None, file.setup.create);
        let start = CommandSet::new("setup.start", None, file.setup.start);
        Self {
            file: Some(PROJECT_FILE.into()),
            container_environment: file.environment,
            tools: file.tools,
            ports: file.ports.into_iter().map(Into::into).collect(),
            commands: [(StepKind::PostCreate, create), (StepKind::PostStart, start)]
                .into_iter()
                .filter_map(|(kind, commands)| Some((kind, commands?)))
                .collect(),
            wait_for: Some(StepKind::PostStart),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::{Done, Phase, plan};
    use proptest::prelude::*;

    fn read(text: &str) -> Result<ProjectFile, serde_saphyr::Error> {
        serde_saphyr::from_str(text)
    }

    #[test]
    fn the_example_says_what_it_shows() {
        let setup = Setup::from(read(include_str!("example/kled.yaml")).unwrap());
        assert_eq!(setup.file.as_deref(), Some(".kled.yaml"));
        assert_eq!(setup.container_environment.len(), 2);
        assert_eq!(setup.tools, ["bin", "~/.cargo/bin", "/opt/tool/bin"]);
        let create = &setup.commands[&StepKind::PostCreate];
        assert_eq!(create.commands[""].arguments()[2], "set -e\nnpm ci\nmake generate\n");
        let start = &setup.commands[&StepKind::PostStart];
        assert_eq!(start.commands["database"].arguments(), ["pg_ctl", "start"]);
        assert_eq!(start.commands["cache"].arguments()[0], "/bin/sh");
        let ports: Vec<_> =
            setup.ports.iter().map(|port| (port.number.get(), port.label.as_deref())).collect();
        assert_eq!(ports, [(3000, None), (5432, Some("database"))]);
        assert!(plan(&setup, Phase::Start, &Done::default())[0].awaited);
    }

    #[test]
    fn an_empty_file_asks_for_nothing() {
        for text in ["{}", "setup: {}", "setup: {create: '', start: []}", "ports: []"] {
            let setup = Setup::from(read(text).unwrap());
            assert!(setup.commands.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_mistake_is_refused_with_its_line() {
        let cases = [
            ("tools: [a]\ntoolz: [b]", 2),
            ("setup:\n  creat: x", 2),
            ("setup:\n  create: {a: {b: c}}", 2),
            ("\nenvironment:\n  1A: x", 3),
            ("ports:\n  - 70000", 2),
            ("ports: [{port: 1}]", 1),
            ("ports: [0]", 1),
            ("tools: bin", 1),
            ("tools: [", 1),
        ];
        for (text, line) in cases {
            let error = read(text).expect_err(text);
            assert_eq!(error.location().map(|place| place.line()), Some(line), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in "((environment|tools|setup|create|ports|port|label)(: |:\n  )|[\\[\\]{},\"'-]|\\n|\\PC){0,20}",
        ) {
            if let Ok(file) = read(&text) {
                let setup = Setup::from(file);
                prop_assert!(plan(&setup, Phase::Create, &Done::default()).len() <= 1);
            }
        }
    }
}
