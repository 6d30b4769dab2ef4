//! Kled providers.
