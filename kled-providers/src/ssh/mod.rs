//! A workspace by SSH, without an SSH server in it and without a port.
//!
//! [`serve`] is an SSH server for one client on any stream: the standard streams of a `ProxyCommand`, so that `ssh`,
//! `scp`, `sftp` and the editors that use them reach a workspace on every backend.
//!
//! ```text
//! ssh --- stdin, stdout of the ProxyCommand ---> serve --- Provider::exec, Provider::connect ---> workspace
//! ```
//!
//! | SSH | workspace |
//! |---|---|
//! | `exec`, `shell`, with a terminal or without | a command through `sh`; signals, window changes, exit status and signal |
//! | `env` | variables that begin with `LC_` or `KLED_`, and `LANG` |
//! | `direct-tcpip` to the workspace itself | [`Provider::connect`] |
//! | subsystem `sftp` | the workspace's `sftp-server`, where it has one |
//!
//! What a client sends faster than the workspace reads it waits in memory and in temporary files. While 64 MiB of it wait
//! the client is heard slowly, and a channel of which 1 GiB waits is ended with an error that says so.
//!
//! # Who may
//!
//! The client is not asked to prove who it is (method `none`): the stream has no address, so the only one who can speak
//! is whoever started the process and holds its standard streams, and that is who owns the provider's credentials
//! already. Who may reach the workspace is decided by the provider. **Do not serve on a stream that others can open.**
//!
//! The client is to be sure of the server, though: it pins the [`HostKey`].

mod session;
mod spool;
mod waiting;

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use kled_core::provider::{ConnectRequest, Provider};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::{LineEnding, private::Ed25519Keypair};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty};
use tokio::io::{AsyncRead, AsyncWrite};

use waiting::{Throttled, Waiting};

/// The Ed25519 key by which a client knows a workspace.
#[derive(Clone)]
pub struct HostKey(PrivateKey);

impl HostKey {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let mut seed = [0; 32];
        // Two random identities from the system's generator; each has six bits that are fixed, 244 are left.
        seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        seed[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        Self(PrivateKey::from(Ed25519Keypair::from_seed(&seed)))
    }

    /// A key in the format of OpenSSH.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when it is none.
    pub fn from_openssh(text: &str) -> Result<Self> {
        let key = PrivateKey::from_openssh(text);
        key.map(Self).map_err(|_| Error::new(ErrorKind::InvalidInput, "malformed host key"))
    }

    /// The private key in the format of OpenSSH: a secret.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it cannot be written.
    pub fn to_openssh(&self) -> Result<kled_core::Secret> {
        let text = self.0.to_openssh(LineEnding::LF);
        let text = text.map_err(|_| Error::new(ErrorKind::Internal, "the host key cannot be written"))?;
        Ok(kled_core::Secret::new(text.to_string()))
    }

    /// The public key as a line of `known_hosts` has it after the host: `ssh-ed25519 AAAA…`.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it cannot be written.
    pub fn public(&self) -> Result<String> {
        let text = self.0.public_key().to_openssh();
        text.map_err(|_| Error::new(ErrorKind::Internal, "the host key cannot be written"))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HostKey([redacted])")
    }
}

/// Serves one client on `stream` until it leaves. Dropping the future of a session that runs does not end it; the
/// process's end does.
///
/// # Errors
/// `Unavailable` when the client does not speak SSH, or the stream breaks.
pub async fn serve<S>(
    provider: Arc<dyn Provider>,
    name: WorkspaceName,
    stream: S,
    key: &HostKey,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let config = Config {
        methods: MethodSet::from(&[MethodKind::None][..]),
        keys: vec![key.0.clone()],
        // An editor may be silent for hours.
        inactivity_timeout: None,
        ..Config::default()
    };
    let broken =
        |cause: russh::Error| Error::new(ErrorKind::Unavailable, "the SSH connection broke").because(cause);
    let waiting = Waiting::default();
    let stream = Throttled::new(stream, waiting.clone());
    let server = Server { provider, name, waiting };
    let running = russh::server::run_stream(Arc::new(config), stream, server).await.map_err(broken)?;
    match running.await {
        // The client has hung up, as it does.
        Ok(()) | Err(russh::Error::Disconnect | russh::Error::HUP | russh::Error::ConnectionTimeout) => {
            Ok(())
        }
        Err(russh::Error::IO(cause)) if cause.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
        Err(cause) => Err(broken(cause)),
    }
}

/// The names by which the workspace itself is meant.
const ITSELF: [&str; 5] = ["localhost", "127.0.0.1", "::1", "0.0.0.0", "::"];

/// Whether a client may set this variable: what `sshd` is set up to accept, and Kled's own.
fn may_be_set(name: &str) -> bool {
    name == "LANG" || name.starts_with("LC_") || name.starts_with("KLED_")
}

/// Answers requests at once, in their order; what they ask for is done by the channel's own task, which sees them, too.
struct Server {
    provider: Arc<dyn Provider>,
    name: WorkspaceName,
    waiting: Waiting,
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (provider, name, handle) = (Arc::clone(&self.provider), self.name.clone(), session.handle());
        let waiting = self.waiting.clone();
        tokio::spawn(async move {
            reply.accept().await;
            session::run(provider, name, channel, handle, waiting).await;
        });
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let port = u16::try_from(port).ok().and_then(NonZeroU16::new).filter(|_| ITSELF.contains(&host));
        let Some(port) = port else {
            tokio::spawn(reply.reject(ChannelOpenFailure::AdministrativelyProhibited));
            return Ok(());
        };
        let (provider, name, handle) = (Arc::clone(&self.provider), self.name.clone(), session.handle());
        let waiting = self.waiting.clone();
        tokio::spawn(async move {
            match provider.connect(&name, ConnectRequest::new(port)).await {
                Ok(stream) => {
                    reply.accept().await;
                    session::carry(stream, channel, handle, &waiting).await;
                }
                Err(error) => {
                    tracing::debug!(%error, %port, "not connected");
                    reply.reject(ChannelOpenFailure::ConnectFailed).await;
                }
            }
        });
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if may_be_set(name) { session.channel_success(channel) } else { session.channel_failure(channel) }
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if name == session::SFTP {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }
}
