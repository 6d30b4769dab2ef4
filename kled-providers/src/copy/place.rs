//! Where a copy goes on this machine, and how it gets there.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kled_core::{Error, ErrorKind, Result};

use super::failed;

/// The path that a copy is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(super) path: PathBuf,
    /// Whether only a folder can be there.
    folder: bool,
}

impl Target {
    /// As `cp` decides: in `destination` under the name `base` where that is a folder, else `destination` itself;
    /// without a `base` what is in the copied folder goes to `destination`.
    ///
    /// # Errors
    /// `NotFound` when the folder that is to hold it does not exist.
    pub fn find(destination: &Path, base: Option<&str>) -> Result<Self> {
        let text = destination.as_os_str().as_encoded_bytes();
        let folder = base.is_none() || text.ends_with(b"/") || text.ends_with(b"/.");
        let (path, folder) = match base {
            Some(base) if destination.is_dir() => (destination.join(base), false),
            _ => (destination.to_owned(), folder),
        };
        // Through links: what they lead to is replaced, not they.
        let path = path.canonicalize().unwrap_or(path);
        let holder =
            path.parent().map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
        match holder {
            Some(holder) if !path.is_dir() && !holder.is_dir() => {
                Err(Error::new(ErrorKind::NotFound, "the folder for the copy does not exist")
                    .with("path", holder.display())
                    .hint("make it first"))
            }
            _ => Ok(Self { path, folder }),
        }
    }

    /// Where the copy arrives: on the same file system, so that it is moved by a rename.
    pub(super) fn beside(&self) -> PathBuf {
        let parent = || self.path.parent().filter(|parent| *parent != Path::new(""));
        if self.path.is_dir() { self.path.clone() } else { parent().unwrap_or(Path::new(".")).to_owned() }
    }

    /// Moves what arrived to its place.
    pub(super) fn take(&self, arrived: &Path, folders: &[Folder]) -> Result<()> {
        if self.folder && !arrived.is_dir() {
            return Err(Error::new(ErrorKind::InvalidInput, "a file cannot have a folder's name")
                .with("path", self.path.display()));
        }
        let mut kept = BTreeSet::new();
        merge(arrived, &self.path, Path::new(""), &mut kept)
            .map_err(|(path, cause)| failed("move the copy to its place", &path, cause))?;
        // The innermost first: a folder that cannot be entered any more comes after what is in it.
        for folder in folders.iter().rev().filter(|folder| !kept.contains(&folder.path)) {
            folder.finish(&self.path).map_err(|cause| failed("set the mode", &self.path, cause))?;
        }
        Ok(())
    }
}

/// A folder of the copy, whose mode and time are set when all is in it.
#[derive(Debug)]
pub(super) struct Folder {
    /// Below the top of the copy.
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) modified: Option<SystemTime>,
}

impl Folder {
    fn finish(&self, top: &Path) -> io::Result<()> {
        let path = if self.path == Path::new("") { top.to_owned() } else { top.join(&self.path) };
        let opened = File::open(&path)?;
        if let Some(time) = self.modified {
            opened.set_modified(time)?;
        }
        opened.set_permissions(Permissions::from_mode(self.mode))
    }
}

/// Moves `from` to `to`. Folders that are there already are kept with what else they have and noted in `kept`; links
/// are never followed.
fn merge(
    from: &Path,
    to: &Path,
    below: &Path,
    kept: &mut BTreeSet<PathBuf>,
) -> Result<(), (PathBuf, io::Error)> {
    let about = |path: &Path| {
        let path = path.to_owned();
        move |cause| (path, cause)
    };
    let there = fs::symlink_metadata(to).ok();
    let arrived = fs::symlink_metadata(from).map_err(about(from))?;
    if !(arrived.is_dir() && there.is_some_and(|there| there.is_dir())) {
        return fs::rename(from, to).map_err(about(to));
    }
    kept.insert(below.to_owned());
    for entry in fs::read_dir(from).map_err(about(from))? {
        let name = entry.map_err(about(from))?.file_name();
        merge(&from.join(&name), &to.join(&name), &below.join(&name), kept)?;
    }
    Ok(())
}
