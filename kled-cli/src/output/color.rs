//! When to colour, and what.

use std::str::FromStr;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use jiff::Timestamp;
use kled_core::workspace::WorkspaceStatus;
use kled_core::{Error, ErrorKind};

use crate::{Sink, Surroundings};

/// When output is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    /// Whether `sink` gets colours.
    #[must_use]
    pub fn applies_to(self, sink: &Sink, surroundings: &Surroundings) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            // By no-color.org the variable counts when it is not empty, whatever its value.
            Self::Auto => {
                sink.is_terminal()
                    && surroundings.variable("NO_COLOR").is_none()
                    && surroundings.variable("TERM") != Some("dumb")
            }
        }
    }
}

impl FromStr for Color {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        <Self as ValueEnum>::from_str(text, false).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, "unknown colour setting")
                .with("value", format!("{text:?}"))
                .hint("use auto, always or never")
        })
    }
}

/// How a result for people looks.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// With colours.
    pub color: bool,
    /// For ages.
    pub now: Timestamp,
}

impl Look {
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// The colour of a state: green for what runs, red for what cannot, yellow for what somebody should look at.
pub(crate) fn state_style(status: &WorkspaceStatus) -> Style {
    match status {
        WorkspaceStatus::Running { .. } => AnsiColor::Green.on_default(),
        WorkspaceStatus::Failed { .. } => AnsiColor::Red.on_default(),
        WorkspaceStatus::Interrupted { .. } => AnsiColor::Yellow.on_default(),
        _ => Style::new(),
    }
}
