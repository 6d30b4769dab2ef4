//! What is left behind when a workspace ends, and what is not.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Below the agent's state: what was given for a time.
const CREDENTIALS: &str = "credentials";

/// Below the agent's state: what can be had again.
const CACHE: &str = "cache";

/// How long it may take at the end of a pod; what is not done then is done at the next start or end.
pub(super) const LIMIT: Duration = Duration::from_secs(2);

/// Removes credentials.
pub(super) fn wipe_credentials(state: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(state.join(CREDENTIALS)) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes the oldest entries of the cache until at most `limit` bytes are left. Answers how many were freed.
pub(super) fn shrink_cache(state: &Path, limit: u64) -> io::Result<u64> {
    let folder = state.join(CACHE);
    let entries = match std::fs::read_dir(&folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut entries = entries.map(|entry| Entry::read(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(|entry| entry.changed);
    let all: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut left = all;
    for entry in entries {
        if left <= limit {
            break;
        }
        entry.remove()?;
        left = left.saturating_sub(entry.bytes);
    }
    Ok(all - left)
}

struct Entry {
    path: PathBuf,
    is_folder: bool,
    bytes: u64,
    /// The last change in it.
    changed: SystemTime,
}

impl Entry {
    fn read(path: PathBuf) -> io::Result<Self> {
        let metadata = path.symlink_metadata()?;
        let mut entry = Self {
            is_folder: metadata.is_dir(),
            bytes: on_disk(&metadata),
            changed: metadata.modified()?,
            path,
        };
        let mut folders = if entry.is_folder { vec![entry.path.clone()] } else { Vec::new() };
        while let Some(folder) = folders.pop() {
            for child in std::fs::read_dir(folder)? {
                let child = child?;
                let metadata = child.metadata()?;
                entry.bytes += on_disk(&metadata);
                entry.changed = entry.changed.max(metadata.modified()?);
                if metadata.is_dir() {
                    folders.push(child.path());
                }
            }
        }
        Ok(entry)
    }

    fn remove(&self) -> io::Result<()> {
        if self.is_folder { std::fs::remove_dir_all(&self.path) } else { std::fs::remove_file(&self.path) }
    }
}

/// In units of 512 bytes whatever the file system's own are.
fn on_disk(metadata: &Metadata) -> u64 {
    metadata.blocks() * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, age: Duration) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![1_u8; 100_000]).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn the_oldest_of_the_cache_goes_first_and_only_when_it_is_too_large() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(shrink_cache(state.path(), 0).unwrap(), 0);
        let cache = state.path().join(CACHE);
        write(&cache.join("old"), Duration::from_secs(7200));
        write(&cache.join("new/part"), Duration::ZERO);
        assert_eq!(shrink_cache(state.path(), 1 << 20).unwrap(), 0);
        assert!(shrink_cache(state.path(), 150_000).unwrap() >= 100_000);
        assert!(!cache.join("old").exists() && cache.join("new/part").exists());
        assert!(shrink_cache(state.path(), 0).unwrap() >= 100_000);
        assert!(!cache.join("new").exists());
    }

    #[test]
    fn credentials_are_removed_and_may_be_gone_already() {
        let state = tempfile::tempdir().unwrap();
        wipe_credentials(state.path()).unwrap();
        write(&state.path().join(CREDENTIALS).join("login"), Duration::ZERO);
        wipe_credentials(state.path()).unwrap();
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
    }
}
