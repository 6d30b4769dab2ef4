//! The protocol between a workspace and whoever drives it, over any byte stream.
//!
//! The driver first gives the [`Token`] of the workspace. One connection carries one request: a command with its streams, a question about the workspace, or the request to
//! end it. The stream's own flow control is the protocol's; closing the connection cancels the command. A frame is
//!
//! ```text
//! length: u32, big endian | kind: u8 | payload: length bytes
//! ```
//!
//! where `payload` is JSON for requests and answers, and the bytes themselves for the three streams of a command.

mod codec;
mod message;

pub use codec::{FRAME_MAX, FrameCodec, FrameError};
pub use message::{AgentMessage, AgentStatus, ClientMessage, Failure, Token};
