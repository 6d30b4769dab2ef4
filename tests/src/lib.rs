//! The test harness of Kled: real servers, real nodes, and suites that say what they skipped.
//!
//! - [`suite`]: async cases as trials of `cargo test`; a case that cannot run here is skipped with its reason.
//! - [`image`]: container images made from local files.
//! - [`agent`]: the workspace agent's static program and image.
//! - [`podman`]: a container engine behind the Docker API.
//! - [`control_plane`]: an API server and its store, in seconds, many side by side.
//! - [`cluster`]: a real node with pods, services, DNS, volumes, network policies, `exec` and logs; one for a whole run.
//! - [`fault_proxy`]: an API server that fails when it is told to.
//! - [`git_server`]: repositories over HTTP, for pods and for the machine.
//! - [`servers`]: fetches, builds and caches the real servers; [`programs`] finds them and says what is missing.
//! - [`workspaces`] and [`containers`]: repositories, fixtures of the conformance suite, and what is left of a workspace.
//! - [`summary`]: counts what `cargo test` says.
//! - [`enclosure`] and [`slot`]: where fixtures run, and how nothing of them stays behind; [`traces`] proves it.

mod authority;
mod cgroup;
mod http_server;
mod ledger;
mod link;

pub mod agent;
pub mod cluster;
pub mod containers;
pub mod control_plane;
pub mod enclosure;
pub mod fault_proxy;
pub mod git_server;
pub mod image;
pub mod kubeconfig;
pub mod kubernetes;
pub mod podman;
pub mod process;
pub mod programs;
pub mod servers;
pub mod slot;
pub mod suite;
pub mod summary;
pub mod traces;
pub mod wait;
pub mod workspaces;

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The example of the project's README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ProjectReadme;
