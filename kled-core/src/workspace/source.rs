//! Where the files of a workspace come from: repository, revision, sub-path.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Error, ErrorKind, Result};

fn invalid(what: &'static str, why: &str, text: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("malformed {what}: {why}")).with("value", format!("{text:?}"))
}

/// A git repository: a URL, an scp-like address (`git@host:path`) or a local path, told apart as git does.
///
/// Addresses that carry a password or a token are refused, because a spec is stored in clear; git's credential
/// helpers and SSH agents are where those belong. Git's remote helpers (`ext::…`) and options (`-…`) are refused too.
///
/// ```
/// use kled_core::workspace::Repository;
///
/// assert!(matches!("https://example.com/org/app".parse()?, Repository::Url(_)));
/// assert!(matches!("git@example.com:org/app.git".parse()?, Repository::Scp { .. }));
/// assert!(matches!("./app".parse()?, Repository::Local(_)));
/// assert!("https://user:token@example.com/app".parse::<Repository>().is_err());
/// assert!("ext::sh -c id".parse::<Repository>().is_err());
/// # Ok::<_, kled_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Repository {
    /// `https`, `http`, `ssh`, `git` or `file`.
    Url(Url),
    /// `[user@]host:path`, which git takes for SSH.
    Scp {
        /// The user, where one is written.
        user: Option<String>,
        /// The host, or a name from the user's SSH configuration.
        host: String,
        /// The path on the host.
        path: String,
    },
    /// A folder on the machine where the provider runs git.
    Local(PathBuf),
}

impl Repository {
    /// The same repository with a relative local path resolved against `base`.
    #[must_use]
    pub fn resolved_against(self, base: &Path) -> Self {
        match self {
            Self::Local(path) => Self::Local(base.join(path).components().collect()),
            other => other,
        }
    }

    /// The last segment of the path without `.git`, for people to recognise. May be empty.
    #[must_use]
    pub fn short_name(&self) -> &str {
        let path = match self {
            Self::Url(url) => url.path(),
            Self::Scp { path, .. } => path,
            Self::Local(path) => path.to_str().unwrap_or_default(),
        };
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
        path.rsplit('/').next().unwrap_or_default()
    }

    fn parse_url(text: &str) -> Result<Self> {
        // The text of a URL is not repeated in errors: it may hold a password.
        let malformed =
            |why: String| Error::new(ErrorKind::InvalidInput, format!("malformed repository URL: {why}"));
        let url = Url::parse(text).map_err(|cause| malformed(cause.to_string()))?;
        if !matches!(url.scheme(), "https" | "http" | "ssh" | "git" | "file") {
            return Err(malformed(format!("scheme {:?} is not supported", url.scheme()))
                .hint("use https, http, ssh, git or file"));
        }
        if url.password().is_some() || carries_token(&url) {
            return Err(malformed("it carries a password or token".into())
                .hint("leave it out of the URL and let a git credential helper or an SSH key supply it"));
        }
        if url.scheme() != "file"
            && url.host_str().is_none_or(|host| host.is_empty() || host.starts_with('-'))
        {
            return Err(malformed("it has no valid host".into()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(malformed("it has a query or a fragment".into())
                .hint("name a branch, tag, commit or path with its own option"));
        }
        Ok(Self::Url(url))
    }
}

/// Tokens are also given as the user name (`https://TOKEN@host/…`).
fn carries_token(url: &Url) -> bool {
    let prefixes = ["ghp_", "gho_", "ghu_", "ghs_", "github_pat_", "glpat-", "ATBB", "ATCTT"];
    let user = url.username();
    matches!(url.scheme(), "http" | "https")
        && (user.len() >= 32 || prefixes.iter().any(|prefix| user.starts_with(prefix)))
}

/// git's own rule: the part before the first colon has no slash.
fn split_scp(text: &str) -> Option<(&str, &str)> {
    let (address, path) = text.split_once(':')?;
    (!address.contains('/')).then_some((address, path))
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(invalid("repository", "it is empty", text));
        }
        if text.starts_with('-') || text.chars().any(char::is_control) {
            return Err(invalid("repository", "it begins with a hyphen or has control characters", text));
        }
        if text.contains("://") {
            return Self::parse_url(text);
        }
        if text.split_once("::").is_some_and(|(helper, _)| !helper.contains('/')) {
            return Err(invalid("repository", "git's remote helpers are not allowed", text));
        }
        let Some((address, path)) = split_scp(text) else {
            return Ok(Self::Local(PathBuf::from(text)));
        };
        let (user, host) = match address.split_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, address),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(Error::new(ErrorKind::InvalidInput, "the repository address carries a password"));
        }
        let option_like =
            |part: &str| part.is_empty() || part.starts_with('-') || part.contains(char::is_whitespace);
        if option_like(host) || user.is_some_and(option_like) || path.is_empty() {
            return Err(invalid("repository", "write an scp-like address as user@host:path", text));
        }
        Ok(Self::Scp { user: user.map(Into::into), host: host.into(), path: path.into() })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => formatter.write_str(url.as_str()),
            Self::Scp { user: Some(user), host, path } => write!(formatter, "{user}@{host}:{path}"),
            Self::Scp { user: None, host, path } => write!(formatter, "{host}:{path}"),
            Self::Local(path) => path.display().fmt(formatter),
        }
    }
}

