//! Names to factories.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::Provider;
use crate::{Error, ErrorKind, ProviderName, Result};

/// Settings of one provider, as an application's configuration has them: text by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderSettings(BTreeMap<String, String>);

impl ProviderSettings {
    /// Takes the value of `key` out.
    pub fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    /// Refuses what no factory has taken, so that a misspelt key is no silent default.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] naming the first key that is left.
    pub fn finish(self) -> Result<()> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(key) => {
                Err(Error::new(ErrorKind::InvalidInput, "unknown provider setting").with("setting", key))
            }
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for ProviderSettings {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// Makes a provider from its settings.
pub type ProviderFactory =
    Arc<dyn Fn(ProviderSettings) -> BoxFuture<'static, Result<Arc<dyn Provider>>> + Send + Sync>;

/// The providers that an application knows, by name. Nothing is registered by itself.
///
/// ```
/// use std::sync::Arc;
/// use kled_core::ProviderName;
/// use kled_core::provider::{MemoryProvider, Provider, ProviderSettings, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kled_core::Result<()> {
/// let mut registry = Registry::new();
/// let name = ProviderName::new("memory")?;
/// registry.register(name.clone(), |settings: ProviderSettings| async move {
///     settings.finish()?;
///     Ok(Arc::new(MemoryProvider::new()) as Arc<dyn Provider>)
/// })?;
/// let provider = registry.open(&name, ProviderSettings::default()).await?;
/// assert_eq!(provider.name(), &name);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<ProviderName, ProviderFactory>);

impl Registry {
    /// A registry that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a factory under a name.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the name is taken.
    pub fn register<F, R>(&mut self, name: ProviderName, factory: F) -> Result<()>
    where
        F: Fn(ProviderSettings) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Arc<dyn Provider>>> + Send + 'static,
    {
        if self.0.contains_key(&name) {
            return Err(Error::new(ErrorKind::Conflict, "a provider of this name is registered")
                .with("provider", name));
        }
        self.0.insert(name, Arc::new(move |settings| Box::pin(factory(settings))));
        Ok(())
    }

    /// The names that are known, in order.
    pub fn names(&self) -> impl Iterator<Item = &ProviderName> {
        self.0.keys()
    }

    /// Makes the provider of this name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with the names that are known; what the factory answers.
    pub async fn open(&self, name: &ProviderName, settings: ProviderSettings) -> Result<Arc<dyn Provider>> {
        let factory = self.0.get(name).ok_or_else(|| {
            let known: Vec<_> = self.0.keys().map(ProviderName::as_str).collect();
            Error::new(ErrorKind::NotFound, "provider is not registered")
                .with("provider", name)
                .hint(format!("known providers: {}", known.join(", ")))
        })?;
        factory(settings).await.map_err(|error| error.with("provider", name))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}
