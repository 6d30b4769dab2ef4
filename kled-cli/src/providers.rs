//! The concrete providers: this file is the only place that names them.

use std::sync::Arc;

use kled_core::provider::{Provider, ProviderSettings, Registry};
use kled_core::{ProviderName, Result};
#[cfg(feature = "kubernetes")]
use kled_providers::kubernetes::KubernetesProvider;
use kled_providers::local::LocalProvider;
pub use kled_providers::local::SupervisorProgram as Supervisor;

use crate::config::{Key, Settings};

/// The provider that is used when nobody says anything else.
pub(crate) const DEFAULT: &str = "local";

/// The provider to which the keys of Kubernetes go.
const KUBERNETES: &str = "kubernetes";

/// Registers the providers that come with the program.
pub(crate) fn registered(supervisor: Supervisor) -> Result<Registry> {
    let mut registry = Registry::new();
    registry.register(ProviderName::new(DEFAULT)?, move |settings| local(supervisor.clone(), settings))?;
    #[cfg(feature = "kubernetes")]
    registry.register(ProviderName::new(KUBERNETES)?, kubernetes)?;
    Ok(registry)
}

#[cfg_attr(not(feature = "container"), expect(unused_mut, reason = "nothing is taken out of the settings"))]
async fn local(supervisor: Supervisor, mut settings: ProviderSettings) -> Result<Arc<dyn Provider>> {
    let builder = LocalProvider::builder().supervisor(supervisor);
    #[cfg(feature = "container")]
    let builder = match agent_program::find(settings.take(agent_program::KEY)).await? {
        Some(program) => builder.agent_program(program),
        None => builder,
    };
    Ok(Arc::new(builder.settings(settings)?.build().await?))
}

/// The workspace agent for containers.
#[cfg(feature = "container")]
mod agent_program {
    use std::path::{Path, PathBuf};

    use kled_core::{Error, ErrorKind, Result};
    use kled_providers::agent::delivery::AgentProgram;
    use kled_providers::image::StaticProgram;

    /// In the table of the local provider.
    pub(super) const KEY: &str = "agent-program";

    /// Instead of a path: containers have no agent.
    const NONE: &str = "none";

    /// The program's name beside this one.
    const NAME: &str = "kled-agent";

    /// The program that was named, else the one beside this program, if it can run in a container.
    pub(super) async fn find(named: Option<String>) -> Result<Option<AgentProgram>> {
        if named.as_deref() == Some(NONE) {
            return Ok(None);
        }
        let found = tokio::task::spawn_blocking(move || match named {
            Some(path) => read(Path::new(&path)).map(Some).map_err(|error| error.with("setting", KEY)),
            None => Ok(std::env::current_exe().ok().as_deref().and_then(beside)),
        });
        found.await.unwrap_or_else(|cause| {
            Err(Error::new(ErrorKind::Internal, "the agent's program cannot be read").because(cause))
        })
    }

    fn read(path: &Path) -> Result<AgentProgram> {
        Ok(AgentProgram::new(StaticProgram::read(path)?.into_content()))
    }

    /// The agent in the folder of a program, also of one that is run by a link. One that needs other files would not run
    /// in a container.
    fn beside(program: &Path) -> Option<AgentProgram> {
        let resolved: Option<PathBuf> = program.canonicalize().ok();
        let path = resolved.as_deref().unwrap_or(program).with_file_name(NAME);
        read(&path).inspect_err(|error| tracing::debug!(%error, "no agent for containers")).ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn a_program_that_was_named_has_to_be_one() {
            let own = std::env::current_exe().unwrap().display().to_string();
            let error = find(Some(own)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(KEY), "{error}");
            let error = find(Some("/no/such/program".into())).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(find(Some(NONE.into())).await.unwrap().is_none());
        }

        #[test]
        fn one_beside_that_cannot_run_in_a_container_is_left_out() {
            let folder = tempfile::tempdir().unwrap();
            let program = folder.path().join("kled");
            assert!(beside(&program).is_none());
            std::fs::copy(std::env::current_exe().unwrap(), folder.path().join(NAME)).unwrap();
            assert!(beside(&program).is_none());
        }
    }
}

#[cfg(feature = "kubernetes")]
async fn kubernetes(settings: ProviderSettings) -> Result<Arc<dyn Provider>> {
    Ok(Arc::new(KubernetesProvider::builder().settings(settings)?.build().await?))
}

/// The settings of a provider: its table in the file, and for the local one the keys that have their own names.
pub(crate) fn settings_of(name: &ProviderName, settings: &Settings) -> ProviderSettings {
    let mut pairs: std::collections::BTreeMap<_, _> = settings.of_provider(name).collect();
    if name.as_str() == DEFAULT {
        let directory = settings.data_directory.as_ref().map(|path| path.display().to_string());
        for (key, value) in [(Key::DataDirectory, directory), (Key::Engine, settings.engine.clone())] {
            if let Some(value) = value {
                pairs.entry(key.name().to_owned()).or_insert(value);
            }
        }
    }
    if name.as_str() == KUBERNETES {
        let keys = [("context", &settings.kubernetes_context), ("namespace", &settings.kubernetes_namespace)];
        // A flag or a variable is for this run and goes before the provider's table.
        pairs.extend(keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))));
    }
    pairs.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Surroundings;
    use crate::config::{FileLayer, Layer, Origin};

    #[test]
    fn the_keys_of_kubernetes_reach_its_provider_and_no_other() {
        let text = "[providers.kubernetes]\ncontext = \"table\"\nimage = \"debian\"\n";
        let file = FileLayer::parse(std::path::Path::new("/f"), text).unwrap();
        let mut flags = Layer::default();
        flags.set(Key::KubernetesContext, "flag", Origin::Flag("--context"));
        let mut environment = Layer::default();
        environment.set(
            Key::KubernetesNamespace,
            "variable",
            Origin::Environment(Key::KubernetesNamespace.variable()),
        );
        let defaults = Layer::of_defaults(&Surroundings::in_memory("/"), DEFAULT);
        let settings = Settings::resolve(&flags, &environment, file, &defaults).unwrap();
        let of = |name: &str| settings_of(&name.parse().unwrap(), &settings);
        let mut kubernetes = of(KUBERNETES);
        assert_eq!(kubernetes.take("context").as_deref(), Some("flag"));
        assert_eq!(kubernetes.take("namespace").as_deref(), Some("variable"));
        assert_eq!(kubernetes.take("image").as_deref(), Some("debian"));
        kubernetes.finish().unwrap();
        of(DEFAULT).finish().unwrap();
    }
}
