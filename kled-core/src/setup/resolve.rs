//! What a set-up comes to in a given workspace.

use super::{ForwardedPort, IgnoredField, IgnoredReason, Scope, Setup};
use crate::provider::Variables;
use crate::{Error, ErrorKind, Result};

/// The environment, user and folder of a workspace's commands. `Debug` shows no value of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The image that the project wants.
    pub image: Option<String>,
    /// The user that commands run as.
    pub user: Option<String>,
    /// Where commands run, absolute.
    pub folder: String,
    /// The whole environment of a command, `PATH` with the project's tools.
    pub environment: Variables,
    /// Ports on which the project serves.
    pub ports: Vec<ForwardedPort>,
    /// What variables stand for in commands.
    pub scope: Scope,
    /// What has no effect.
    pub ignored: Vec<IgnoredField>,
}

impl Setup {
    /// What it comes to in a checkout at `scope.container_workspace_folder` (absolute), in a workspace with the
    /// environment `scope.container_environment`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where a folder of tools is in the home folder and `HOME` is not set.
    pub fn resolve(&self, scope: &Scope) -> Result<Resolved> {
        let mut scope = scope.clone();
        let mut ignored = self.ignored.clone();
        let checkout = scope.container_workspace_folder.clone();
        if let Some(folder) = self.folder.as_deref().map(|folder| scope.substitute(folder)) {
            if is_within(&folder, &checkout) {
                scope.container_workspace_folder = folder;
            } else {
                ignored.push(IgnoredField::new("workspaceFolder", None, IgnoredReason::OutsideCheckout));
            }
        }
        let container: Vec<(String, String)> = self
            .container_environment
            .iter()
            .map(|(name, value)| (name.to_string(), scope.substitute(value)))
            .collect();
        scope.container_environment.0.extend(container);
        let mut environment = scope.container_environment.clone();
        for (name, value) in &self.remote_environment {
            match value {
                Some(value) => environment.0.insert(name.to_string(), scope.substitute(value)),
                None => environment.0.remove(name.as_str()),
            };
        }
        self.add_tools(&mut environment, &scope, &checkout)?;
        Ok(Resolved {
            image: self.image.as_deref().map(|image| scope.substitute(image)),
            user: self.user.as_deref().map(|user| scope.substitute(user)),
            folder: scope.container_workspace_folder.clone(),
            environment,
            ports: self.ports.clone(),
            scope,
            ignored,
        })
    }

    fn add_tools(&self, environment: &mut Variables, scope: &Scope, checkout: &str) -> Result<()> {
        if self.tools.is_empty() {
            return Ok(());
        }
        let home = environment.0.get("HOME").map(String::as_str);
        let mut folders = self
            .tools
            .iter()
            .map(|folder| tool_folder(&scope.substitute(folder), home, checkout))
            .collect::<Result<Vec<_>>>()?;
        folders.extend(environment.0.get("PATH").filter(|path| !path.is_empty()).cloned());
        environment.0.insert("PATH".into(), folders.join(":"));
        Ok(())
    }
}

fn tool_folder(folder: &str, home: Option<&str>, checkout: &str) -> Result<String> {
    let refused = |why: &str| {
        Error::new(ErrorKind::InvalidInput, format!("malformed set-up: {why}"))
            .with("field", "tools")
            .with("value", format!("{folder:?}"))
    };
    if folder.is_empty() || folder.contains(':') {
        return Err(
            refused("it is not a folder that PATH can hold").hint("take it out, or name it without a colon")
        );
    }
    match folder.strip_prefix("~/").or((folder == "~").then_some("")) {
        Some(rest) => {
            let home = home.filter(|home| !home.is_empty()).ok_or_else(|| {
                refused("the workspace has no home folder").hint("set HOME, or name the folder in full")
            })?;
            Ok(joined(home, rest))
        }
        None if folder.starts_with('/') => Ok(folder.into()),
        None => Ok(joined(checkout, folder)),
    }
}

