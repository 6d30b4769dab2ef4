//! A numbered place on this machine that belongs to one fixture at a time, and is swept when its owner is gone.
//!
//! Everything a fixture makes outside its own memory is either inside its slot's directory or named after the
//! slot's number: control groups, network interfaces, the lock. So leftovers of a killed run are known without
//! having been written down; only processes are recorded, in the slot's ledger, because their ids cannot be
//! chosen.
//!
//! The owner holds an exclusive lock on `NUMBER.lock`. The kernel lets go of it however the owner ends, so a slot
//! whose lock is free holds nothing but leftovers. Runs side by side take different numbers and never meet.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cgroup, ledger, link};

/// More fixtures than any machine can hold; also what keeps a slot's number inside one byte of an address.
const SLOTS: u8 = 200;

/// Where a kind is written down, for whoever looks at a machine's leftovers.
const KIND: &str = "kind";

/// The directory, inside the slot's own, for what its servers print.
pub(crate) const LOGS: &str = "logs";

/// A variable that, if set, keeps every slot's logs beside its lock, as `NUMBER.logs`.
const KEEP_LOGS: &str = "KLED_TEST_KEEP_LOGS";

/// The exclusive right to a number, with a directory of its own.
#[derive(Debug)]
pub struct Slot {
    number: u8,
    directory: PathBuf,
    // Held open for its lock alone.
    _lock: File,
}

impl Slot {
    /// Takes the lowest free slot and sweeps what former owners left, in it and in every other free slot.
    ///
    /// # Errors
    /// When no slot is free, or a slot's leftovers resist.
    pub fn take(kind: &str) -> Result<Self> {
        let base = base_directory()?;
        let mut taken = None;
        for number in 1..=SLOTS {
            let Some(lock) = try_lock(&base, number, taken.is_none())? else { continue };
            sweep(&base, number).with_context(|| format!("sweep slot {number}"))?;
            if taken.is_none() {
                taken = Some(Self { number, directory: base.join(number.to_string()), _lock: lock });
            }
        }
        let Some(slot) = taken else { bail!("all {SLOTS} slots in {} are in use", base.display()) };
        fs::create_dir_all(&slot.directory)
            .with_context(|| format!("create {}", slot.directory.display()))?;
        fs::write(slot.directory.join(KIND), kind)?;
        Ok(slot)
    }

    /// The number, unique among the slots in use on this machine.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The slot's own directory; it is removed with the slot.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Keeps the logs of the slot's servers for whoever looks into `error`, which is given back with their place.
    ///
    /// # Errors
    /// Always: with the error it was given.
    pub fn keep_logs<T>(&self, error: anyhow::Error) -> Result<T> {
        match self.move_logs() {
            Ok(path) => Err(error.context(format!("the logs are in {}", path.display()))),
            // There may be none, and why there are none matters less than the error itself.
            Err(_) => Err(error),
        }
    }

    fn move_logs(&self) -> Result<PathBuf> {
        let kept = self.directory.with_file_name(format!("{}.logs", self.number));
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        fs::rename(self.directory.join(LOGS), &kept)?;
        Ok(kept)
    }

    /// A new directory inside the slot's own.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if env::var_os(KEEP_LOGS).is_some() {
            let _none = self.move_logs();
        }
        let Some(base) = self.directory.parent() else { return };
        if let Err(error) = sweep(base, self.number) {
            eprintln!("warning: slot {} is left to the next run: {error:#}", self.number);
        }
    }
}

/// Sweeps every slot that nobody owns; gives how many held leftovers.
///
/// # Errors
/// When a slot's leftovers resist.
pub fn sweep_all() -> Result<usize> {
    let base = base_directory()?;
    let mut swept = 0;
    for number in 1..=SLOTS {
        let Some(_lock) = try_lock(&base, number, false)? else { continue };
        swept += usize::from(base.join(number.to_string()).exists());
        sweep(&base, number).with_context(|| format!("sweep slot {number}"))?;
    }
    Ok(swept)
}

