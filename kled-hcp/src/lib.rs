//! Kled hcp.
