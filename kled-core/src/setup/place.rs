//! Which of a checkout's files says how it is set up.

use super::{IgnoredField, IgnoredReason};

/// Kled's own file, read where there is no `devcontainer.json`.
pub const PROJECT_FILE: &str = ".kled.yaml";

const FOLDER: &str = ".devcontainer/";
const NAME: &str = "devcontainer.json";

/// A file that says how a checkout is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A `devcontainer.json`, relative to the checkout.
    Devcontainer(String),
    /// The [`PROJECT_FILE`].
    ProjectFile,
}

impl Place {
    /// The path, relative to the checkout.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Devcontainer(path) => path,
            Self::ProjectFile => PROJECT_FILE,
        }
    }
}

/// 0 and 1 for the two places that are preferred, 2 for `.devcontainer/FOLDER/devcontainer.json`.
fn rank(path: &str) -> Option<u8> {
    if path == ".devcontainer/devcontainer.json" {
        return Some(0);
    }
    if path == ".devcontainer.json" {
        return Some(1);
    }
    let folder = path.strip_prefix(FOLDER)?.strip_suffix(NAME)?.strip_suffix('/')?;
    (!folder.is_empty() && !folder.contains('/')).then_some(2)
}

/// Chooses among `files`, paths relative to the checkout; others than set-up files may be among them.
///
/// The order is `.devcontainer/devcontainer.json`, `.devcontainer.json`, the first
/// `.devcontainer/FOLDER/devcontainer.json` by name, [`PROJECT_FILE`]. What was passed over comes with it.
///
/// ```
/// use kled_core::setup::choose;
///
/// let (place, passed_over) = choose([".kled.yaml", ".devcontainer/web/devcontainer.json"]);
/// assert_eq!(place.unwrap().path(), ".devcontainer/web/devcontainer.json");
/// assert_eq!(passed_over[0].field, ".kled.yaml");
/// assert_eq!(choose(["README.md"]), (None, vec![]));
/// ```
pub fn choose<'a>(files: impl IntoIterator<Item = &'a str>) -> (Option<Place>, Vec<IgnoredField>) {
    let mut found: Vec<(u8, &str)> = files
        .into_iter()
        .filter_map(|path| if path == PROJECT_FILE { Some((3, path)) } else { Some((rank(path)?, path)) })
        .collect();
    found.sort_unstable();
    found.dedup();
    let mut found = found.into_iter();
    let place = found.next().map(|(rank, path)| match rank {
        3 => Place::ProjectFile,
        _ => Place::Devcontainer(path.into()),
    });
    let passed_over =
        found.map(|(_, path)| IgnoredField::new(path, None, IgnoredReason::NotChosen)).collect();
    (place, passed_over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_gives_the_order() {
        let files = [
            ".kled.yaml",
            ".devcontainer/b/devcontainer.json",
            ".devcontainer/a/devcontainer.json",
            ".devcontainer.json",
            ".devcontainer/devcontainer.json",
        ];
        let order = [4, 3, 2, 1, 0];
        for skipped in 0..order.len() {
            let left: Vec<&str> = order[skipped..].iter().map(|index| files[*index]).collect();
            let (place, passed_over) = choose(left.iter().rev().copied());
            assert_eq!(place.map(|place| place.path().to_owned()).as_deref(), left.first().copied());
            assert_eq!(passed_over.len(), left.len() - 1);
        }
    }

    #[test]
    fn deeper_folders_are_no_place() {
        for path in [
            ".devcontainer/a/b/devcontainer.json",
            ".devcontainer//devcontainer.json",
            "devcontainer.json",
            ".devcontainer/adevcontainer.json",
        ] {
            assert_eq!(choose([path]), (None, vec![]), "{path}");
        }
    }
}
