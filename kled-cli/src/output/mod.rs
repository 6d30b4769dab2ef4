//! What people and programs see: results on standard output, everything else on standard error.

mod age;
mod color;
mod failure;
mod format;
mod hint;
mod progress;
mod table;
mod transfer;
mod workspace;

pub use age::age;
pub use color::{Color, Look};
pub use failure::Failure;
pub use format::Format;
pub use table::Table;

pub(crate) use failure::report;
pub(crate) use progress::ProgressReport;
pub(crate) use transfer::watch_transfer;
pub(crate) use workspace::{workspace_details, workspace_table};

/// Text of others (a git server, a container engine) without the control characters that would drive a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    let escaped = |character: char| match character {
        '\n' | '\t' => character.to_string(),
        control if control.is_control() => control.escape_default().to_string(),
        other => other.to_string(),
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(super::printable("a\u{1b}[31mb\r\nc\td é"), "a\\u{1b}[31mb\\r\nc\td é");
    }
}
