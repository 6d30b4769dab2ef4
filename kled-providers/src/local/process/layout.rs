//! Where things are on disk, and the locks on them.
//!
//! ```text
//! ROOT/lock                           held for the moment in which a name is taken, given back or committed
//! ROOT/workspaces/NAME/record.json    what was asked for and how far creation came
//!                     /operation.lock held by the create, start or stop under way
//!                     /checkout/      the files
//!                     /staging-…/     a clone under way; renamed to checkout when it is whole
//!                     /home/          the home folder of its commands
//!                     /tmp/           their temporary folder
//!                     /state/         what the agent inside remembers: which steps of the set-up are done
//!                     /logs/          log.jsonl, events.jsonl
//!                     /run/           what is true while it runs: supervisor.lock, run.json, token.json, agent.sock;
//!                                 stop.json, unprepared.json
//! ROOT/trash/NAME.…/                  a workspace that is being deleted
//! ```
//!
//! A delete renames the folder into the trash, which frees the name at once and makes every later step of a create
//! still under way fail on a path that is gone; it needs no lock that such a create could hold.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The root lock is held for a few renames only; whoever holds it for longer is stuck.
const ROOT_LOCK_LIMIT: Duration = Duration::from_secs(10);

/// The folder that holds everything of one provider.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn workspaces(&self) -> PathBuf {
        self.0.join("workspaces")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.0.join("trash")
    }

    pub(crate) fn folder(&self, name: &WorkspaceName) -> Folder {
        Folder(self.workspaces().join(name.as_str()))
    }

    /// Runs `action` while nobody else takes, gives back or commits a name.
    pub(crate) fn locked<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        create_private(&self.0).map_err(|cause| file_error("cannot create", &self.0, cause))?;
        let path = self.0.join("lock");
        let file = open_lock(&path)?;
        let deadline = Instant::now() + ROOT_LOCK_LIMIT;
        while !try_lock(&file, &path)? {
            if Instant::now() >= deadline {
                return Err(Error::timeout("lock", ROOT_LOCK_LIMIT).with("path", path.display()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        action()
    }

    /// What is in the trash under this name.
    pub(crate) fn trashed(&self, name: &WorkspaceName) -> Result<Vec<Folder>> {
        let prefix = format!("{name}.");
        let belongs = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
        };
        Ok(entries(&self.trash())?.into_iter().filter(belongs).map(Folder).collect())
    }
}

/// The folder of one workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    pub(crate) fn operation_lock(&self) -> PathBuf {
        self.0.join("operation.lock")
    }

    pub(crate) fn checkout(&self) -> PathBuf {
        self.0.join("checkout")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.0.join("tmp")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.logs().join("log.jsonl")
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.logs().join("events.jsonl")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Whoever can read it may have commands run; see [`crate::agent::Token`].
    pub(crate) fn token(&self) -> PathBuf {
        self.run().join("token.json")
    }

    pub(crate) fn supervisor_lock(&self) -> PathBuf {
        self.run().join("supervisor.lock")
    }

    pub(crate) fn run_record(&self) -> PathBuf {
        self.run().join("run.json")
    }

    pub(crate) fn stop_record(&self) -> PathBuf {
        self.run().join("stop.json")
    }

    /// There while the set-up of the last start is not done.
    pub(crate) fn unprepared_record(&self) -> PathBuf {
        self.run().join("unprepared.json")
    }

    /// Clones that were cut short.
    pub(crate) fn stagings(&self) -> Result<Vec<PathBuf>> {
        let staging = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("staging-"))
        };
        Ok(entries(&self.0)?.into_iter().filter(staging).collect())
    }

    /// The folders that a workspace has from its start.
    pub(crate) fn create_parts(&self) -> Result<()> {
        for part in [self.home(), self.temporary(), self.state(), self.logs(), self.run()] {
            create_private(&part).map_err(|cause| file_error("cannot create", &part, cause))?;
        }
        Ok(())
    }
}

