//! Workspaces on this machine.

pub(crate) mod checkout;
#[cfg(feature = "local-container")]
pub mod container;
pub(crate) mod secrets;

pub use secrets::EnvironmentAndFileSecrets;
