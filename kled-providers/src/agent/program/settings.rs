//! What the program is told, in environment variables.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use kled_core::{Error, ErrorKind, Result, WorkspaceId, WorkspaceName};

use crate::agent::Token;

/// Variables that begin with this are for the agent alone.
pub(super) const PREFIX: &str = "KLED_AGENT_";

/// Instead of an address.
const NOWHERE: &str = "none";

/// Longer files are no token.
const TOKEN_MAX: usize = 4 << 10;

/// What `serve` has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) name: WorkspaceName,
    pub(super) id: WorkspaceId,
    pub(super) listen: SocketAddr,
    /// Nowhere where nobody probes.
    pub(super) health_listen: Option<SocketAddr>,
    pub(super) token_file: PathBuf,
    /// The token is made at each start and written to its file.
    pub(super) makes_token: bool,
    pub(super) home: String,
    pub(super) checkout: PathBuf,
    pub(super) working_directory: PathBuf,
    pub(super) state: PathBuf,
    pub(super) grace: Duration,
    pub(super) cache_bytes: u64,
    /// Where the agent itself ends an idle workspace.
    pub(super) idle_timeout: Option<Duration>,
    /// Where the agent itself ends the workspace at the end of its time to live.
    pub(super) expires: Option<Timestamp>,
}

impl Settings {
    /// Settings from variables by their names.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variables = Variables(variable);
        let checkout = PathBuf::from(variables.text("KLED_AGENT_CHECKOUT", "/workspace"));
        Ok(Self {
            name: variables.required("KLED_WORKSPACE")?,
            id: variables.required("KLED_WORKSPACE_ID")?,
            listen: variables.listen()?,
            health_listen: variables.health_listen()?,
            token_file: variables.token_file(),
            makes_token: variables.or("KLED_AGENT_MAKES_TOKEN", false)?,
            home: variables.text("KLED_AGENT_HOME", "/home/kled"),
            working_directory: variables
                .given("KLED_AGENT_WORKING_DIRECTORY")
                .map_or_else(|| checkout.clone(), PathBuf::from),
            checkout,
            state: PathBuf::from(variables.text("KLED_AGENT_STATE", "/var/lib/kled")),
            grace: Duration::from_secs(variables.or("KLED_AGENT_GRACE_SECONDS", 25)?),
            cache_bytes: variables.or("KLED_AGENT_CACHE_BYTES", 2 << 30)?,
            idle_timeout: variables.optional("KLED_AGENT_IDLE_MILLISECONDS")?.map(Duration::from_millis),
            expires: variables.optional("KLED_AGENT_EXPIRES")?,
        })
    }
}

/// Variables by their names. An empty one is one that is not there: templates make them.
pub(super) struct Variables<V>(pub(super) V);

impl<V: Fn(&str) -> Option<String>> Variables<V> {
    pub(super) fn given(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    pub(super) fn text(&self, name: &str, default: &str) -> String {
        self.given(name).unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn optional<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let parse = |value: String| value.parse().map_err(|_| malformed(name, &value));
        self.given(name).map(parse).transpose()
    }

    pub(super) fn or<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    pub(super) fn required<T: FromStr>(&self, name: &str) -> Result<T> {
        let missing =
            || Error::new(ErrorKind::InvalidInput, format!("the environment variable {name} is missing"));
        self.optional(name)?.ok_or_else(missing)
    }

    /// Where the agent listens.
    pub(super) fn listen(&self) -> Result<SocketAddr> {
        self.or("KLED_AGENT_LISTEN", SocketAddr::from((Ipv4Addr::LOCALHOST, 7410)))
    }

    fn health_listen(&self) -> Result<Option<SocketAddr>> {
        const NAME: &str = "KLED_AGENT_HEALTH_LISTEN";
        if self.given(NAME).as_deref() == Some(NOWHERE) {
            return Ok(None);
        }
        self.or(NAME, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7411))).map(Some)
    }

    pub(super) fn token_file(&self) -> PathBuf {
        PathBuf::from(self.text("KLED_AGENT_TOKEN_FILE", "/kled-token/token"))
    }
}

fn malformed(name: &str, value: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("malformed value of the environment variable {name}"))
        .with("value", format!("{value:?}"))
}

