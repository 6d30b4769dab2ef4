//! Frames.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder};

use super::{AgentMessage, ClientMessage};
use crate::{Error, ErrorKind, Result};

/// The longest payload of a frame: 1 MiB. A longer one ends the connection, so that a broken peer cannot make the
/// other side allocate.
pub const FRAME_MAX: usize = 1 << 20;

/// Length and kind.
const HEADER: usize = 5;

/// Why a connection of the protocol ended early.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection itself failed.
    #[error("the connection to the agent failed")]
    Connection(#[from] std::io::Error),
    /// The other side broke the protocol.
    #[error(transparent)]
    Protocol(#[from] Error),
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Connection(cause) => {
                Self::new(ErrorKind::Unavailable, "the connection to the agent failed").because(cause)
            }
            FrameError::Protocol(error) => error,
        }
    }
}

/// A message that is a frame. The numbers of kinds are part of the protocol.
trait Message: Sized {
    fn kind(&self) -> u8;
    fn payload(&self) -> Result<Bytes>;
    fn from_parts(kind: u8, payload: Bytes) -> Result<Self>;
}

fn protocol_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Internal, message).during("agent protocol")
}

fn json<T: Serialize>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|cause| protocol_error("cannot encode a message").because(cause))
}

fn from_json<T: DeserializeOwned>(payload: &Bytes) -> Result<T> {
    // The cause of serde_json may quote the input, which may hold a secret: only the place is kept.
    serde_json::from_slice(payload)
        .map_err(|cause| protocol_error("malformed message").with("column", cause.column()))
}

impl Message for ClientMessage {
    fn kind(&self) -> u8 {
        match self {
            Self::Exec(_) => 1,
            Self::Status => 2,
            Self::Shutdown { .. } => 3,
            Self::Stdin(_) => 4,
            Self::StdinEnd => 5,
            Self::Resize(_) => 6,
            Self::Signal(_) => 7,
            Self::Authenticate(_) => 8,
        }
    }

    fn payload(&self) -> Result<Bytes> {
        match self {
            Self::Exec(command) => json(command),
            Self::Shutdown { grace_milliseconds } => json(grace_milliseconds),
            Self::Stdin(bytes) => Ok(bytes.clone()),
            Self::Resize(size) => json(size),
            Self::Signal(signal) => json(signal),
            Self::Authenticate(token) => json(token),
            Self::Status | Self::StdinEnd => Ok(Bytes::new()),
        }
    }

    fn from_parts(kind: u8, payload: Bytes) -> Result<Self> {
        Ok(match kind {
            1 => Self::Exec(from_json(&payload)?),
            2 => Self::Status,
            3 => Self::Shutdown { grace_milliseconds: from_json(&payload)? },
            4 => Self::Stdin(payload),
            5 => Self::StdinEnd,
            6 => Self::Resize(from_json(&payload)?),
            7 => Self::Signal(from_json(&payload)?),
            8 => Self::Authenticate(from_json(&payload)?),
            unknown => return Err(protocol_error("unknown kind of message").with("kind", unknown)),
        })
    }
}

impl Message for AgentMessage {
    fn kind(&self) -> u8 {
        match self {
            Self::Started { .. } => 65,
            Self::Stdout(_) => 66,
            Self::Stderr(_) => 67,
            Self::Exited(_) => 68,
            Self::Failed(_) => 69,
            Self::Status(_) => 70,
        }
    }

    fn payload(&self) -> Result<Bytes> {
        match self {
            Self::Started { process } => json(process),
            Self::Stdout(bytes) | Self::Stderr(bytes) => Ok(bytes.clone()),
            Self::Exited(status) => json(status),
            Self::Failed(failure) => json(failure),
            Self::Status(status) => json(status),
        }
    }

    fn from_parts(kind: u8, payload: Bytes) -> Result<Self> {
        Ok(match kind {
            65 => Self::Started { process: from_json(&payload)? },
            66 => Self::Stdout(payload),
            67 => Self::Stderr(payload),
            68 => Self::Exited(from_json(&payload)?),
            69 => Self::Failed(from_json(&payload)?),
            70 => Self::Status(from_json(&payload)?),
            unknown => return Err(protocol_error("unknown kind of message").with("kind", unknown)),
        })
    }
}

/// Encodes one side's messages and decodes the other's, for `tokio_util::codec::Framed`.
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use kled_core::agent::{ClientMessage, FrameCodec};
/// use tokio_util::codec::{Decoder, Encoder};
///
/// let mut wire = BytesMut::new();
/// FrameCodec::<ClientMessage>::new().encode(ClientMessage::Stdin(Bytes::from("hi")), &mut wire)?;
/// let message = FrameCodec::<ClientMessage>::new().decode(&mut wire)?;
/// assert_eq!(message, Some(ClientMessage::Stdin(Bytes::from("hi"))));
/// # Ok::<_, kled_core::agent::FrameError>(())
/// ```
#[derive(Debug)]
pub struct FrameCodec<Incoming>(std::marker::PhantomData<fn() -> Incoming>);

