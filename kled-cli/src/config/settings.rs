//! What holds in the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use kled_core::workspace::{Isolation, parse_duration};
use kled_core::{Error, ErrorKind, ProviderName, Result};
use serde::Serialize;

use super::{FileLayer, Found, Key, Layer, Origin};
use crate::Surroundings;
use crate::output::{Color, Format};

/// The settings of one run, parsed.
#[derive(Clone)]
pub struct Settings {
    found: BTreeMap<Key, Found>,
    providers: BTreeMap<ProviderName, BTreeMap<String, Found>>,
    /// Which provider is used.
    pub provider: ProviderName,
    /// How results are printed.
    pub output: Format,
    /// Whether output is coloured.
    pub color: Color,
    /// Where the local provider keeps workspaces; it decides itself when absent.
    pub data_directory: Option<PathBuf>,
    /// How strongly a new workspace is kept apart.
    pub isolation: Isolation,
    /// The socket of the container engine; it is looked for when absent.
    pub engine: Option<String>,
    /// The context of the kubeconfig, for the Kubernetes provider; its current one when absent.
    pub kubernetes_context: Option<String>,
    /// The namespace that has the workspaces, for the Kubernetes provider; the context's when absent.
    pub kubernetes_namespace: Option<String>,
    /// The longest that a create may take.
    pub create_timeout: Duration,
    /// The longest that a start may take.
    pub start_timeout: Duration,
    /// The longest that a stop may take.
    pub stop_timeout: Duration,
    /// The longest that a delete may take.
    pub delete_timeout: Duration,
}

/// A setting as `kled config view` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The key as it stands in the file, with the table's name where it is in one.
    pub key: String,
    /// The value, where there is one.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

impl Settings {
    /// Takes each key from the first place that has it: flags, environment, file, defaults.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] naming the key and where its malformed value stands.
    pub fn resolve(flags: &Layer, environment: &Layer, file: FileLayer, defaults: &Layer) -> Result<Self> {
        let mut found = BTreeMap::new();
        for key in Key::ALL {
            if let Some(first) =
                [flags, environment, &file.keys, defaults].into_iter().find_map(|layer| layer.get(key))
            {
                found.insert(key, first.clone());
            }
        }
        Ok(Self {
            provider: required(&found, Key::Provider)?,
            output: required(&found, Key::Output)?,
            color: required(&found, Key::Color)?,
            data_directory: found.get(&Key::DataDirectory).map(|found| PathBuf::from(&found.text)),
            isolation: required(&found, Key::Isolation)?,
            engine: found.get(&Key::Engine).map(|found| found.text.clone()),
            kubernetes_context: found.get(&Key::KubernetesContext).map(|found| found.text.clone()),
            kubernetes_namespace: found.get(&Key::KubernetesNamespace).map(|found| found.text.clone()),
            create_timeout: timeout(&found, Key::CreateTimeout)?,
            start_timeout: timeout(&found, Key::StartTimeout)?,
            stop_timeout: timeout(&found, Key::StopTimeout)?,
            delete_timeout: timeout(&found, Key::DeleteTimeout)?,
            providers: file.providers,
            found,
        })
    }

    /// Reads the file and the environment and resolves. `provider` is the application's default.
    ///
    /// # Errors
    /// What [`read_file`](super::read_file) and [`resolve`](Self::resolve) answer.
    pub fn load(
        flags: &Layer,
        file: Option<&Path>,
        surroundings: &Surroundings,
        provider: &str,
    ) -> Result<Self> {
        let (_, file) = super::read_file(file, surroundings)?;
        let environment = Layer::of_environment(surroundings);
        let mut settings =
            Self::resolve(flags, &environment, file, &Layer::of_defaults(surroundings, provider))?;
        settings.data_directory = settings
            .found
            .get(&Key::DataDirectory)
            .map(|found| located(found, &surroundings.working_directory));
        Ok(settings)
    }

    /// The settings that the file has for a provider, text by key.
    pub fn of_provider(&self, name: &ProviderName) -> impl Iterator<Item = (String, String)> {
        self.providers.get(name).into_iter().flatten().map(|(key, found)| (key.clone(), found.text.clone()))
    }

    /// Every setting with its origin, in a fixed order.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let keys = Key::ALL.into_iter().map(|key| match self.found.get(&key) {
            Some(found) => entry(key.name().into(), found.text.clone(), &found.origin),
            None => Entry { key: key.name().into(), value: None, origin: Origin::Default },
        });
        let providers = self.providers.iter().flat_map(|(name, settings)| {
            settings.iter().map(move |(key, found)| {
                entry(format!("providers.{name}.{key}"), shown(key, &found.text), &found.origin)
            })
        });
        keys.chain(providers).collect()
    }
}

impl std::fmt::Debug for Settings {
    /// What [`entries`](Self::entries) shows: providers' secrets are left out.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Settings").field(&self.entries()).finish()
    }
}

fn entry(key: String, value: String, origin: &Origin) -> Entry {
    Entry { key, value: Some(value), origin: origin.clone() }
}

/// A provider's settings are its own business and may hold a token: what looks like one by its name is not shown.
fn shown(key: &str, value: &str) -> String {
    let secret = ["token", "password", "secret", "credential", "key"];
    let key = key.to_ascii_lowercase();
    if secret.iter().any(|word| key.contains(word)) { "[redacted]".into() } else { value.into() }
}

