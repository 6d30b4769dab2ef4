//! Kled's core: isolated workspaces behind one [`Provider`](provider::Provider) trait.
//!
//! This crate knows and decides; it opens no socket, starts no process and reads neither clock nor environment. A
//! service adds it together with a backend from `kled-providers`, or writes a backend of its own and holds it to the
//! same promises with the suite in `provider::conformance` (feature `conformance`).
//!
//! | module | what is in it |
//! |---|---|
//! | [`workspace`] | what is asked for, where the files come from, the state machine |
//! | [`provider`] | the trait, its options, events, commands, wrappers, registry, the in-memory reference |
//! | [`setup`] | what a project asks for after its checkout: `devcontainer.json`, `.kled.yaml`, dotfiles |
//! | [`ports`] | what the outside must offer: sources of secrets |
//!
//! What it refuses to do: it has no HTTP, TLS or Kubernetes in its dependency tree, no global state, and it never
//! takes a failed look-up for an absence.
//!
//! ```
//! use kled_core::provider::{MemoryProvider, Provider, ProviderExt};
//! use kled_core::workspace::WorkspaceSpec;
//! use kled_core::WorkspaceName;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kled_core::Result<()> {
//! let provider = MemoryProvider::new();
//! let name = WorkspaceName::new("demo")?;
//! let spec = WorkspaceSpec::builder("https://github.com/org/app").build()?;
//!
//! provider.create(&name, &spec).await?;
//! let output = provider.run(&name, ["echo", "hello"]).await?;
//! assert_eq!(output.stdout, b"hello\n");
//! provider.delete(&name).await?;
//! # Ok(())
//! # }
//! ```

mod error;
mod id;
pub mod ports;
pub mod provider;
mod quantity;
mod secret;
pub mod setup;
pub mod workspace;

pub use error::{Error, ErrorKind, ErrorStatus, Failure, Result};
pub use id::{LabelKey, LabelValue, ProviderName, VariableName, WorkspaceId, WorkspaceName};
pub use quantity::Quantity;
pub use secret::{Secret, SecretReference};

/// Runs the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
