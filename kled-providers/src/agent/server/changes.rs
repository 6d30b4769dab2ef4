//! Changes of files in the checkout, which are activity, too: whoever edits through the volume starts no command here.
//!
//! The kernel tells them folder by folder, and each folder costs memory there, so their number is bounded. Changes in
//! folders beyond the bound, or where the file system has no notifications, are not seen; commands, connections and
//! copies still count. What git does in its own folder does not count: it also tidies up by itself.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kled_core::provider::LogStream;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::commands::Commands;

/// At about 1 KiB of the kernel's memory each.
const FOLDERS_MAX: usize = 4096;

/// A build changes thousands of files in a second; that something changed is known after the first.
const PAUSE: Duration = Duration::from_secs(1);

const BUFFER: usize = 16 << 10;

/// The folder of git itself, at any depth.
const IGNORED: &[u8] = b".git";

/// Takes note of changes in `folder` for as long as it is polled.
pub(super) async fn follow(commands: &Commands, folder: PathBuf) {
    let failed = match Watched::new(folder) {
        Ok(watched) => run(commands, watched).await.err(),
        Err(cause) => Some(cause),
    };
    if let Some(cause) = failed {
        let line = format!("changes of files are not seen, and so are no activity: {cause}");
        commands.log(LogStream::Supervisor, None, line);
    }
    std::future::pending().await
}

async fn run(commands: &Commands, watched: Watched) -> io::Result<()> {
    let notifications = Arc::clone(&watched.notifications);
    let mut watched = walk(commands, watched, None).await?;
    loop {
        let mut ready = notifications.readable().await?;
        let seen = watched.read()?;
        ready.clear_ready();
        if seen.changed {
            commands.touch();
        }
        if !seen.new_folders.is_empty() {
            watched = walk(commands, watched, Some(seen.new_folders)).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Adds folders and those in them; all of the checkout without any.
async fn walk(
    commands: &Commands,
    mut watched: Watched,
    folders: Option<Vec<PathBuf>>,
) -> io::Result<Watched> {
    let was_full = watched.full;
    let walk = move || {
        let folders = folders.unwrap_or_else(|| vec![watched.root.clone()]);
        watched.add(folders).map(|()| watched)
    };
    let watched = tokio::task::spawn_blocking(walk).await.map_err(io::Error::other)??;
    if watched.full && !was_full {
        let line = format!(
            "changes are seen in the first {} folders of the checkout only: others are no activity",
            watched.folders.len()
        );
        commands.log(LogStream::Supervisor, None, line);
    }
    Ok(watched)
}

#[derive(Debug, Default)]
struct Seen {
    changed: bool,
    new_folders: Vec<PathBuf>,
}

struct Watched {
    root: PathBuf,
    notifications: Arc<AsyncFd<OwnedFd>>,
    /// By the number that the kernel gave them.
    folders: HashMap<i32, PathBuf>,
    /// No more can be watched.
    full: bool,
}

impl Watched {
    fn new(root: PathBuf) -> io::Result<Self> {
        let notifications = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned by the value that is registered, which nobody can change while it is.
        let notifications = unsafe { AsyncFd::register(notifications) }.map_err(io::Error::from)?;
        Ok(Self { root, notifications: Arc::new(notifications), folders: HashMap::new(), full: false })
    }

    /// From the top, so that a bound leaves out what is deep.
    fn add(&mut self, folders: Vec<PathBuf>) -> io::Result<()> {
        let mut next = VecDeque::from(folders);
        while let Some(folder) = next.pop_front() {
            if self.folders.len() >= FOLDERS_MAX {
                self.full = true;
                return Ok(());
            }
            match self.watch(&folder) {
                Ok(()) => {}
                // The user's or the machine's own bound.
                Err(Errno::NOSPC) => {
                    self.full = true;
                    return Ok(());
                }
                // Gone, replaced or closed meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) if folder != self.root => continue,
                Err(cause) => return Err(cause.into()),
            }
            // Read after the watch is there: what is made in between is found by one of both.
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder && entry.file_name().as_bytes() != IGNORED {
                    next.push_back(entry.path());
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, folder: &Path) -> rustix::io::Result<()> {
        let events = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW
            | WatchFlags::EXCL_UNLINK;
        let number = inotify::add_watch(self.notifications.get_ref(), folder, events)?;
        self.folders.insert(number, folder.to_owned());
        Ok(())
    }

    /// What happened since.
    fn read(&mut self) -> io::Result<Seen> {
        let mut seen = Seen::default();
        let notifications = Arc::clone(&self.notifications);
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(notifications.get_ref(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(seen),
                Err(Errno::INTR) => continue,
                Err(cause) => return Err(cause.into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                // Folders may be among what was lost.
                seen.changed = true;
                seen.new_folders = vec![self.root.clone()];
                continue;
            }
            if event.events().contains(ReadFlags::IGNORED) {
                self.folders.remove(&event.wd());
                continue;
            }
            let name = event.file_name().map_or(&b""[..], |name| name.to_bytes());
            if name == IGNORED {
                continue;
            }
            seen.changed = true;
            let made = event.events().intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            if made && event.events().contains(ReadFlags::ISDIR) {
                seen.new_folders
                    .extend(self.folders.get(&event.wd()).map(|folder| folder.join(OsStr::from_bytes(name))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for the next change that is no git's.
    async fn next(watched: &mut Watched) -> Seen {
        let notifications = Arc::clone(&watched.notifications);
        loop {
            let mut ready = tokio::time::timeout(Duration::from_secs(10), notifications.readable())
                .await
                .unwrap()
                .unwrap();
            let seen = watched.read().unwrap();
            ready.clear_ready();
            if seen.changed {
                return seen;
            }
        }
    }

    #[tokio::test]
    async fn changes_at_any_depth_are_seen_and_those_of_git_are_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::create_dir_all(folder.path().join(".git/objects")).unwrap();
        let mut watched = Watched::new(folder.path().to_owned()).unwrap();
        watched.add(vec![folder.path().to_owned()]).unwrap();
        assert_eq!(watched.folders.len(), 3);

        std::fs::write(folder.path().join(".git/objects/pack"), "").unwrap();
        std::fs::write(folder.path().join(".git/index"), "").unwrap();
        let seen = watched.read().unwrap();
        assert!(!seen.changed, "{seen:?}");

        std::fs::write(folder.path().join("a/b/file"), "content").unwrap();
        assert!(next(&mut watched).await.new_folders.is_empty());

        std::fs::create_dir(folder.path().join("a/new")).unwrap();
        let seen = next(&mut watched).await;
        assert_eq!(seen.new_folders, [folder.path().join("a/new")]);
        watched.add(seen.new_folders).unwrap();
        std::fs::write(folder.path().join("a/new/file"), "").unwrap();
        assert!(next(&mut watched).await.changed);

        std::fs::remove_dir_all(folder.path().join("a")).unwrap();
        while watched.folders.len() > 1 {
            next(&mut watched).await;
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut watched = Watched::new(folder.path().join("none")).unwrap();
        assert!(watched.add(vec![folder.path().join("none")]).is_err());
    }
}
