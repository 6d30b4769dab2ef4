//! Names, parsed at the edge: once a value has one of these types it is well formed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, ErrorKind, Result};

/// The longest DNS label (RFC 1123), and the longest name part of a Kubernetes label.
pub(crate) const LABEL_MAX: usize = 63;

fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= LABEL_MAX
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Letters, digits, `-`, `_` and `.`, at most 63, beginning and ending with a letter or digit.
fn is_qualified_part(text: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_MAX
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A string newtype that is checked when it is parsed or deserialised.
macro_rules! checked_name {
    ($(#[$documentation:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$documentation])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses and checks `text`.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidInput`] with the rule that `text` breaks.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) {
                    return Ok(Self(text));
                }
                Err(Error::new(ErrorKind::InvalidInput, concat!("malformed ", $what))
                    .with("value", format!("{text:?}"))
                    .hint(concat!("it must be ", $rule)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

checked_name! {
    /// The name of a workspace: a DNS label (RFC 1123), so that it is a valid host name and Kubernetes object name.
    ///
    /// ```
    /// use kled_core::WorkspaceName;
    ///
    /// assert!(WorkspaceName::new("project-a").is_ok());
    /// assert!(WorkspaceName::new("Project_A").is_err());
    /// ```
    WorkspaceName, "workspace name",
    "at most 63 lower-case letters, digits and hyphens, beginning and ending with a letter or digit", is_dns_label
}

checked_name! {
    /// The name under which a provider is registered: a DNS label.
    ProviderName, "provider name",
    "at most 63 lower-case letters, digits and hyphens, beginning and ending with a letter or digit", is_dns_label
}

impl ProviderName {
    /// The name of the in-memory provider where none is given.
    pub(crate) fn memory() -> Self {
        Self("memory".into())
    }
}

checked_name! {
    /// The name of an environment variable, by the rule that Kubernetes has for one.
    VariableName, "environment variable name",
    "letters, digits, '_', '-' and '.', not beginning with a digit",
    |text| {
        text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    }
}

checked_name! {
    /// The key of a label, by the rule that Kubernetes has for one: an optional DNS prefix and `/`, then a name.
    LabelKey, "label key",
    "NAME or PREFIX/NAME: NAME has at most 63 letters, digits, '-', '_' and '.', PREFIX is a DNS name",
    |text| match text.split_once('/') {
        None => is_qualified_part(text),
        Some((prefix, name)) => {
            prefix.len() <= 253 && prefix.split('.').all(is_dns_label) && is_qualified_part(name)
        }
    }
}

checked_name! {
    /// The value of a label, by the rule that Kubernetes has for one. It may be empty.
    LabelValue, "label value",
    "empty or at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
    |text| text.is_empty() || is_qualified_part(text)
}

/// The identity of one workspace: a name may be used again after a delete, an identity never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkspaceId(Uuid);

impl WorkspaceId {
    /// A new random identity (UUID version 4).
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for WorkspaceId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self).map_err(|cause: uuid::Error| {
            Error::new(ErrorKind::InvalidInput, "malformed workspace identity")
                .with("value", text)
                .because(cause)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn label_keys_follow_kubernetes() {
        for good in ["a", "A.b_c", "kled.io/workspace", "x-y.example.com/Name"] {
            assert!(LabelKey::new(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "A.com/x", "-a", "a/b/c", &"x".repeat(64)] {
            assert!(LabelKey::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_workspace_name_is_a_dns_label_or_refused(text in "\\PC{0,70}") {
            let expected = text.len() <= 63
                && text.split('-').next().is_some_and(|part| !part.is_empty())
                && text.rsplit('-').next().is_some_and(|part| !part.is_empty())
                && text.chars().all(|character| matches!(character, 'a'..='z' | '0'..='9' | '-'));
            prop_assert_eq!(WorkspaceName::new(text).is_ok(), expected);
        }

        #[test]
        fn well_formed_names_survive_serialisation(text in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
            let name = WorkspaceName::new(text).unwrap();
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<WorkspaceName>(&json).unwrap(), name);
        }
    }
}
