//! The test harness of Kled: real servers, real nodes, and suites that say what they skipped.
//!
//! - [`suite`]: async cases as trials of `cargo test`; a case that cannot run here is skipped with its reason.

pub mod suite;
