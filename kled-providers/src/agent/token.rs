//! What a driver has to know.

use std::fmt;

use kled_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// What a driver has to know to be served. Whoever can reach the agent may not be able to read what holds it: some
/// sandboxes keep files from being read and still let sockets be connected to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// A token of 244 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()))
    }

    /// A token from its text: letters and digits.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything else, without the text.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::new(ErrorKind::InvalidInput, "malformed token of a workspace"));
        }
        Ok(Self(text))
    }

    /// The text. Each call is a place to check in review.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares without telling by the time taken how much was right.
    pub(crate) fn is(&self, given: &str) -> bool {
        let (own, given) = (self.0.as_bytes(), given.as_bytes());
        own.len() == given.len() && own.iter().zip(given).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_and_not_shown() {
        let token = Token::random();
        assert!(token.is(token.expose()));
        assert!(!token.is(&token.expose()[1..]));
        assert!(!token.is(Token::random().expose()));
        assert!(!format!("{token:?}").contains(token.expose()));
        assert!(Token::new("a b").is_err());
    }
}