/// A relative path is relative to the file that it stands in, else to the working directory.
fn located(found: &Found, working_directory: &Path) -> PathBuf {
    let base = match &found.origin {
        Origin::File { path, .. } => path.parent().unwrap_or(working_directory),
        Origin::Flag(_) | Origin::Environment(_) | Origin::Default => working_directory,
    };
    base.join(&found.text)
}

fn parsed<T>(found: &BTreeMap<Key, Found>, key: Key, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let Some(found) = found.get(&key) else {
        return Err(Error::new(ErrorKind::InvalidInput, "a setting has no value").with("key", key.name()));
    };
    parse(&found.text).map_err(|cause| cause.with("key", key.name()).with("origin", &found.origin))
}

fn required<T: FromStr<Err = Error>>(found: &BTreeMap<Key, Found>, key: Key) -> Result<T> {
    parsed(found, key, str::parse)
}

fn timeout(found: &BTreeMap<Key, Found>, key: Key) -> Result<Duration> {
    parsed(found, key, parse_duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer(present: &[bool], text: impl Fn(Key) -> String, origin: &Origin) -> Layer {
        let mut layer = Layer::default();
        for (key, _) in Key::ALL.into_iter().zip(present).filter(|(_, present)| **present) {
            layer.set(key, text(key), origin.clone());
        }
        layer
    }

    /// A well-formed value of each key, different for each place.
    fn value(key: Key, place: usize) -> String {
        let one_of = |values: [&str; 4]| values[place].to_owned();
        match key {
            Key::Provider | Key::Engine | Key::KubernetesContext | Key::KubernetesNamespace => {
                one_of(["a", "b", "c", "d"])
            }
            Key::Output => one_of(["json", "yaml", "table", "json"]),
            Key::Color => one_of(["always", "never", "auto", "always"]),
            Key::DataDirectory => one_of(["/a", "/b", "/c", "/d"]),
            Key::Isolation => one_of(["process", "container", "none", "default"]),
            Key::CreateTimeout | Key::StartTimeout | Key::StopTimeout | Key::DeleteTimeout => {
                one_of(["1s", "2s", "3s", "4s"])
            }
        }
    }

    proptest! {
        #[test]
        fn each_key_comes_from_the_first_place_that_has_it(
            flags in prop::collection::vec(any::<bool>(), Key::ALL.len()),
            environment in prop::collection::vec(any::<bool>(), Key::ALL.len()),
            file in prop::collection::vec(any::<bool>(), Key::ALL.len()),
        ) {
            let origins = [
                Origin::Flag("--x"),
                Origin::Environment("KLED_X"),
                Origin::File { path: "/f".into(), line: 1 },
                Origin::Default,
            ];
            let everywhere = vec![true; Key::ALL.len()];
            let at = |present: &[bool], place: usize| layer(present, |key| value(key, place), &origins[place]);
            let settings = Settings::resolve(
                &at(&flags, 0),
                &at(&environment, 1),
                FileLayer { keys: at(&file, 2), ..FileLayer::default() },
                &at(&everywhere, 3),
            ).unwrap();
            for (index, (key, entry)) in Key::ALL.into_iter().zip(settings.entries()).enumerate() {
                let place = [flags[index], environment[index], file[index], true].iter().position(|set| *set).unwrap();
                prop_assert_eq!(entry.origin, origins[place].clone());
                prop_assert_eq!(entry.value, Some(value(key, place)));
            }
        }
    }

    #[test]
    fn a_malformed_value_is_named_with_its_place() {
        let surroundings = Surroundings::in_memory("/");
        let defaults = Layer::of_defaults(&surroundings, "local");
        let mut environment = Layer::default();
        environment.set(Key::StopTimeout, "soon", Origin::Environment("KLED_STOP_TIMEOUT"));
        let error =
            Settings::resolve(&Layer::default(), &environment, FileLayer::default(), &defaults).unwrap_err();
        insta::assert_snapshot!(error, @r#"malformed duration (value: "soon", key: stop-timeout, origin: environment KLED_STOP_TIMEOUT)"#);
    }

    #[test]
    fn a_path_is_relative_to_where_it_is_written() {
        let in_file =
            Found { text: "data".into(), origin: Origin::File { path: "/etc/kled.toml".into(), line: 1 } };
        let in_environment =
            Found { text: "data".into(), origin: Origin::Environment("KLED_DATA_DIRECTORY") };
        assert_eq!(located(&in_file, Path::new("/work")), Path::new("/etc/data"));
        assert_eq!(located(&in_environment, Path::new("/work")), Path::new("/work/data"));
    }

    #[test]
    fn what_looks_like_a_secret_is_not_shown() {
        let text = "[providers.cloud]\nregion = \"north\"\napi-token = \"hunter2\"\n";
        let file = FileLayer::parse(Path::new("/f"), text).unwrap();
        let defaults = Layer::of_defaults(&Surroundings::in_memory("/"), "local");
        let settings = Settings::resolve(&Layer::default(), &Layer::default(), file, &defaults).unwrap();
        let shown = format!("{:?}", settings.entries());
        assert!(shown.contains("north") && !shown.contains("hunter2"), "{shown}");
    }
}
