//! The test harness of Kled: real servers, real nodes, and suites that say what they skipped.
//!
//! - [`suite`]: async cases as trials of `cargo test`; a case that cannot run here is skipped with its reason.
//! - [`image`]: container images made from local files.
//! - [`podman`]: a container engine behind the Docker API.
//! - [`enclosure`] and [`slot`]: where fixtures run, and how nothing of them stays behind.

mod cgroup;
mod ledger;
mod link;

pub mod enclosure;
pub mod image;
pub mod podman;
pub mod process;
pub mod programs;
pub mod servers;
pub mod slot;
pub mod suite;
pub mod wait;
