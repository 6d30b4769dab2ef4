//! What to do about an error, where the place that failed does not know: the program knows its own commands.

use std::borrow::Cow;

use kled_core::{Error, ErrorKind};

/// The error's own hint, else the program's.
pub(super) fn hint<'a>(error: &'a Error, program: &str) -> Option<Cow<'a, str>> {
    if let Some(hint) = error.hint_text() {
        return Some(hint.into());
    }
    let about_workspace = error.context().any(|(key, _)| key == "workspace");
    let hint = match error.kind() {
        ErrorKind::NotFound if about_workspace => format!("see which there are: {program} workspace list"),
        ErrorKind::Unsupported => format!("see what providers can do: {program} provider list"),
        ErrorKind::Timeout => "give it more time with --timeout, or try again".into(),
        ErrorKind::CommandNotFound => {
            "name a program that the workspace has; for shell syntax use sh -c".into()
        }
        ErrorKind::Unauthenticated => {
            "log in first: for a repository by a git credential helper or an SSH key".into()
        }
        ErrorKind::StorageFull => "make room where the data goes, then run the same command again".into(),
        ErrorKind::Internal => "this may be a defect: run it again with -vv and report what it says".into(),
        _ if error.is_retryable() => "try again".into(),
        _ => return None,
    };
    Some(hint.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_that_failed_knows_best() {
        let error = Error::new(ErrorKind::Timeout, "late").hint("hurry");
        assert_eq!(hint(&error, "kled").as_deref(), Some("hurry"));
    }

    #[test]
    fn the_program_knows_its_commands() {
        let of = |error: Error| hint(&error, "acme").map(Cow::into_owned);
        let missing = Error::new(ErrorKind::NotFound, "gone").with("workspace", "demo");
        assert_eq!(of(missing).as_deref(), Some("see which there are: acme workspace list"));
        assert_eq!(of(Error::new(ErrorKind::Unavailable, "down")).as_deref(), Some("try again"));
        assert_eq!(of(Error::new(ErrorKind::Conflict, "taken")), None);
    }
}