impl TryFrom<String> for Repository {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Repository> for String {
    fn from(repository: Repository) -> Self {
        repository.to_string()
    }
}

/// Defines a checked string for one part of a source.
macro_rules! checked_text {
    ($(#[$documentation:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$documentation])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let check: fn(&str) -> std::result::Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(why) => Err(invalid($what, why, text)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }
    };
}

checked_text! {
    /// The name of a branch or tag, by the rules of `git check-ref-format`.
    ReferenceName, "branch or tag name",
    |text| {
        let forbidden = |character: char| {
            character.is_control() || matches!(character, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')
        };
        if text.is_empty() || text == "@" {
            return Err("it is empty or '@'");
        }
        if text.starts_with('-') || text.contains(forbidden) || text.contains("..") || text.contains("@{") {
            return Err("it begins with a hyphen or has characters that git forbids");
        }
        if text.ends_with('.') || text.split('/').any(|part| {
            part.is_empty() || part.starts_with('.') || part.ends_with(".lock")
        }) {
            return Err("a part of it is empty, begins with '.' or ends with '.lock'");
        }
        Ok(())
    }
}

checked_text! {
    /// A commit: 7 to 64 hexadecimal digits. Less than 40 need the whole history to be resolved.
    CommitId, "commit",
    |text| {
        let hexadecimal = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
        if hexadecimal && (7..=64).contains(&text.len()) {
            Ok(())
        } else {
            Err("it must be 7 to 64 lower-case hexadecimal digits")
        }
    }
}

impl CommitId {
    /// True for a whole SHA-1 or SHA-256, which a server can be asked for directly.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.0.len(), 40 | 64)
    }
}

checked_text! {
    /// A folder inside a repository: relative, with `/`, without `.` and `..`.
    SubPath, "sub-path",
    |text| {
        let segments = || text.trim_end_matches('/').split('/');
        if text.starts_with(['/', '-', '!', '#']) || text.contains(['\\', '*', '?', '[']) || text.contains(char::is_control) {
            return Err("it must be a plain relative path");
        }
        if segments().any(|segment| matches!(segment, "" | "." | ".." | ".git")) {
            return Err("a part of it is empty, '.', '..' or '.git'");
        }
        Ok(())
    }
}

/// Which state of the repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Revision {
    /// The branch that the remote's `HEAD` names.
    #[default]
    Default,
    /// The tip of a branch.
    Branch(ReferenceName),
    /// A tag.
    Tag(ReferenceName),
    /// A commit.
    Commit(CommitId),
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("HEAD"),
            Self::Branch(name) | Self::Tag(name) => name.fmt(formatter),
            Self::Commit(commit) => commit.fmt(formatter),
        }
    }
}

/// How much of the history is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum History {
    /// The one commit that is checked out. The fastest; `git log` shows one entry.
    #[default]
    Shallow,
    /// All of it.
    Full,
}

/// What is checked out in a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// The repository.
    pub repository: Repository,
    /// Which state of it.
    #[serde(default)]
    pub revision: Revision,
    /// Only this folder of it (git's sparse checkout).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<SubPath>,
    /// How much of the history.
    #[serde(default)]
    pub history: History,
}

