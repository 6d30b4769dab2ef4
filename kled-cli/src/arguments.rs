//! The command line as types. Their documentation is the help text.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser};
use kled_core::workspace::parse_duration;
use kled_core::{Error, ErrorKind, ProviderName, Result};

use crate::commands::Command;
use crate::config::{Key, Layer, Origin};
use crate::output::{Color, Format};

/// Isolated workspaces from git repositories, on any backend
#[derive(Debug, Parser)]
#[command(disable_version_flag = true, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArguments {
    /// How results are printed: table, json or yaml [default: table]
    #[arg(short, long, global = true, value_name = "FORMAT", hide_possible_values = true)]
    pub(crate) output: Option<Format>,
    /// The provider that has the workspaces [default: local]
    #[arg(long, global = true, value_name = "NAME", value_parser = checked::<ProviderName>)]
    pub(crate) provider: Option<ProviderName>,
    /// The context of the kubeconfig, where the provider is on Kubernetes [default: the current one]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace, where the provider is on Kubernetes [default: the context's]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Say what is done on standard error; twice and thrice says more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to colour: auto, always or never [default: auto]
    #[arg(long, global = true, value_name = "WHEN", hide_possible_values = true)]
    pub(crate) color: Option<Color>,
    /// No progress on standard error
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

impl GlobalArguments {
    /// What the flags say about settings.
    pub(crate) fn layer(&self) -> Layer {
        let mut layer = Layer::default();
        if let Some(provider) = &self.provider {
            layer.set(Key::Provider, provider.as_str(), Origin::Flag("--provider"));
        }
        if let Some(context) = &self.context {
            layer.set(Key::KubernetesContext, context, Origin::Flag("--context"));
        }
        if let Some(namespace) = &self.namespace {
            layer.set(Key::KubernetesNamespace, namespace, Origin::Flag("--namespace"));
        }
        if let Some(output) = self.output {
            layer.set(Key::Output, output.as_str(), Origin::Flag("--output"));
        }
        if let Some(color) = self.color {
            layer.set(Key::Color, color.as_str(), Origin::Flag("--color"));
        }
        layer
    }
}

/// For clap, which does not know hints: the rule goes into the line.
pub(crate) fn checked<T: FromStr<Err = Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: Error| with_hint(&error))
}

fn with_hint(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{}: {hint}", error.message()),
        None => error.message().to_owned(),
    }
}

/// For clap: a duration.
pub(crate) fn checked_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| with_hint(&error))
}

/// Splits `KEY=VALUE`. The text is not repeated in the error: it may be a secret.
pub(crate) fn key_and_value<'a>(flag: &'static str, text: &'a str) -> Result<(&'a str, &'a str)> {
    text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "malformed pair: it has no '=' or nothing before it")
            .with("option", flag)
            .hint("write KEY=VALUE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_malformed_pair_is_not_repeated() {
        for text in ["hunter2", "=hunter2"] {
            let error = key_and_value("--secret", text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert_eq!(key_and_value("--env", "A=b=c").unwrap(), ("A", "b=c"));
        assert_eq!(key_and_value("--env", "A=").unwrap(), ("A", ""));
    }

    #[test]
    fn durations_are_positive() {
        assert_eq!(parse_duration("1h 30m").unwrap(), Duration::from_secs(5400));
        for text in ["", "0s", "-1s", "5", "soon"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
