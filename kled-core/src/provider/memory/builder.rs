//! How a [`MemoryProvider`] is put together.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Clock, MemoryBackend, MemoryProvider, capabilities};
use crate::ProviderName;
use crate::ports::{NoSecrets, SecretSource};
use crate::provider::Faults;

/// Builds a [`MemoryProvider`].
#[derive(Clone)]
#[must_use]
pub struct MemoryProviderBuilder {
    name: ProviderName,
    backend: MemoryBackend,
    faults: Faults,
    clock: Option<Clock>,
    secrets: Arc<dyn SecretSource>,
}

impl MemoryProviderBuilder {
    pub(super) fn new() -> Self {
        Self {
            name: ProviderName::memory(),
            backend: MemoryBackend::default(),
            faults: Faults::none(),
            clock: None,
            secrets: Arc::new(NoSecrets),
        }
    }

    /// The name under which it answers; `memory` by default.
    pub fn name(mut self, name: ProviderName) -> Self {
        self.name = name;
        self
    }

    /// Where the workspaces are; a new place by default.
    pub fn backend(mut self, backend: MemoryBackend) -> Self {
        self.backend = backend;
        self
    }

    /// Where faults enter; none by default.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Where times come from; a counter by default.
    pub fn clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// What resolves the secrets of a spec when a command starts; nothing by default.
    pub fn secrets(mut self, secrets: Arc<dyn SecretSource>) -> Self {
        self.secrets = secrets;
        self
    }

    /// The provider.
    #[must_use]
    pub fn build(self) -> MemoryProvider {
        let clock = self.clock.unwrap_or_else(|| {
            let backend = self.backend.clone();
            Arc::new(move || backend.tick())
        });
        MemoryProvider {
            name: self.name,
            capabilities: capabilities(),
            backend: self.backend,
            faults: self.faults,
            clock,
            secrets: self.secrets,
        }
    }
}

impl fmt::Debug for MemoryProviderBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryProviderBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
