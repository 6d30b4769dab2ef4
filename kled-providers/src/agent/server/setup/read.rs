//! Finds and reads the file that says how a checkout is set up.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use kled_core::setup::{PROJECT_FILE, Place, ProjectFile, Setup, choose, malformed, parse_devcontainer};
use kled_core::{Error, ErrorKind, Result};

/// The longest file that is read.
const TEXT_MAX: u64 = 256 << 10;

/// How many entries of `.devcontainer` are looked at.
const FOLDERS_MAX: usize = 256;

/// What the project in `folder` asks for, by its `devcontainer.json` or `.kled.yaml`. Files that were passed over are
/// among the ignored fields. It blocks.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] with file, line and field for a malformed file, [`ErrorKind::PermissionDenied`] for one
/// that cannot be read.
pub fn read_setup(folder: &Path) -> Result<Setup> {
    let files = candidates(folder);
    let (place, passed_over) = choose(files.iter().map(String::as_str));
    let Some(place) = place else { return Ok(Setup::default()) };
    let text = text(folder, place.path())?;
    let mut setup = match &place {
        Place::Devcontainer(path) => parse_devcontainer(path, &text)?,
        Place::ProjectFile => parse_project_file(&text)?.into(),
    };
    setup.ignored.extend(passed_over);
    Ok(setup)
}

/// True where a project has a file that says how it is set up. It blocks, and reads no file.
#[must_use]
pub fn has_setup(folder: &Path) -> bool {
    !candidates(folder).is_empty()
}

/// The files that may say something.
fn candidates(folder: &Path) -> Vec<String> {
    let mut files: Vec<String> =
        [".devcontainer/devcontainer.json", ".devcontainer.json", PROJECT_FILE].map(Into::into).into();
    let names = std::fs::read_dir(folder.join(".devcontainer")).into_iter().flatten().flatten();
    files.extend(names.take(FOLDERS_MAX).filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(format!(".devcontainer/{name}/devcontainer.json"))
    }));
    files.retain(|file| folder.join(file).is_file());
    files
}

fn text(folder: &Path, file: &str) -> Result<String> {
    let mut text = String::new();
    let read =
        File::open(folder.join(file)).and_then(|open| open.take(TEXT_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > TEXT_MAX => {
            Err(malformed(file, None, "", "it is too long").with("limit", TEXT_MAX))
        }
        Ok(_) => Ok(text),
        Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
            Err(malformed(file, None, "", "it is not text in UTF-8").hint("save it as UTF-8"))
        }
        Err(cause) => Err(Error::new(ErrorKind::PermissionDenied, format!("cannot read the file: {cause}"))
            .with("file", file)),
    }
}

fn parse_project_file(text: &str) -> Result<ProjectFile> {
    // A file of comments alone says nothing.
    let document = serde_saphyr::from_str::<Option<ProjectFile>>(text);
    document.map(Option::unwrap_or_default).map_err(|error| {
        let line = error.location().map(|place| place.line());
        let formatter = serde_saphyr::DefaultMessageFormatter;
        let why = error.render_with_options(serde_saphyr::render_options! {
            formatter: &formatter,
            snippets: serde_saphyr::SnippetMode::Off,
        });
        // The place is in the context.
        let why = why.lines().next().unwrap_or_default();
        let why = why.split_once(" at line ").map_or(why, |(why, _)| why);
        malformed(PROJECT_FILE, line, "", why)
            .hint("the documentation of kled_core::setup::ProjectFile has an example")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_first_file_by_the_order_is_read_and_the_others_are_listed() {
        let folder = project(&[
            (".kled.yaml", "tools: [a]"),
            (".devcontainer/b/devcontainer.json", "{}"),
            (".devcontainer/a/devcontainer.json", r#"{"image": "a"}"#),
            (".devcontainer/a/b/devcontainer.json", "not read"),
        ]);
        let setup = read_setup(folder.path()).unwrap();
        assert_eq!(setup.file.as_deref(), Some(".devcontainer/a/devcontainer.json"));
        assert_eq!(setup.image.as_deref(), Some("a"));
        let ignored: Vec<_> = setup.ignored.iter().map(|field| field.field.as_str()).collect();
        assert_eq!(ignored, [".devcontainer/b/devcontainer.json", ".kled.yaml"]);
    }

    #[test]
    fn a_project_without_a_file_asks_for_nothing() {
        let folder = project(&[("README.md", "")]);
        assert_eq!(read_setup(folder.path()).unwrap(), Setup::default());
        // A folder of that name is no file.
        let folder = project(&[(".devcontainer.json/x", "")]);
        assert_eq!(read_setup(folder.path()).unwrap(), Setup::default());
    }

    #[test]
    fn a_project_file_of_comments_asks_for_nothing() {
        for text in ["", "# nothing\n", "---\n"] {
            let setup = read_setup(project(&[(".kled.yaml", text)]).path()).unwrap();
            assert_eq!(setup, Setup::from(ProjectFile::default()), "{text:?}");
        }
    }

    #[test]
    fn a_mistake_is_one_line_with_its_place() {
        let cases = [
            (".kled.yaml", "tools: [a]\ntoolz: [b]", Some("2"), "toolz"),
            (".kled.yaml", "ports:\n  - port: 70000\n    label: x", Some("2"), "port"),
            (".kled.yaml", "setup:\n  create: [", Some("2"), ""),
            (".devcontainer.json", "{\n\"image\": 5}", Some("2"), "not a string"),
        ];
        for (file, text, line, why) in cases {
            let error = read_setup(project(&[(file, text)]).path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            let context: std::collections::BTreeMap<_, _> = error.context().collect();
            assert_eq!(context.get("file").copied(), Some(file), "{error}");
            assert_eq!(context.get("line").copied(), line, "{error}");
            assert!(error.message().contains(why) && !error.to_string().contains('\n'), "{error}");
            assert!(!error.message().contains(" at line "), "{error}");
            assert!(error.hint_text().is_some());
        }
    }

    #[test]
    fn what_is_too_long_or_no_text_is_refused() {
        let long = "#".repeat(300 << 10);
        assert!(
            read_setup(project(&[(".kled.yaml", &long)]).path()).unwrap_err().message().contains("too long")
        );
        let folder = project(&[]);
        std::fs::write(folder.path().join(".devcontainer.json"), b"{\"a\": \"\xff\"}").unwrap();
        assert!(read_setup(folder.path()).unwrap_err().message().contains("UTF-8"));
    }
}
