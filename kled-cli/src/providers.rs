//! The concrete providers: this file is the only place that names them.

use kled_core::provider::{ProviderSettings, Registry};
use kled_core::{ProviderName, Result};

use crate::config::{Key, Settings};

/// The provider that is used when nobody says anything else.
pub(crate) const DEFAULT: &str = "local";

/// Stand-in.
#[derive(Clone, Copy, Debug)]
pub struct Supervisor;

impl Supervisor {
    /// Stand-in.
    #[must_use]
    pub fn this_program() -> Self {
        Self
    }
}

/// Registers the providers that come with the program.
pub(crate) fn registered(_supervisor: Supervisor) -> Result<Registry> {
    let registry = Registry::new();
    Ok(registry)
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