impl Source {
    /// The default branch of `repository`, shallow.
    #[must_use]
    pub fn new(repository: Repository) -> Self {
        Self { repository, revision: Revision::default(), path: None, history: History::default() }
    }

    /// The folder in which commands begin where the repository is checked out at `checkout`: that, or the sub-path of
    /// it.
    #[must_use]
    pub fn folder(&self, checkout: &str) -> String {
        match &self.path {
            Some(path) => format!("{checkout}/{path}"),
            None => checkout.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repository_forms() {
        let kinds = [
            ("https://github.com/org/app", "url"),
            ("https://github.com/org/app.git", "url"),
            ("https://github.com:8443/org/app/", "url"),
            ("https://user@dev.azure.com/org/project/_git/app", "url"),
            ("http://localhost:3000/a", "url"),
            ("ssh://git@github.com/org/app.git", "url"),
            ("ssh://git@github.com:2222/~user/app", "url"),
            ("git://example.com/app", "url"),
            ("file:///srv/git/app.git", "url"),
            ("git@github.com:org/app.git", "scp"),
            ("git@github.com:app", "scp"),
            ("github:org/app", "scp"),
            ("user@host:/srv/git/app", "scp"),
            ("user@host:~/app", "scp"),
            ("[::1]:app", "refused"),
            (".", "local"),
            ("..", "local"),
            ("./app", "local"),
            ("./a:b", "local"),
            ("/srv/git/app", "local"),
            ("/srv/a:b/c", "local"),
            ("app", "local"),
            ("app with space", "local"),
            ("", "refused"),
            ("-u", "refused"),
            ("--upload-pack=touch /tmp/x", "refused"),
            ("ext::sh -c id", "refused"),
            ("fd::3", "refused"),
            ("git@-oProxyCommand=id:app", "refused"),
            ("-oProxyCommand=id:app", "refused"),
            ("git@host:", "refused"),
            ("@host:app", "refused"),
            ("ssh://-oProxyCommand=id/app", "refused"),
            ("https://", "refused"),
            ("https:///app", "local-or-url"),
            ("ftp://example.com/app", "refused"),
            ("javascript://x", "refused"),
            ("https://user:secret@example.com/app", "refused"),
            ("https://:secret@example.com/app", "refused"),
            ("https://ghp_0123456789@github.com/org/app", "refused"),
            ("https://github.com/org/app#main", "refused"),
            ("https://github.com/org/app?ref=main", "refused"),
            ("a\nb", "refused"),
        ];
        for (text, expected) in kinds {
            let actual = match text.parse::<Repository>() {
                Ok(Repository::Url(_)) => "url",
                Ok(Repository::Scp { .. }) => "scp",
                Ok(Repository::Local(_)) => "local",
                Err(_) => "refused",
            };
            if expected != "local-or-url" {
                assert_eq!(actual, expected, "{text:?}");
            }
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        let error = "https://user:hunter2@example.com/app".parse::<Repository>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn references_commits_and_paths() {
        for good in ["main", "feat/feature1", "v1.0.0", "ümlaut"] {
            assert!(good.parse::<ReferenceName>().is_ok(), "{good}");
        }
        for bad in
            ["", "@", "-b", "a..b", "a b", "a~1", "a:b", "x.lock", "a//b", "/a", "a/", ".a", "a@{1}", "a."]
        {
            assert!(bad.parse::<ReferenceName>().is_err(), "{bad}");
        }
        assert!("0123abc".parse::<CommitId>().is_ok());
        assert!("HEAD~1".parse::<CommitId>().is_err());
        for good in ["a", "a/b", "a b/c", "docs/"] {
            assert!(good.parse::<SubPath>().is_ok(), "{good}");
        }
        for bad in ["", "/", "../a", "a/../b", "/a", "a//b", ".git", "a/.git/b", "-a", "*"] {
            assert!(bad.parse::<SubPath>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_repository_is_refused_or_survives_printing(text in "\\PC{0,60}") {
            if let Ok(repository) = text.parse::<Repository>() {
                prop_assert!(!repository.to_string().starts_with('-'));
                prop_assert_eq!(repository.to_string().parse::<Repository>().unwrap(), repository);
            }
        }
    }
}
