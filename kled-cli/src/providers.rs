//! The concrete providers: this file is the only place that names them.

use std::sync::Arc;

use kled_core::provider::{Provider, ProviderSettings, Registry};
use kled_core::{ProviderName, Result};
use kled_providers::local::LocalProvider;
pub use kled_providers::local::SupervisorProgram as Supervisor;

use crate::config::{Key, Settings};

/// The provider that is used when nobody says anything else.
pub(crate) const DEFAULT: &str = "local";

/// Registers the providers that come with the program.
pub(crate) fn registered(supervisor: Supervisor) -> Result<Registry> {
    let mut registry = Registry::new();
    registry.register(ProviderName::new(DEFAULT)?, move |settings| local(supervisor.clone(), settings))?;
    Ok(registry)
}

async fn local(supervisor: Supervisor, mut settings: ProviderSettings) -> Result<Arc<dyn Provider>> {
    let mut builder = LocalProvider::builder().supervisor(supervisor);
    if let Some(root) = settings.take(Key::DataDirectory.name()) {
        builder = builder.root(root);
    }
    // Without containers the key has no meaning; a configuration shared with a build that has them stays valid.
    let engine = settings.take(Key::Engine.name());
    #[cfg(feature = "container")]
    {
        use kled_providers::local::ContainerEngine;
        builder = builder.container_engine(match engine.as_deref() {
            None => ContainerEngine::Detected,
            Some("none") => ContainerEngine::None,
            Some(path) if path.starts_with('/') => ContainerEngine::At(format!("unix://{path}")),
            Some(address) => ContainerEngine::At(address.to_owned()),
        });
    }
    #[cfg(not(feature = "container"))]
    drop(engine);
    settings.finish()?;
    Ok(Arc::new(builder.build().await?))
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
    pairs.into_iter().collect()
}
