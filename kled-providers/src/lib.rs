//! Kled providers.

#[cfg(feature = "local")]
pub mod local;
