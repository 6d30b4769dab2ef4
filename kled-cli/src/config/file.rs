//! The configuration file.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use kled_core::{Error, ErrorKind, ProviderName, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Found, Key, Layer, Origin, base_folder};
use crate::Surroundings;

/// The table that holds one table of settings for each provider.
const PROVIDERS: &str = "providers";

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileLayer {
    /// The keys.
    pub keys: Layer,
    /// `[providers.NAME]`.
    pub providers: BTreeMap<ProviderName, BTreeMap<String, Found>>,
}

/// `$XDG_CONFIG_HOME/kled/config.toml` or `~/.config/kled/config.toml`. Nothing without a home.
#[must_use]
pub fn default_path(surroundings: &Surroundings) -> Option<PathBuf> {
    Some(base_folder(surroundings, "XDG_CONFIG_HOME", ".config")?.join("kled/config.toml"))
}

/// Reads the file of the flag `--config`, else of `KLED_CONFIG`, else the default one, which need not exist.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when a file that was named cannot be read, or what [`FileLayer::parse`] answers.
pub fn read_file(flag: Option<&Path>, surroundings: &Surroundings) -> Result<(Option<PathBuf>, FileLayer)> {
    let named = flag.map(Path::to_owned).or_else(|| surroundings.variable("KLED_CONFIG").map(PathBuf::from));
    let required = named.is_some();
    let Some(path) = named.or_else(|| default_path(surroundings)) else {
        return Ok((None, FileLayer::default()));
    };
    let path = surroundings.working_directory.join(path);
    match std::fs::read_to_string(&path) {
        Ok(text) => FileLayer::parse(&path, &text).map(|layer| (Some(path), layer)),
        Err(cause) if !required && cause.kind() == io::ErrorKind::NotFound => {
            Ok((None, FileLayer::default()))
        }
        Err(cause) => Err(Error::new(ErrorKind::InvalidInput, "the configuration file cannot be read")
            .with("file", path.display())
            .because(cause)),
    }
}

/// A text with its name, for errors that say where.
struct Document<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Document<'_> {
    /// Line and column from 1; columns count characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>) -> Error {
        let (line, column) = self.position(span.start);
        Error::new(ErrorKind::InvalidInput, message)
            .with("file", self.path.display())
            .with("line", line)
            .with("column", column)
    }

    fn found(&self, span: Range<usize>, text: String) -> Found {
        let line = self.position(span.start).0;
        Found { text, origin: Origin::File { path: self.path.to_owned(), line } }
    }
}

impl FileLayer {
    /// Reads the text of a file; `path` is for errors and origins.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] with file, line and column when the text is malformed, a key is unknown or a value
    /// has the wrong type.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let document = Document { path, text };
        let table = DeTable::parse(text).map_err(|cause| {
            let reason = cause.message().lines().next().unwrap_or_default().to_owned();
            document.error(
                cause.span().unwrap_or_default(),
                format!("the configuration file is malformed: {reason}"),
            )
        })?;
        let mut layer = Self::default();
        for (name, value) in table.get_ref() {
            match name.get_ref().as_ref() {
                PROVIDERS => layer.providers = providers(&document, value)?,
                text => {
                    let key =
                        Key::from_name(text).ok_or_else(|| unknown_key(&document, name.span(), text))?;
                    let text = scalar(&document, key.name(), value)?;
                    layer.keys.0.insert(key, document.found(name.span(), text));
                }
            }
        }
        Ok(layer)
    }
}

fn unknown_key(document: &Document<'_>, span: Range<usize>, name: &str) -> Error {
    let known: Vec<_> = Key::ALL.iter().map(|key| key.name()).chain([PROVIDERS]).collect();
    document
        .error(span, "unknown key in the configuration file")
        .with("key", name)
        .hint(format!("known keys: {}", known.join(", ")))
}

fn scalar(document: &Document<'_>, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        other => Err(document
            .error(value.span(), format!("the value must be a text, not {}", other.type_str()))
            .with("key", key)),
    }
}

fn table<'a, 'i>(
    document: &Document<'_>,
    key: &str,
    value: &'a Spanned<DeValue<'i>>,
) -> Result<&'a DeTable<'i>> {
    value.get_ref().as_table().ok_or_else(|| {
        document
            .error(value.span(), "the value must be a table")
            .with("key", key)
            .hint("write [providers.NAME]")
    })
}

