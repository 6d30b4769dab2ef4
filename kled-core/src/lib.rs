//! Kled core.
