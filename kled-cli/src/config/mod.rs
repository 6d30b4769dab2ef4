//! Settings: by flag, before environment (`KLED_*`), before file, before default; each knows where it came from.
//!
//! The decision is a function of values ([`Settings::resolve`]): reading the file is the only step that acts.

mod file;
mod key;
mod settings;

pub use file::{FileLayer, default_path, read_file};
pub use key::Key;
pub use settings::{Entry, Settings};

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::Surroundings;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag(&'static str),
    /// An environment variable.
    Environment(&'static str),
    /// The configuration file.
    File {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(formatter, "flag {flag}"),
            Self::Environment(variable) => write!(formatter, "environment {variable}"),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Default => formatter.write_str("default"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A value as it was written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As written.
    pub text: String,
    /// Where.
    pub origin: Origin,
}

/// The values of one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer(BTreeMap<Key, Found>);

impl Layer {
    /// Sets a value.
    pub fn set(&mut self, key: Key, text: impl Into<String>, origin: Origin) {
        self.0.insert(key, Found { text: text.into(), origin });
    }

    /// The value of a key, where this place has one.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Found> {
        self.0.get(&key)
    }

    /// What the environment says.
    #[must_use]
    pub fn of_environment(surroundings: &Surroundings) -> Self {
        let mut layer = Self::default();
        for key in Key::ALL {
            if let Some(text) = surroundings.variable(key.variable()) {
                layer.set(key, text, Origin::Environment(key.variable()));
            }
        }
        layer
    }

    /// What holds when nobody says anything. `provider` is the application's own default.
    #[must_use]
    pub fn of_defaults(surroundings: &Surroundings, provider: &str) -> Self {
        let mut layer = Self::default();
        for key in Key::ALL {
            let text = match key {
                Key::Provider => Some(provider.to_owned()),
                Key::DataDirectory => default_data_directory(surroundings),
                key => key.fixed_default().map(str::to_owned),
            };
            if let Some(text) = text {
                layer.set(key, text, Origin::Default);
            }
        }
        layer
    }
}

/// `$XDG_DATA_HOME/kled` or `~/.local/share/kled`. Nothing without a home: then the provider decides.
fn default_data_directory(surroundings: &Surroundings) -> Option<String> {
    let folder = base_folder(surroundings, "XDG_DATA_HOME", ".local/share")?.join("kled");
    folder.into_os_string().into_string().ok()
}

/// A folder by the XDG base directory specification, which says that a relative path has to be ignored.
fn base_folder(surroundings: &Surroundings, variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute =
        |name: &str| surroundings.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}
