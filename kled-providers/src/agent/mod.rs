//! The agent: what runs beside every workspace and does there what is asked of it from outside.
//!
//! One protocol for every backend: gRPC over HTTP/2 over any stream of bytes, so framing, flow control, multiplexing,
//! cancellation and heartbeats are the library's. `proto/agent.proto` defines it.
//!
//! | part | what it is |
//! |---|---|
//! | [`AgentClient`] | the side of whoever drives a workspace |
//! | [`server`] | the side of the workspace |
//! | [`delivery`] | the agent as a file in a container that runs already |
//! | [`Token`] | what a driver has to know |
//! | `program` | the program `kled-agent`, with the feature `agent-program` |
//!
//! ```text
//! AgentClient --- HTTP/2 over a socket, a port-forward, an exec ---> server --- processes, files, ports
//! ```

pub(crate) mod checkout;
mod client;
#[cfg(any(feature = "agent-program", feature = "local"))]
pub(crate) mod clock;
pub mod delivery;
#[cfg(any(feature = "agent-program", feature = "local-container"))]
pub(crate) mod ending;
pub(crate) mod proc;
#[cfg(feature = "agent-program")]
pub mod program;
mod protocol;
#[cfg(any(feature = "kubernetes", feature = "local-container"))]
mod reached;
pub mod server;
#[cfg(test)]
mod tests;
mod token;
mod transport;

pub use client::{AgentClient, CheckedOut, Credential, SetupOptions, SetupProgress, SetupSummary};
pub use kled_core::provider::{AgentStatus, Usage};
#[cfg(feature = "local-container")]
pub(crate) use protocol::CHUNK;
#[cfg(any(feature = "kubernetes", feature = "local-container"))]
pub(crate) use reached::{Agents, Reached};
pub use token::Token;
#[cfg(any(feature = "kubernetes", feature = "local-container"))]
pub(crate) use transport::DRIVER_BUFFER;