/// One directory for all runs of one user, so that every run sees the leftovers of every other.
///
/// It is short on purpose: paths of Unix sockets end at 107 bytes.
fn base_directory() -> Result<PathBuf> {
    let user = rustix::process::getuid().as_raw();
    let base = env::temp_dir().join(format!("kled-tests-{user}"));
    match fs::DirBuilder::new().mode(0o700).create(&base) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        created => created.with_context(|| format!("create {}", base.display()))?,
    }
    // Anyone can make a directory of that name in a temporary folder, and we are about to end what its ledgers name.
    let owner = fs::symlink_metadata(&base)?;
    ensure!(owner.is_dir() && owner.uid() == user, "{} is not a directory of ours", base.display());
    Ok(base)
}

/// The lock of a slot, if nobody has it. A slot that was never used is only opened on request.
fn try_lock(base: &Path, number: u8, create: bool) -> Result<Option<File>> {
    let path = base.join(format!("{number}.lock"));
    if !create && !path.exists() {
        return Ok(None);
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Removes what belongs to the slot. Processes go first: they hold everything else.
fn sweep(base: &Path, number: u8) -> Result<()> {
    let directory = base.join(number.to_string());
    if !directory.exists() {
        return Ok(());
    }
    ledger::end_all(&directory)?;
    cgroup::remove(number)?;
    link::remove(number)?;
    remove_directory(&directory)
}

fn remove_directory(directory: &Path) -> Result<()> {
    // A directory with a mount in it is not ours to empty: the mount may lead anywhere.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let inside = directory.to_string_lossy();
    if let Some(mount) = mounts.lines().find(|line| line.contains(inside.as_ref())) {
        bail!("something is mounted in {}: {mount}", directory.display());
    }
    fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_in_use_have_different_numbers_and_directories() -> Result<()> {
        let (first, second) = (Slot::take("test")?, Slot::take("test")?);
        assert_ne!(first.number(), second.number());
        assert_ne!(first.directory(), second.directory());
        Ok(())
    }

    #[test]
    fn a_dropped_slot_takes_its_directory_with_it() -> Result<()> {
        let slot = Slot::take("test")?;
        fs::write(slot.create_directory("deep/down")?.join("file"), "")?;
        let directory = slot.directory().to_owned();
        drop(slot);
        assert!(!directory.exists());
        Ok(())
    }

    #[test]
    fn the_next_owner_finds_nothing_of_a_killed_one() -> Result<()> {
        let slot = Slot::take("test")?;
        let child = std::process::Command::new("sleep").arg("600").spawn();
        ledger::record(slot.directory(), child?.id())?;
        let (number, directory) = (slot.number(), slot.directory().to_owned());
        let base = base_directory()?;
        // What a kill does: the lock goes, everything else stays.
        let Slot { _lock: lock, .. } = &slot;
        lock.unlock()?;
        std::mem::forget(slot);
        let _taken = Slot::take("test")?;
        let leftovers = fs::read_to_string(directory.join("processes")).unwrap_or_default();
        assert_eq!(leftovers, "", "slot {number} in {} was not swept", base.display());
        Ok(())
    }

    #[test]
    fn logs_are_kept_for_an_error() -> Result<()> {
        let slot = Slot::take("test")?;
        fs::write(slot.create_directory(LOGS)?.join("server.log"), "said")?;
        let kept = slot.directory().with_file_name(format!("{}.logs", slot.number()));
        let told = slot.keep_logs::<()>(anyhow::anyhow!("no luck")).map_err(|error| format!("{error:#}"));
        assert_eq!(told, Err(format!("the logs are in {}: no luck", kept.display())));
        drop(slot);
        assert_eq!(fs::read_to_string(kept.join("server.log"))?, "said");
        fs::remove_dir_all(kept)?;
        Ok(())
    }
}
