//! Secrets that cannot print, and references to where they are kept.

use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use crate::{Error, ErrorKind, Result};

const REDACTED: &str = "[redacted]";

/// A secret value. `Debug`, `Display` and serialisation give `[redacted]`; the memory is wiped on drop.
///
/// ```
/// use kled_core::Secret;
///
/// let secret = Secret::new("hunter2");
/// assert_eq!(format!("{secret} {secret:?}"), "[redacted] Secret([redacted])");
/// assert_eq!(serde_json::to_string(&secret)?, "\"[redacted]\"");
/// assert_eq!(secret.expose(), "hunter2");
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes a value into custody.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// The clear value. Each call is a place to check in review.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret({REDACTED})")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Where a secret is kept, as `source:location`, for example `env:GITHUB_TOKEN`, `file:/run/secrets/token` or
/// `vault:secret/data/app#token`. A spec holds references only; a
/// [`SecretSource`](crate::ports::SecretSource) resolves them when a command starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretReference {
    source: String,
    location: String,
}

impl SecretReference {
    /// The part before the first colon: which source resolves it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The part after the first colon, in the source's own syntax.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }
}

impl FromStr for SecretReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = |why: &str| {
            // The text is not repeated: a value given in place of a reference must not reach a log.
            Error::new(ErrorKind::InvalidInput, format!("malformed secret reference: {why}"))
                .hint("write it as source:location, for example env:GITHUB_TOKEN or file:/run/secrets/token")
        };
        let (source, location) = text.split_once(':').ok_or_else(|| malformed("it has no colon"))?;
        if source.is_empty() || !source.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
            return Err(malformed("the source before the colon is lower-case letters and hyphens"));
        }
        if location.is_empty() || location.contains(char::is_control) {
            return Err(malformed("the location after the colon is empty or has control characters"));
        }
        Ok(Self { source: source.into(), location: location.into() })
    }
}

impl TryFrom<String> for SecretReference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SecretReference> for String {
    fn from(reference: SecretReference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for SecretReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.source, self.location)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_reference_is_not_repeated() {
        let error = "hunter2".parse::<SecretReference>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn references_round_trip() {
        for text in ["env:GITHUB_TOKEN", "file:/run/secrets/a:b", "vault:secret/data/app#token"] {
            assert_eq!(text.parse::<SecretReference>().unwrap().to_string(), text);
        }
    }
}
