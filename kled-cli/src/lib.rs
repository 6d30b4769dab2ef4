//! Kled cli.
