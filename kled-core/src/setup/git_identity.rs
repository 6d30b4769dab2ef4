//! Who the commits of a workspace are by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// The identity that git in the workspace commits with.
///
/// ```
/// use kled_core::setup::GitIdentity;
///
/// let identity = GitIdentity::new("Ada Lovelace", "ada@example.com")?;
/// let variables = identity.environment(&Default::default());
/// assert_eq!(variables["GIT_CONFIG_COUNT"], "2");
/// assert_eq!(variables["GIT_CONFIG_VALUE_0"], "Ada Lovelace");
/// # Ok::<_, kled_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GitIdentity {
    name: String,
    email: String,
}

impl GitIdentity {
    /// A name and an e-mail address.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where git would refuse or cut it: empty, or with a control character, `<` or `>`.
    pub fn new(name: impl Into<String>, email: impl Into<String>) -> Result<Self> {
        let (name, email) = (name.into(), email.into());
        for (field, text) in [("name", &name), ("email", &email)] {
            let forbidden = |character: char| character.is_control() || matches!(character, '<' | '>');
            if text.trim().is_empty() || text.contains(forbidden) {
                return Err(Error::new(ErrorKind::InvalidInput, "malformed git identity")
                    .with("field", field)
                    .with("value", format!("{text:?}"))
                    .hint("give a name and an e-mail address without '<', '>' and line breaks"));
            }
        }
        Ok(Self { name, email })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The e-mail address.
    #[must_use]
    pub fn email(&self) -> &str {
        &self.email
    }

    /// The variables that give it to git, counted on from those that `environment` has already. They win over every
    /// configuration file, so that no file of the image or of the dotfiles has to be changed for it.
    #[must_use]
    pub fn environment(&self, environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let first: usize =
            environment.get("GIT_CONFIG_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0);
        let mut variables = BTreeMap::from([("GIT_CONFIG_COUNT".into(), (first + 2).to_string())]);
        for (offset, (key, value)) in
            [("user.name", &self.name), ("user.email", &self.email)].into_iter().enumerate()
        {
            let index = first + offset;
            variables.insert(format!("GIT_CONFIG_KEY_{index}"), key.into());
            variables.insert(format!("GIT_CONFIG_VALUE_{index}"), value.clone());
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_would_refuse_is_refused() {
        for (name, email) in [("", "a@b"), ("A", " "), ("A\nB", "a@b"), ("A", "<a@b>")] {
            assert!(GitIdentity::new(name, email).is_err(), "{name:?} {email:?}");
        }
    }

    #[test]
    fn what_is_configured_already_stays() {
        let before = BTreeMap::from([("GIT_CONFIG_COUNT".into(), "3".into())]);
        let variables = GitIdentity::new("A", "a@b").unwrap().environment(&before);
        assert_eq!(variables["GIT_CONFIG_COUNT"], "5");
        assert_eq!(variables["GIT_CONFIG_KEY_3"], "user.name");
        assert_eq!(variables["GIT_CONFIG_VALUE_4"], "a@b");
        assert_eq!(variables.len(), 5);
    }
}
