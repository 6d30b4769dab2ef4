//! A login that is given to git for one checkout.
//!
//! It travels in the environment of git's own processes: arguments are seen by everybody, files stay behind. git asks
//! for it through a credential helper that is set for the repository's own host only, so that a submodule elsewhere
//! does not get it.

use kled_core::Secret;
use url::Url;

use crate::agent::Credential;

const USERNAME: &str = "KLED_GIT_USERNAME";
const PASSWORD: &str = "KLED_GIT_PASSWORD";

/// The helper, a line of shell as git runs it. It answers questions and stores nothing.
const HELPER: &str = "!f() { test \"$1\" = get && \
    printf 'username=%s\\npassword=%s\\n' \"$KLED_GIT_USERNAME\" \"$KLED_GIT_PASSWORD\"; }; f";

/// A login for one host.
#[derive(Clone)]
pub(super) struct Login {
    /// The part of the address up to the port.
    host: String,
    username: String,
    password: Secret,
}

impl Login {
    pub(super) fn new(url: &Url, credential: &Credential) -> Self {
        Self {
            host: url[..url::Position::BeforePath].to_owned(),
            username: credential.username.clone(),
            password: credential.password.clone(),
        }
    }

    /// What git has in its environment. Settings that are given there already are kept.
    pub(super) fn variables(&self) -> [(String, String); 5] {
        let count: usize =
            std::env::var("GIT_CONFIG_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
        [
            ("GIT_CONFIG_COUNT".into(), (count + 1).to_string()),
            (format!("GIT_CONFIG_KEY_{count}"), format!("credential.{}.helper", self.host)),
            (format!("GIT_CONFIG_VALUE_{count}"), HELPER.into()),
            (USERNAME.into(), self.username.clone()),
            (PASSWORD.into(), self.password.expose().to_owned()),
        ]
    }
}
