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

async fn local(supervisor: Supervisor, settings: ProviderSettings) -> Result<Arc<dyn Provider>> {
    Ok(Arc::new(LocalProvider::builder().supervisor(supervisor).settings(settings)?.build().await?))
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