fn providers(
    document: &Document<'_>,
    value: &Spanned<DeValue<'_>>,
) -> Result<BTreeMap<ProviderName, BTreeMap<String, Found>>> {
    let mut providers = BTreeMap::new();
    for (name, settings) in table(document, PROVIDERS, value)? {
        let provider = ProviderName::new(name.get_ref().as_ref()).map_err(|cause| {
            document.error(name.span(), "malformed provider name").with("key", name.get_ref()).because(cause)
        })?;
        let mut found = BTreeMap::new();
        for (key, value) in table(document, provider.as_str(), settings)? {
            let text = scalar(document, key.get_ref(), value)?;
            found.insert(key.get_ref().to_string(), document.found(key.span(), text));
        }
        providers.insert(provider, found);
    }
    Ok(providers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FileLayer> {
        FileLayer::parse(Path::new("/config.toml"), text)
    }

    #[test]
    fn every_value_knows_its_line() {
        let layer = parse("# hello\nprovider = \"memory\"\n\n[providers.local]\nsize = 3\n").unwrap();
        let origin = |line| Origin::File { path: "/config.toml".into(), line };
        let provider = Found { text: "memory".into(), origin: origin(2) };
        assert_eq!(layer.keys.get(Key::Provider), Some(&provider));
        let local = &layer.providers[&ProviderName::new("local").unwrap()];
        assert_eq!(local["size"], Found { text: "3".into(), origin: origin(5) });
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let mistakes = [
            "provider = \"local\"\nprovdier = \"x\"\n",
            "provider = \n",
            "provider = \"a\"\nprovider = \"b\"\n",
            "output = [\"json\"]\n",
            "providers = 3\n",
            "[providers]\nlocal = 3\n",
            "[providers.Local]\n",
            "[providers.local]\nkey = { a = 1 }\n",
        ];
        let errors: Vec<_> = mistakes.iter().map(|text| parse(text).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(errors.join("\n"), @r#"
        unknown key in the configuration file (file: /config.toml, line: 2, column: 1, key: provdier)
        the configuration file is malformed: string values must be quoted, expected literal string (file: /config.toml, line: 1, column: 12)
        the configuration file is malformed: duplicate key (file: /config.toml, line: 2, column: 1)
        the value must be a text, not array (file: /config.toml, line: 1, column: 10, key: output)
        the value must be a table (file: /config.toml, line: 1, column: 13, key: providers)
        the value must be a table (file: /config.toml, line: 2, column: 9, key: local)
        malformed provider name (file: /config.toml, line: 1, column: 12, key: Local)
        the value must be a text, not table (file: /config.toml, line: 2, column: 7, key: key)
        "#);
    }

    #[test]
    fn only_a_named_file_has_to_exist() {
        let folder = tempfile::tempdir().unwrap();
        let mut surroundings = Surroundings::in_memory(folder.path());
        assert_eq!(read_file(None, &surroundings).unwrap(), (None, FileLayer::default()));
        surroundings.variables.insert("HOME".into(), folder.path().to_str().unwrap().into());
        assert_eq!(read_file(None, &surroundings).unwrap(), (None, FileLayer::default()));
        let error = read_file(Some(Path::new("missing.toml")), &surroundings).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        surroundings.variables.insert("KLED_CONFIG".into(), "missing.toml".into());
        assert!(read_file(None, &surroundings).unwrap_err().to_string().contains("missing.toml"));
    }

    #[test]
    fn the_flag_goes_before_the_variable_and_that_before_the_default() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("kled")).unwrap();
        for name in ["flag.toml", "variable.toml", "kled/config.toml"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let mut surroundings = Surroundings::in_memory(folder.path());
        let root = folder.path().to_str().unwrap().to_owned();
        surroundings.variables.insert("XDG_CONFIG_HOME".into(), root);
        let read = |flag: Option<&str>, surroundings: &Surroundings| {
            let path = read_file(flag.map(Path::new), surroundings).unwrap().0.unwrap();
            path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(read(None, &surroundings), "kled/config.toml");
        surroundings.variables.insert("KLED_CONFIG".into(), "variable.toml".into());
        assert_eq!(read(None, &surroundings), "variable.toml");
        assert_eq!(read(Some("flag.toml"), &surroundings), "flag.toml");
    }
}