/// A variable of this process.
pub(super) fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The token that a file holds.
pub(super) fn read_token(path: &Path) -> Result<Token> {
    let text = std::fs::read_to_string(path).map_err(|cause| {
        Error::new(ErrorKind::Unauthenticated, "the token of the workspace cannot be read")
            .with("file", path.display())
            .because(cause)
    })?;
    if text.len() > TOKEN_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, "malformed token of a workspace"));
    }
    Token::new(text.trim())
}

/// Makes a token that whoever may read its file finds there. A file of an earlier start is replaced.
pub(super) fn make_token(path: &Path) -> Result<Token> {
    let failed = |cause: std::io::Error| {
        Error::new(ErrorKind::Internal, "the token of the workspace cannot be written")
            .with("file", path.display())
            .because(cause)
    };
    let token = Token::random();
    let folder = path.parent().unwrap_or(Path::new("/"));
    // Only its user can read it, from the first moment on, and what is there is whole.
    let mut file = tempfile::Builder::new().prefix(".token-").tempfile_in(folder).map_err(failed)?;
    file.write_all(token.expose().as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6f2ad1a5-9a63-4f4d-a4f6-7c3f5f1f4d11";

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(|name| {
            variables.iter().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn everything_but_the_workspace_has_a_default() {
        let settings = read(&[("KLED_WORKSPACE", "web"), ("KLED_WORKSPACE_ID", ID)]).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:7410");
        assert_eq!(settings.health_listen.map(|address| address.port()), Some(7411));
        assert_eq!(settings.working_directory, Path::new("/workspace"));
        assert_eq!(settings.grace, Duration::from_secs(25));
        assert_eq!((settings.idle_timeout, settings.expires, settings.makes_token), (None, None, false));
        for missing in [[("KLED_WORKSPACE", "web")], [("KLED_WORKSPACE_ID", ID)]] {
            assert_eq!(read(&missing).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn what_only_some_backends_leave_to_the_agent() {
        let variables = [
            ("KLED_WORKSPACE", "web"),
            ("KLED_WORKSPACE_ID", ID),
            ("KLED_AGENT_HEALTH_LISTEN", "none"),
            ("KLED_AGENT_IDLE_MILLISECONDS", "1500"),
            ("KLED_AGENT_EXPIRES", "2026-01-02T00:00:00Z"),
            ("KLED_AGENT_MAKES_TOKEN", "true"),
        ];
        let settings = read(&variables).unwrap();
        assert_eq!((settings.health_listen, settings.makes_token), (None, true));
        assert_eq!(settings.idle_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(
            settings.expires.map(|expires| expires.to_string()).as_deref(),
            Some("2026-01-02T00:00:00Z")
        );
    }

    #[test]
    fn commands_begin_in_the_checkout_unless_told_otherwise() {
        let workspace = [("KLED_WORKSPACE", "web"), ("KLED_WORKSPACE_ID", ID), ("KLED_AGENT_CHECKOUT", "/c")];
        assert_eq!(read(&workspace).unwrap().working_directory, Path::new("/c"));
        let sub_path = [&workspace[..], &[("KLED_AGENT_WORKING_DIRECTORY", "/c/web")]].concat();
        assert_eq!(read(&sub_path).unwrap().working_directory, Path::new("/c/web"));
    }

    #[test]
    fn a_malformed_value_names_its_variable() {
        let workspace =
            [("KLED_WORKSPACE", "web"), ("KLED_WORKSPACE_ID", ID), ("KLED_AGENT_LISTEN", "nowhere")];
        let error = read(&workspace).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("KLED_AGENT_LISTEN"), "{error}");
        let empty = [("KLED_WORKSPACE", "web"), ("KLED_WORKSPACE_ID", ID), ("KLED_AGENT_LISTEN", "")];
        assert_eq!(read(&empty).unwrap().listen.port(), 7410);
    }

    #[test]
    fn a_token_is_read_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let (path, token) = (folder.path().join("token"), Token::random());
        assert_eq!(read_token(&path).unwrap_err().kind(), ErrorKind::Unauthenticated);
        std::fs::write(&path, format!("{}\n", token.expose())).unwrap();
        assert!(read_token(&path).unwrap() == token);
        let made = make_token(&path).unwrap();
        assert!(read_token(&path).unwrap() == made && made != token);
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "a b").unwrap();
        assert_eq!(read_token(&path).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
