//! Creates that are under way on this machine: a lock for each name, and folders for checkouts.
//!
//! Nothing here decides what is true. The lock keeps two creates from doing the same work and tells `Creating` from
//! `Interrupted`; without it both are still correct.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use tokio::time::Instant;

/// How often a lock that is held is asked for.
const POLL: Duration = Duration::from_millis(25);

/// Where creates of one engine keep what they need.
#[derive(Clone, Debug)]
pub(super) struct UnderWay {
    folder: PathBuf,
}

/// The right to work at a name. The lock file is removed with it.
#[derive(Debug)]
pub(super) struct Turn {
    path: PathBuf,
    file: Arc<File>,
    folder: PathBuf,
}

impl UnderWay {
    /// Each engine has its own names.
    pub(super) fn new(state_root: &Path, address: &str) -> Self {
        let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
        Self { folder: state_root.join(address.chars().map(plain).collect::<String>()) }
    }

    /// Where the checkouts are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn lock_path(&self, name: &WorkspaceName) -> PathBuf {
        self.folder.join(format!("{name}.lock"))
    }

    /// True while a create works at the name, as far as this machine knows.
    pub(super) async fn is_busy(&self, name: &WorkspaceName) -> bool {
        let path = self.lock_path(name);
        let busy = move || {
            // A look must not be in the way of a create that begins now, so the lock is shared.
            let file = File::open(path)?;
            match file.try_lock_shared() {
                Err(TryLockError::WouldBlock) => Ok(true),
                _ => Ok::<_, io::Error>(false),
            }
        };
        // What cannot be read is not known to be busy.
        tokio::task::spawn_blocking(busy).await.is_ok_and(|busy| busy.unwrap_or(false))
    }

    /// Takes the turn if nobody has it.
    pub(super) async fn try_take(&self, name: &WorkspaceName) -> Result<Option<Turn>> {
        let path = self.lock_path(name);
        let folder = self.folder.join(name.as_str());
        let take = move || take(path, folder);
        let taken = tokio::task::spawn_blocking(take).await.map_err(io::Error::other).flatten();
        taken.map_err(|cause| {
            Error::new(ErrorKind::Unavailable, "the folder for creates cannot be used")
                .with("path", self.folder.display())
                .because(cause)
        })
    }

    /// Takes the turn as soon as nobody has it.
    pub(super) async fn take_within(&self, name: &WorkspaceName, within: Duration) -> Result<Option<Turn>> {
        let deadline = Instant::now() + within;
        loop {
            match self.try_take(name).await? {
                Some(turn) => return Ok(Some(turn)),
                None if Instant::now() >= deadline => return Ok(None),
                None => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// True when no create has left anything here.
    pub(super) fn is_clean(&self, name: &WorkspaceName) -> bool {
        !self.lock_path(name).exists() && !self.folder.join(name.as_str()).exists()
    }
}

fn take(path: PathBuf, folder: PathBuf) -> io::Result<Option<Turn>> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        // Whoever had it may have removed the file meanwhile; then this lock is of nothing.
        let same = |there: fs::Metadata| there.ino() == file.metadata().map_or(0, |own| own.ino());
        if fs::metadata(&path).is_ok_and(same) {
            return Ok(Some(Turn { path, file: Arc::new(file), folder }));
        }
    }
}

impl Turn {
    /// The locked file: git inherits it, so the turn lasts until git has ended even if this process is killed.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// An empty folder for a checkout. It is removed with the turn, or by the next one if this process is killed.
    pub(super) async fn folder(&self) -> io::Result<PathBuf> {
        let folder = self.folder.clone();
        let make = move || {
            remove(&folder)?;
            fs::create_dir(&folder)?;
            // Sources may be private.
            fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            Ok(folder)
        };
        tokio::task::spawn_blocking(make).await.map_err(io::Error::other)?
    }

    /// Ends the turn and waits until nothing is left of it.
    pub(super) async fn end(mut self) {
        let finish = self.take_finish();
        // Were it to panic, the next turn would clean up.
        let _ended =
            tokio::task::spawn_blocking(move || finish.into_iter().for_each(|finish| finish())).await;
    }

    /// What is to be done at the end, once.
    fn take_finish(&mut self) -> Option<impl FnOnce() + Send + 'static> {
        let (path, folder, file) =
            (std::mem::take(&mut self.path), std::mem::take(&mut self.folder), self.file());
        (!path.as_os_str().is_empty()).then_some(move || {
            clean(&folder);
            // Only while it is locked, so that it is never the file of another turn.
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(%error, "the lock file of a create could not be removed");
            }
            // For git's helpers that stay in the background too.
            let _unlocked = file.unlock();
        })
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How often a folder is removed into which a git that is being killed may still write.
const REMOVALS: usize = 20;

fn clean(folder: &Path) {
    for _ in 0..REMOVALS {
        if remove(folder).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    tracing::warn!(folder = %folder.display(), "the folder of a checkout could not be removed");
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(finish) = self.take_finish() else { return };
        // A create that is dropped must not hold up the async thread that drops it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(finish)),
            Err(_) => finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_taken_by_one_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let name = WorkspaceName::new("demo").unwrap();
        let under_way = UnderWay::new(root.path(), "unix:///run/podman.sock");
        assert!(!under_way.is_busy(&name).await);
        let turn = under_way.try_take(&name).await.unwrap().unwrap();
        let folder = turn.folder().await.unwrap();
        fs::write(folder.join("file"), "x").unwrap();
        assert!(under_way.is_busy(&name).await);
        assert!(under_way.try_take(&name).await.unwrap().is_none());
        drop(turn);
        let turn = under_way.take_within(&name, Duration::from_secs(10)).await.unwrap().unwrap();
        assert!(!folder.exists());
        drop(turn);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !under_way.is_clean(&name) {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(POLL).await;
        }
    }
}
