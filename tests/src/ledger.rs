//! The processes of a slot, written down so that a later run can end them, and only them.
//!
//! A process id alone is not enough: the kernel gives it to another process once the first is gone. So each line
//! holds the boot, the id and the time the process started, and a process is ended only if all three match.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

const LEDGER: &str = "processes";
const END_DEADLINE: Duration = Duration::from_secs(20);

/// What tells a process from every other that had or will have its id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    boot: String,
    id: u32,
    started: u64,
}

impl Identity {
    /// Of a process that runs now; `None` if there is none with that id.
    fn of(id: u32) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Self { boot, id, started: start_time(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)? })
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (boot, id, started) = (words.next()?, words.next()?, words.next()?);
        Some(Self { boot: boot.to_owned(), id: id.parse().ok()?, started: started.parse().ok()? })
    }

    fn is_running(&self) -> bool {
        Self::of(self.id).as_ref() == Some(self) && !is_zombie(self.id)
    }
}

/// Writes a process down in the slot's ledger.
///
/// # Errors
/// When the ledger cannot be written.
pub(crate) fn record(directory: &Path, id: u32) -> Result<()> {
    // A process that is already gone needs no record.
    let Some(identity) = Identity::of(id) else { return Ok(()) };
    let path = directory.join(LEDGER);
    let mut ledger = OpenOptions::new().create(true).append(true).open(&path)?;
    writeln!(ledger, "{} {} {}", identity.boot, identity.id, identity.started)
        .with_context(|| format!("write {}", path.display()))
}

/// Ends every process of the ledger that still runs and waits until it is gone.
pub(crate) fn end_all(directory: &Path) -> Result<()> {
    let lines = fs::read_to_string(directory.join(LEDGER)).unwrap_or_default();
    let running: Vec<Identity> =
        lines.lines().filter_map(Identity::parse).filter(Identity::is_running).collect();
    for process in &running {
        if let Some(id) = i32::try_from(process.id).ok().and_then(Pid::from_raw) {
            // It may have ended since; then there is nothing to do.
            let _gone = kill_process(id, Signal::KILL);
        }
    }
    wait::until_blocking(END_DEADLINE, "the slot's processes to end", || {
        Ok(!running.iter().any(Identity::is_running))
    })
}

/// Field 22 of `/proc/PID/stat`. The name in field 2 may hold spaces and brackets, so fields count from its end.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn is_zombie(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_start_time_is_found_behind_a_name_with_brackets() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(start_time(stat), Some(4242));
    }

    #[test]
    fn a_recorded_process_is_ended() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?;
        record(directory.path(), child.id())?;
        end_all(directory.path())?;
        assert!(!child.wait()?.success());
        Ok(())
    }

    #[test]
    fn a_process_that_got_the_id_of_another_is_left_alone() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?;
        let identity = Identity::of(child.id()).context("the child runs")?;
        let stale = format!("{} {} {}\n", identity.boot, identity.id, identity.started - 1);
        fs::write(directory.path().join(LEDGER), stale)?;
        end_all(directory.path())?;
        assert_eq!(child.try_wait()?, None, "a stranger was ended");
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}
