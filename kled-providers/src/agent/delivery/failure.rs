//! What each folder answered, as one error.

use kled_core::provider::Output;
use kled_core::{Error, ErrorKind, Result};

use super::remote::is_of_connection;

/// How much of an output an error repeats.
const EXCERPT: usize = 200;

/// The folders that did not take the agent.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<(String, Error)>);

impl Failures {
    /// Adds a folder; an error that is not about it comes back.
    pub(super) fn add(&mut self, folder: &str, error: Error) -> Result<()> {
        if is_of_connection(&error) {
            return Err(error.with("folder", folder));
        }
        self.0.push((folder.to_owned(), error));
        Ok(())
    }

    /// All of them; the first that is more than a folder which does not exist says what can be done.
    pub(super) fn into_error(self) -> Error {
        let causes: Vec<_> =
            self.0.iter().map(|(folder, error)| format!("{folder}: {}", error.message())).collect();
        let absent = |error: &Error| error.kind() == ErrorKind::NotFound;
        let telling = self.0.iter().position(|(_, error)| !absent(error)).unwrap_or_default();
        let first = self.0.into_iter().nth(telling).map(|(_, error)| error);
        let kind = first.as_ref().map_or(ErrorKind::InvalidInput, Error::kind);
        let hint = first.as_ref().and_then(Error::hint_text).unwrap_or(
            "give the container a folder that is writable and allows programs, for example an empty volume",
        );
        let error = Error::new(kind, "no folder of the container takes the agent")
            .with("folders", causes.join("; "))
            .hint(hint.to_owned());
        match first {
            Some(cause) => error.because(cause),
            None => error,
        }
    }
}

/// The beginning of what a program said, on one line.
pub(super) fn excerpt(output: &Output) -> String {
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(said);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(EXCERPT).collect()
}
