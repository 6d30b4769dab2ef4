//! What the outside must offer to the core: traits that edges implement.

use async_trait::async_trait;

use crate::{Error, ErrorKind, Result, Secret, SecretReference};

/// Resolves [`SecretReference`]s: the environment, files, Vault.
#[async_trait]
pub trait SecretSource: std::fmt::Debug + Send + Sync + 'static {
    /// The value behind `reference`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the source itself says that there is no such secret,
    /// [`ErrorKind::Unsupported`] when it does not serve this kind of reference.
    async fn secret(&self, reference: &SecretReference) -> Result<Secret>;
}

/// A source that has no secrets: every reference is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSecrets;

#[async_trait]
impl SecretSource for NoSecrets {
    async fn secret(&self, reference: &SecretReference) -> Result<Secret> {
        Err(Error::new(ErrorKind::Unsupported, "no secret source is configured").with("reference", reference))
    }
}
