//! Backends of Kled's [`Provider`](kled_core::provider::Provider) trait, each behind a cargo feature.
//!
//! | feature | backend |
//! |---|---|
//! | `agent` | [`agent`]: what runs beside every workspace, and its client; comes with every backend |
//! | `agent` | [`forward`], [`copy`]: ports of this machine that lead to a workspace, copies of files both ways |
//! | `ssh` | [`ssh`]: workspaces by SSH, on any stream |
//! | `local` | [`local`]: sandboxed processes on this machine; needs nothing installed but git |
//! | `kubernetes` | [`kubernetes`]: a pod and a volume on any cluster; needs nothing installed there |
//! | `local-container` | adds containers of Docker or Podman to `local` |
//! | `image` | no backend, but what they need: [`image`], our own container images without a container engine |
//!
//! No feature is on by default: a service pays for the backends that it names.

#[cfg(all(feature = "agent", unix))]
pub mod agent;
#[cfg(all(feature = "agent", unix))]
pub mod copy;
#[cfg(all(feature = "agent", unix))]
pub mod forward;
#[cfg(feature = "image")]
pub mod image;
#[cfg(all(feature = "kubernetes", unix))]
pub mod kubernetes;
#[cfg(all(feature = "local", unix))]
pub mod local;
#[cfg(all(any(feature = "local", feature = "kubernetes"), unix))]
mod personal;
#[cfg(all(feature = "agent", unix))]
pub mod secrets;
#[cfg(all(feature = "ssh", unix))]
pub mod ssh;
#[cfg(all(any(feature = "local", feature = "kubernetes"), unix))]
mod variables;
#[cfg(all(any(feature = "local", feature = "kubernetes"), unix))]
mod within;

/// The README's example, compiled.
#[cfg(all(doctest, feature = "local", unix))]
#[doc = include_str!("../README.md")]
struct Readme;