fn joined(base: &str, rest: &str) -> String {
    format!("{}/{}", base.trim_end_matches('/'), rest.trim_start_matches("./")).trim_end_matches('/').into()
}

/// By the text alone: a path with `..` is not within.
fn is_within(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && !path.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::parse_devcontainer;
    use std::collections::BTreeMap;

    fn scope() -> Scope {
        let pairs = [("PATH", "/usr/bin"), ("HOME", "/home/dev"), ("DROPPED", "x")];
        Scope {
            container_environment: Variables(
                pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ),
            local_environment: Variables(BTreeMap::from([("TOKEN".into(), "hunter2".into())])),
            local_workspace_folder: "/workspace/app".into(),
            container_workspace_folder: "/workspace/app".into(),
            ..Scope::default()
        }
    }

    fn resolved(text: &str) -> Resolved {
        parse_devcontainer("devcontainer.json", text).unwrap().resolve(&scope()).unwrap()
    }

    #[test]
    fn the_remote_environment_sees_and_overrides_the_container_environment() {
        let resolved = resolved(
            r#"{
                "containerEnv": {"A": "${containerWorkspaceFolder}/a", "B": "container"},
                "remoteEnv": {
                    "B": "remote of ${containerEnv:B}", "PATH": "${containerEnv:PATH}:${containerEnv:A}", "DROPPED": null
                }
            }"#,
        );
        let expected = [
            ("A", "/workspace/app/a"),
            ("B", "remote of container"),
            ("HOME", "/home/dev"),
            ("PATH", "/usr/bin:/workspace/app/a"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(resolved.environment.0, BTreeMap::from(expected));
        assert!(resolved.ignored.is_empty());
    }

    #[test]
    fn a_folder_counts_within_the_checkout_only() {
        let cases = [
            ("/workspace/app/web", "/workspace/app/web", 0),
            ("${containerWorkspaceFolder}/web", "/workspace/app/web", 0),
            ("/workspace/app", "/workspace/app", 0),
            ("/workspaces/app", "/workspace/app", 1),
            ("/workspace/application", "/workspace/app", 1),
            ("/workspace/app/../../etc", "/workspace/app", 1),
            ("web", "/workspace/app", 1),
        ];
        for (folder, expected, ignored) in cases {
            let resolved = resolved(&format!(r#"{{"workspaceFolder": "{folder}"}}"#));
            assert_eq!(resolved.folder, expected, "{folder}");
            assert_eq!(resolved.scope.container_workspace_folder, expected, "{folder}");
            assert_eq!(resolved.ignored.len(), ignored, "{folder}");
        }
    }

    #[test]
    fn tools_come_first_on_the_path() {
        let tools = ["bin", "./x/", "~/.cargo/bin", "/opt/t/bin", "${containerEnv:HOME}/go/bin"];
        let setup = Setup { tools: tools.map(Into::into).to_vec(), ..Setup::default() };
        let expected =
            "/workspace/app/bin:/workspace/app/x:/home/dev/.cargo/bin:/opt/t/bin:/home/dev/go/bin:/usr/bin";
        assert_eq!(setup.resolve(&scope()).unwrap().environment.0["PATH"], expected);

        let mut homeless = scope();
        homeless.container_environment.0.remove("HOME");
        let setup = Setup { tools: vec!["~/bin".into()], ..Setup::default() };
        assert_eq!(setup.resolve(&homeless).unwrap_err().kind(), ErrorKind::InvalidInput);
        let setup = Setup { tools: vec!["a:b".into()], ..Setup::default() };
        assert!(setup.resolve(&scope()).is_err());
    }

    #[test]
    fn what_comes_from_the_users_machine_is_not_printed() {
        let resolved = resolved(r#"{"containerEnv": {"A": "${localEnv:TOKEN}"}}"#);
        assert_eq!(resolved.environment.0["A"], "hunter2");
        assert!(!format!("{resolved:?}").contains("hunter2"));
    }
}
