//! Ports that a project serves.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// A port on which the project serves, written `3000` or `host:5432`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardedPort {
    /// The host, as the workspace names it; the workspace itself where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// 1 to 65535.
    pub number: NonZeroU16,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl FromStr for ForwardedPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || {
            Error::new(ErrorKind::InvalidInput, "malformed port")
                .with("value", format!("{text:?}"))
                .hint("write 3000 or \"host:3000\"")
        };
        let (host, number) = match text.rsplit_once(':') {
            Some((host, number)) => (Some(host), number),
            None => (None, text),
        };
        let is_host = |host: &str| {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        if !host.is_none_or(is_host) || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let host = host.filter(|host| *host != "localhost").map(Into::into);
        Ok(Self { host, number: number.parse().map_err(|_| malformed())?, label: None })
    }
}

impl fmt::Display for ForwardedPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(formatter, "{host}:{}", self.number),
            None => write!(formatter, "{}", self.number),
        }
    }
}
