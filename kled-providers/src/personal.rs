//! What the user brings along to every workspace.

use kled_core::provider::{ProviderSettings, Severity, Variables};
use kled_core::setup::{Dotfiles, GitIdentity, Phase};
use kled_core::{Error, ErrorKind, Result, VariableName};

use crate::agent::{AgentClient, SetupOptions, SetupProgress};
#[cfg(any(feature = "kubernetes", feature = "local-container"))]
use {
    crate::variables::{variables_and_secrets, variables_of},
    kled_core::ports::SecretSource,
    kled_core::workspace::WorkspaceSpec,
};

/// The same for every backend, under the same names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Personal {
    pub(crate) dotfiles: Option<Dotfiles>,
    pub(crate) git_identity: Option<GitIdentity>,
    pub(crate) local_environment: Variables,
}

impl Personal {
    /// Takes `dotfiles`, `dotfiles-install-command`, `git-name`, `git-email` and `local-environment`, whose values
    /// `variable` gives.
    pub(crate) fn take(
        &mut self,
        settings: &mut ProviderSettings,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<()> {
        let malformed = |key: &'static str| {
            Error::new(ErrorKind::InvalidInput, "malformed provider setting").with("setting", key)
        };
        let install_command = settings.take("dotfiles-install-command");
        if let Some(repository) = settings.take("dotfiles") {
            let repository = repository.parse().map_err(|cause| malformed("dotfiles").because(cause))?;
            self.dotfiles = Some(Dotfiles { repository, revision: None, install_command });
        } else if install_command.is_some() {
            return Err(malformed("dotfiles-install-command").hint("it goes together with dotfiles"));
        }
        match (settings.take("git-name"), settings.take("git-email")) {
            (None, None) => {}
            (Some(name), Some(email)) => self.git_identity = Some(GitIdentity::new(name, email)?),
            _ => return Err(malformed("git-name").hint("git-name and git-email go together")),
        }
        let names = settings.take("local-environment").unwrap_or_default();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let name: VariableName =
                name.parse().map_err(|cause| malformed("local-environment").because(cause))?;
            // A variable that is not set is one of which the project gets its default.
            let value = variable(name.as_str());
            self.local_environment.0.extend(value.map(|value| (name.to_string(), value)));
        }
        Ok(())
    }

    /// Lets projects know these variables.
    pub(crate) fn tell_projects(
        &mut self,
        variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.local_environment.0.extend(variables);
    }

    /// Whether the user wants something of a set-up, whatever the project says.
    #[cfg(feature = "local")]
    pub(crate) const fn asks(&self) -> bool {
        self.dotfiles.is_some() || self.git_identity.is_some()
    }

    /// What a set-up of this phase is given of it.
    pub(crate) fn options(&self, phase: Phase) -> SetupOptions {
        let mut options = SetupOptions::new(phase);
        options.dotfiles.clone_from(&self.dotfiles);
        options.git_identity.clone_from(&self.git_identity);
        options.local_environment.0.clone_from(&self.local_environment.0);
        options
    }

    /// [`set_up`] with all of it, and what the spec gives to commands.
    #[cfg(any(feature = "kubernetes", feature = "local-container"))]
    pub(crate) async fn set_up(
        &self,
        client: &AgentClient,
        spec: &WorkspaceSpec,
        secrets: &dyn SecretSource,
        phase: Phase,
        tell: impl Fn(Severity, &str, String) + Send + Sync,
    ) -> Result<()> {
        let mut options = self.options(phase);
        options.environment = match variables_and_secrets(spec, secrets).await {
            Ok(variables) => variables,
            // Only the project's file, which is in the workspace, says whether anybody needs it.
            Err(error) => {
                tell(Severity::Warning, "SecretUnavailable", error.to_string());
                variables_of(spec)
            }
        };
        set_up(client, &options, tell).await
    }
}

/// Has the project of a workspace set up by its agent, as far as that is not done. `tell` is given what happens.
pub(crate) async fn set_up(
    client: &AgentClient,
    options: &SetupOptions,
    tell: impl Fn(Severity, &str, String) + Send + Sync,
) -> Result<()> {
    let progress = |progress: SetupProgress<'_>| {
        if let SetupProgress::Line(line) = progress {
            tell(Severity::Normal, "SettingUp", line.to_owned());
        }
    };
    let summary = client.set_up(options, progress).await?;
    for field in &summary.ignored {
        tell(Severity::Warning, "SetupFieldIgnored", field.to_string());
    }
    Ok(())
}

/// A variable of this process. What is not text is not set: a project's file is text.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pairs: &[(&str, &str)]) -> Result<Personal> {
        let mut settings: ProviderSettings = pairs.iter().copied().collect();
        let mut personal = Personal::default();
        let variable = |name: &str| (name == "SET").then(|| "value".to_owned());
        personal.take(&mut settings, variable)?;
        settings.finish().map(|()| personal)
    }

    #[test]
    fn settings_become_options() {
        let personal = taken(&[
            ("dotfiles", "https://example.com/dotfiles"),
            ("dotfiles-install-command", "make"),
            ("git-name", "A"),
            ("git-email", "a@example.com"),
            ("local-environment", "SET, UNSET"),
        ])
        .unwrap();
        let options = personal.options(Phase::Start);
        assert_eq!(options.phase, Phase::Start);
        let dotfiles = options.dotfiles.unwrap();
        assert_eq!(dotfiles.repository.to_string(), "https://example.com/dotfiles");
        assert_eq!(dotfiles.install_command.as_deref(), Some("make"));
        assert_eq!(options.git_identity.unwrap().email(), "a@example.com");
        assert_eq!(options.local_environment.0, [("SET".to_owned(), "value".to_owned())].into());
    }

    #[test]
    fn what_goes_together_is_not_taken_alone() {
        for alone in [("git-name", "A"), ("git-email", "a@example.com"), ("dotfiles-install-command", "make")]
        {
            let error = taken(&[alone]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.hint_text().is_some_and(|hint| hint.contains("together")), "{error}");
        }
        assert!(
            taken(&[("local-environment", "NOT A NAME")])
                .unwrap_err()
                .to_string()
                .contains("local-environment")
        );
    }
}
