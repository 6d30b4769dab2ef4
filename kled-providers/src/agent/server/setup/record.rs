//! What was set up, noted on the workspace's volume.

use std::io::{self, Write};
use std::path::Path;

use kled_core::setup::{Done, GitIdentity, Setup};
use kled_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

const FILE: &str = "setup.json";

/// What has to be known when the workspace is started again. It has the project's own words and no value of a variable,
/// so nothing secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// The steps that are done.
    pub(super) done: Done,
    /// What the project asked for when it was last set up.
    pub(super) setup: Setup,
    /// Who commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) git_identity: Option<GitIdentity>,
}

impl Record {
    /// Reads what is noted in `folder`; nothing where nothing is.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join(FILE);
        let unreadable = |cause: io::Error| {
            Error::new(ErrorKind::Internal, format!("the record of the set-up cannot be read: {cause}"))
                .with("file", file.display())
                .hint("delete the file; the set-up is then done again from its beginning")
        };
        match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|cause| unreadable(cause.into())),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(unreadable(cause)),
        }
    }

    /// Notes it in `folder`, all of it or nothing.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let written = || -> io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            let lasting = Self { done: self.done.clone().at_new_start(), ..self.clone() };
            file.write_all(&serde_json::to_vec(&lasting)?)?;
            file.as_file().sync_all()?;
            file.persist(folder.join(FILE))?;
            std::fs::File::open(folder)?.sync_all()
        };
        written().map_err(|cause| {
            let kind = match cause.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    ErrorKind::PermissionDenied
                }
                _ => ErrorKind::Internal,
            };
            Error::new(kind, format!("the record of the set-up cannot be written: {cause}"))
                .with("folder", folder.display())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kled_core::setup::{Phase, StepKind, parse_devcontainer, plan};

    #[test]
    fn steps_of_a_start_are_not_noted() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
        let text = r#"{"onCreateCommand": "a", "postStartCommand": "b"}"#;
        let setup = parse_devcontainer(".devcontainer.json", text).unwrap();
        let mut record = Record { setup, ..Record::default() };
        for phase in [Phase::Create, Phase::Start] {
            plan(&record.setup, phase, &record.done.clone()).iter().for_each(|step| record.done.record(step));
        }
        let place = folder.path().join("made/when/missing");
        record.write(&place).unwrap();
        let read = Record::read(&place).unwrap().unwrap();
        assert_eq!(read.setup, record.setup);
        assert!(plan(&read.setup, Phase::Create, &read.done).is_empty());
        assert_eq!(plan(&read.setup, Phase::Start, &read.done)[0].kind, StepKind::PostStart);
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_record_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Record::read(folder.path()).unwrap_err().hint_text().is_some());
    }
}
