//! Folders that appear whole or not at all, however many runs want them at once.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::progress::Progress;
use super::table::GoServer;
use crate::wait;

/// Names the folder that caches are put in, if neither the home's nor the desktop's choice is wanted.
const CACHE_VARIABLE: &str = "KLED_TEST_CACHE";

/// As long as the longest build may take.
const LOCK_DEADLINE: Duration = Duration::from_secs(3600);

/// Enough of the digest to tell definitions apart, short enough to read.
const DIGEST_CHARACTERS: usize = 12;

/// `${KLED_TEST_CACHE:-${XDG_CACHE_HOME:-~/.cache}}/kled/servers`.
pub(super) fn root() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".cache"));
    let Some(base) = set(CACHE_VARIABLE).or_else(|| set("XDG_CACHE_HOME")).or_else(home) else {
        bail!("neither {CACHE_VARIABLE}, XDG_CACHE_HOME nor HOME says where the cache is");
    };
    Ok(base.join("kled").join("servers"))
}

/// The module that a server is built from.
pub(super) fn definition(server: &GoServer) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("servers").join(server.name)
}

/// Where a server's programs are, or will be.
pub(super) fn folder(server: &GoServer) -> Result<PathBuf> {
    let digest = digest(server).with_context(|| format!("read the definition of {}", server.name))?;
    Ok(root()?.join(format!("{}-{}-{digest}", server.name, server.version)))
}

/// Changes whenever something that goes into the build does.
fn digest(server: &GoServer) -> Result<String> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(definition(server))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(fs::read(&file)?);
    }
    hash.update(format!("{:?}{:?}", server.programs, server.variables));
    Ok(hex::encode(hash.finalize()).chars().take(DIGEST_CHARACTERS).collect())
}

/// Makes `folder` with what `make` puts into a temporary folder beside it, unless another run was quicker.
pub(super) fn fill(folder: &Path, progress: &Progress, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = folder.parent().context("a cache folder has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let _lock = lock(&beside(folder, "lock"), progress)?;
    if folder.exists() {
        return Ok(());
    }
    // Only the lock's holder touches this folder, so what is in it is left from a run that was killed.
    let temporary = beside(folder, "partial");
    if temporary.exists() {
        fs::remove_dir_all(&temporary)?;
    }
    fs::create_dir_all(&temporary)?;
    make(&temporary)?;
    fs::rename(&temporary, folder).with_context(|| format!("move the result to {}", folder.display()))
}

/// Not `Path::with_extension`, which would cut the name at the version's last dot.
fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut path = folder.as_os_str().to_owned();
    path.push(".");
    path.push(ending);
    path.into()
}

fn lock(path: &Path, progress: &Progress) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    let mut said = false;
    wait::until_blocking(
        LOCK_DEADLINE,
        &format!("another run to let go of {}", path.display()),
        || match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error.into()),
            Err(TryLockError::WouldBlock) => {
                if !said {
                    progress.say(&format!("waiting for another run, which holds {}", path.display()));
                    said = true;
                }
                Ok(false)
            }
        },
    )?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_build_leaves_no_folder_and_the_next_try_starts_clean() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let folder = directory.path().join("etcd-1");
        let progress = Progress::start();
        let failing = fill(&folder, &progress, |temporary| {
            fs::write(temporary.join("half"), "")?;
            bail!("no compiler")
        });
        assert!(failing.is_err() && !folder.exists());
        fill(&folder, &progress, |temporary| Ok(fs::write(temporary.join("whole"), "")?))?;
        assert!(folder.join("whole").exists() && !folder.join("half").exists());
        Ok(())
    }

    #[test]
    fn what_is_there_is_not_made_again() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let folder = directory.path().join("etcd-1");
        fs::create_dir(&folder)?;
        fill(&folder, &Progress::start(), |_| bail!("made again"))
    }

    #[test]
    fn two_at_once_build_once() -> Result<()> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let directory = tempfile::tempdir()?;
        let folder = directory.path().join("etcd-1");
        let built = AtomicUsize::new(0);
        let build = || {
            fill(&folder, &Progress::start(), |_| {
                built.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(build);
            build()?;
            other.join().map_err(|_| anyhow::anyhow!("the other build panicked"))?
        })?;
        assert_eq!(built.load(Ordering::SeqCst), 1);
        Ok(())
    }
}