/// A lock on a file, given back when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock if nobody has it. `None` when somebody has.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        let file = open_lock(path)?;
        Ok(try_lock(&file, path)?.then(|| Self { file, path: path.to_owned() }))
    }

    /// True when somebody has the lock. A lock file that is not there is not held.
    pub(crate) fn is_held(path: &Path) -> Result<bool> {
        match File::open(path) {
            Ok(file) => {
                let is_free = try_lock_shared(&file, path)?;
                unlock(&file);
                Ok(!is_free)
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => Err(file_error("cannot open", path, cause)),
        }
    }

    /// False when the path leads to another file now: the workspace was deleted, perhaps made anew.
    pub(crate) fn is_current(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(held), Ok(found)) => identity(held) == identity(found),
            _ => false,
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// Closing the file is not enough: a process that another thread is just starting has it open, too, until it runs its
/// own program, and the lock would be held for as long.
impl Drop for Lock {
    fn drop(&mut self) {
        unlock(&self.file);
    }
}

fn unlock(file: &File) {
    // Where it fails the end of the file does it.
    let _at_the_end = file.unlock();
}

fn open_lock(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(|cause| file_error("cannot open", path, cause))
}

fn try_lock(file: &File, path: &Path) -> Result<bool> {
    taken(file.try_lock(), path)
}

/// A shared attempt does not disturb another look at the same moment.
fn try_lock_shared(file: &File, path: &Path) -> Result<bool> {
    taken(file.try_lock_shared(), path)
}

fn taken(result: std::result::Result<(), TryLockError>, path: &Path) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(cause)) => Err(file_error("cannot lock", path, cause)),
    }
}

/// The entries of a folder; one that is not there has none.
pub(crate) fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let failed = |cause| file_error("cannot list", path, cause);
    match fs::read_dir(path) {
        Ok(entries) => {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>().map_err(failed)
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(failed(cause)),
    }
}

/// Makes a folder, and those above it, that only the user can enter.
pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Reads a JSON file. `None` when it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(file_error("cannot read", path, cause)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
        Error::new(ErrorKind::Internal, "malformed state file")
            .with("file", path.display())
            .with("line", cause.line())
            .because(cause)
            .hint("delete the workspace, or correct the file")
    })
}

/// Writes a JSON file so that a reader, also after a crash, sees the old or the new one, whole. Fails when the folder
/// is gone; it is not made again.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let failed = |cause: io::Error| file_error("cannot write", path, cause);
    let parent = path.parent().unwrap_or(Path::new("/"));
    let bytes = serde_json::to_vec(value)
        .map_err(|cause| Error::new(ErrorKind::Internal, "cannot encode a state file").because(cause))?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(parent).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.as_file().sync_data()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Removes a file; one that is not there is removed.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(file_error("cannot remove", path, cause))
        }
        _ => Ok(()),
    }
}

/// Removes a folder and all in it, also what commands made unwritable; one that is not there is removed.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    let mut result = fs::remove_dir_all(path);
    if result.as_ref().is_err_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied) {
        make_writable(path);
        result = fs::remove_dir_all(path);
    }
    match result {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(file_error("cannot remove", path, cause))
        }
        _ => Ok(()),
    }
}

/// Module caches of some toolchains are read-only folders. What cannot be changed is left to the removal's own error.
fn make_writable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _refused = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// The error of a file operation, with the kind that its cause means.
pub(crate) fn file_error(what: &'static str, path: &Path, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, what).with("path", path.display()).because(cause)
}

/// Runs file operations away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    action: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(action).await.unwrap_or_else(|cause| {
        Err(Error::new(ErrorKind::Internal, "a file operation was cut short").because(cause))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_held_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!Lock::is_held(&path).unwrap());
        let lock = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::is_held(&path).unwrap());
        assert!(Lock::try_take(&path).unwrap().is_none());
        assert!(lock.is_current());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(!lock.is_current());
        drop(lock);
        assert!(!Lock::is_held(&path).unwrap());
        // As a process has it that another thread starts at this moment.
        let lock = Lock::try_take(&path).unwrap().unwrap();
        let inherited = lock.file().try_clone().unwrap();
        drop(lock);
        assert!(!Lock::is_held(&path).unwrap());
        drop(inherited);
    }

    #[test]
    fn a_state_file_is_not_written_into_a_folder_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        assert!(write_json(&gone.join("record.json"), &1).is_err());
        assert!(!gone.exists());
    }

    #[test]
    fn a_malformed_state_file_names_itself_and_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        fs::write(&path, "{\n\"a\": }").unwrap();
        let error = read_json::<u32>(&path).unwrap_err();
        assert!(error.to_string().contains("record.json, line: "), "{error}");
    }

    #[test]
    fn folders_that_are_read_only_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), "").unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o500)).unwrap();
        remove_folder(&folder.path().join("a")).unwrap();
        assert!(!folder.path().join("a").exists());
    }
}
