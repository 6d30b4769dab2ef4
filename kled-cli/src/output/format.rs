//! How results are printed.

use std::str::FromStr;

use clap::ValueEnum;
use kled_core::{Error, ErrorKind, Result};
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

impl Format {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Yaml => "yaml",
        }
    }

    /// The whole result of a command, or nothing when it is to be a table.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the value cannot be serialised.
    pub fn document(self, value: &impl Serialize) -> Result<Option<String>> {
        match self {
            Self::Table => Ok(None),
            Self::Json => serde_json::to_string_pretty(value).map(|text| Some(text + "\n")).map_err(broken),
            Self::Yaml => serde_saphyr::to_string(value).map(Some).map_err(broken),
        }
    }

    /// One item of a stream without an end: a line of JSON, or a YAML document.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the value cannot be serialised.
    pub fn item(self, value: &impl Serialize) -> Result<Option<String>> {
        match self {
            Self::Table => Ok(None),
            Self::Json => serde_json::to_string(value).map(|text| Some(text + "\n")).map_err(broken),
            Self::Yaml => {
                serde_saphyr::to_string(value).map(|text| Some(format!("---\n{text}"))).map_err(broken)
            }
        }
    }
}

fn broken(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Internal, "the result cannot be printed in this format").because(cause)
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        <Self as ValueEnum>::from_str(text, false).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, "unknown output format")
                .with("value", format!("{text:?}"))
                .hint("use table, json or yaml")
        })
    }
}