impl<Incoming> FrameCodec<Incoming> {
    /// A codec that decodes `Incoming` and encodes either side's messages.
    #[must_use]
    pub const fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<Incoming> Default for FrameCodec<Incoming> {
    fn default() -> Self {
        Self::new()
    }
}

fn encode(message: &impl Message, wire: &mut BytesMut) -> Result<()> {
    let payload = message.payload()?;
    let length =
        u32::try_from(payload.len()).ok().filter(|_| payload.len() <= FRAME_MAX).ok_or_else(|| {
            protocol_error("message is too long").with("bytes", payload.len()).with("limit", FRAME_MAX)
        })?;
    wire.reserve(HEADER + payload.len());
    wire.put_u32(length);
    wire.put_u8(message.kind());
    wire.put(payload);
    Ok(())
}

fn decode<M: Message>(wire: &mut BytesMut) -> Result<Option<M>> {
    let Some(header) = wire.get(..HEADER) else {
        return Ok(None);
    };
    let (mut length, kind) = (&header[..4], header[4]);
    let length = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
    if length > FRAME_MAX {
        return Err(protocol_error("message is too long").with("bytes", length).with("limit", FRAME_MAX));
    }
    if wire.len() < HEADER + length {
        wire.reserve(HEADER + length - wire.len());
        return Ok(None);
    }
    wire.advance(HEADER);
    M::from_parts(kind, wire.split_to(length).freeze()).map(Some)
}

impl<Incoming> Encoder<ClientMessage> for FrameCodec<Incoming> {
    type Error = FrameError;

    fn encode(&mut self, message: ClientMessage, wire: &mut BytesMut) -> Result<(), FrameError> {
        Ok(encode(&message, wire)?)
    }
}

impl<Incoming> Encoder<AgentMessage> for FrameCodec<Incoming> {
    type Error = FrameError;

    fn encode(&mut self, message: AgentMessage, wire: &mut BytesMut) -> Result<(), FrameError> {
        Ok(encode(&message, wire)?)
    }
}

impl Decoder for FrameCodec<ClientMessage> {
    type Item = ClientMessage;
    type Error = FrameError;

    fn decode(&mut self, wire: &mut BytesMut) -> Result<Option<ClientMessage>, FrameError> {
        Ok(decode(wire)?)
    }
}

impl Decoder for FrameCodec<AgentMessage> {
    type Item = AgentMessage;
    type Error = FrameError;

    fn decode(&mut self, wire: &mut BytesMut) -> Result<Option<AgentMessage>, FrameError> {
        Ok(decode(wire)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Token;
    use crate::provider::{ExecRequest, ExitStatus, Signal, TerminalSize};
    use proptest::prelude::*;

    fn messages() -> impl Strategy<Value = ClientMessage> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| ClientMessage::Stdin(bytes.into())),
            prop::collection::vec("\\PC{0,8}", 1..4).prop_map(|arguments| ClientMessage::Exec(
                ExecRequest::new(arguments).environment("A", "b").command
            )),
            any::<u64>().prop_map(|grace_milliseconds| ClientMessage::Shutdown { grace_milliseconds }),
            (any::<u16>(), any::<u16>())
                .prop_map(|(rows, columns)| ClientMessage::Resize(TerminalSize { rows, columns })),
            Just(ClientMessage::Signal(Signal::Int)),
            "\\PC{0,40}".prop_map(|text| ClientMessage::Authenticate(Token::new(text))),
            Just(ClientMessage::Status),
            Just(ClientMessage::StdinEnd),
        ]
    }

    proptest! {
        #[test]
        fn messages_arrive_however_the_bytes_are_cut(
            sent in prop::collection::vec(messages(), 0..8),
            pieces in prop::collection::vec(1_usize..50, 1..20),
        ) {
            let mut wire = BytesMut::new();
            let mut codec = FrameCodec::<ClientMessage>::new();
            for message in &sent {
                codec.encode(message.clone(), &mut wire).unwrap();
            }
            let (mut arrived, mut buffer, mut sizes) = (Vec::new(), BytesMut::new(), pieces.iter().cycle());
            while !wire.is_empty() {
                let size = (*sizes.next().unwrap()).min(wire.len());
                buffer.extend_from_slice(&wire.split_to(size));
                while let Some(message) = codec.decode(&mut buffer).unwrap() {
                    arrived.push(message);
                }
            }
            prop_assert_eq!(arrived, sent);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn any_bytes_are_decoded_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut wire = BytesMut::from(&bytes[..]);
            let mut codec = FrameCodec::<AgentMessage>::new();
            while let Ok(Some(_)) = codec.decode(&mut wire) {}
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_from_its_header() {
        let mut wire = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 66][..]);
        assert!(FrameCodec::<AgentMessage>::new().decode(&mut wire).is_err());
    }

    #[test]
    fn a_malformed_command_does_not_print_its_secrets() {
        let mut wire = BytesMut::new();
        let payload = br#"{"arguments": 5, "environment": {"TOKEN": "hunter2"}}"#;
        wire.put_u32(u32::try_from(payload.len()).unwrap());
        wire.put_u8(1);
        wire.put(&payload[..]);
        let error = FrameCodec::<ClientMessage>::new().decode(&mut wire).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
        assert!(!format!("{:?}", ClientMessage::Authenticate(Token::new("hunter2"))).contains("hunter2"));
        let command = ExecRequest::new(["env"]).environment("TOKEN", "hunter2").command;
        assert!(!format!("{:?}", ClientMessage::Exec(command)).contains("hunter2"));
    }

    #[test]
    fn the_end_of_a_command_survives() {
        let mut wire = BytesMut::new();
        let mut codec = FrameCodec::<AgentMessage>::new();
        codec.encode(AgentMessage::Exited(ExitStatus::Signaled(9)), &mut wire).unwrap();
        assert_eq!(codec.decode(&mut wire).unwrap(), Some(AgentMessage::Exited(ExitStatus::Signaled(9))));
    }
}
