//! What the kernel says of processes, through `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};

/// What `/proc/PID/stat` says of a process.
pub(crate) struct Stat {
    parent: u32,
    /// When it began, in clock ticks since boot (field 22).
    #[cfg(feature = "local")]
    pub(crate) start_time: u64,
    pub(crate) ended: bool,
}

pub(crate) fn stat(number: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted from the last parenthesis.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Stat {
        ended: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        #[cfg(feature = "local")]
        start_time: fields.get(19)?.parse().ok()?,
    })
}

fn every_process() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Sends a signal to whatever has this number now.
pub(crate) fn send(number: u32, signal: Signal) {
    let process = i32::try_from(number).ok().and_then(Pid::from_raw);
    if let Some(process) = process {
        // A process that is gone meanwhile is what the signal was for.
        let _gone = rustix::process::kill_process(process, signal);
    }
}

/// Running processes that have `variable=value` in the environment they were started with.
pub(crate) fn with_variable(variable: &str, value: &str) -> BTreeSet<u32> {
    let marker = format!("{variable}={value}");
    let marked = |number: &u32| {
        let environment = std::fs::read(Path::new("/proc").join(number.to_string()).join("environ"));
        environment.is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|entry| entry == marker.as_bytes()))
    };
    every_process().filter(|number| *number != std::process::id()).filter(marked).collect()
}

/// True when the process's current folder is in `folder`.
pub(crate) fn is_in(number: u32, folder: &Path) -> bool {
    std::fs::read_link(format!("/proc/{number}/cwd")).is_ok_and(|current| current.starts_with(folder))
}

/// True while the process runs. A zombie has ended.
pub(crate) fn running(number: u32) -> bool {
    stat(number).is_some_and(|stat| !stat.ended)
}

/// Running descendants of `ancestor`, not itself.
pub(crate) fn descendants(ancestor: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for number in every_process() {
        if let Some(stat) = stat(number).filter(|stat| !stat.ended) {
            children.entry(stat.parent).or_default().push(number);
        }
    }
    let (mut found, mut next) = (BTreeSet::new(), vec![ancestor]);
    while let Some(parent) = next.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            if found.insert(*child) {
                next.push(*child);
            }
        }
    }
    found
}

/// Children that a thread of this process waits for.
static AWAITED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn awaited() -> MutexGuard<'static, BTreeSet<u32>> {
    // The set is valid whoever panicked while it was locked.
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is no orphan to [`ended_orphans`] for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Awaited(u32);

impl Drop for Awaited {
    fn drop(&mut self) {
        awaited().remove(&self.0);
    }
}

/// Starts a process for whose end the caller waits by itself.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Awaited)> {
    // Under the lock: it may have ended before its number is known here.
    let mut awaited = awaited();
    let child = command.spawn()?;
    awaited.insert(child.id());
    let entry = Awaited(child.id());
    Ok((child, entry))
}

/// Children that have ended and that nobody, in `known` or by [`spawn`], waits for: orphans that this process adopted.
pub(crate) fn ended_orphans(known: &BTreeSet<u32>) -> Vec<u32> {
    let own = std::process::id();
    let orphan = |number: &u32| stat(*number).is_some_and(|stat| stat.ended && stat.parent == own);
    let awaited = awaited();
    let nobody_waits = |number: &u32| !known.contains(number) && !awaited.contains(number);
    every_process().filter(nobody_waits).filter(orphan).collect()
}

/// Kills what `find` finds, again and again, until it finds nothing or `limit` is over. Says whether nothing is left.
///
/// Processes are looked up anew each time, since what is being killed may still start others.
pub(crate) async fn kill_all(limit: Duration, find: impl Fn() -> BTreeSet<u32>) -> bool {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let found = find();
        if found.is_empty() {
            return true;
        }
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        for number in found {
            send(number, Signal::KILL);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_somebody_waits_for_is_no_orphan() {
        let (mut child, awaited) = spawn(&mut Command::new("true")).unwrap();
        let number = child.id();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while running(number) {
            assert!(std::time::Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
        assert!(!ended_orphans(&BTreeSet::new()).contains(&number));
        drop(awaited);
        assert!(ended_orphans(&BTreeSet::new()).contains(&number));
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn marked_processes_and_descendants_are_found_and_killed() {
        let mut shell = tokio::process::Command::new("sh")
            .args(["-c", "sleep 1000 & wait"])
            .env("KLED_PROC_TEST", "42")
            .spawn()
            .unwrap();
        let number = shell.id().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while descendants(number).is_empty() {
            assert!(std::time::Instant::now() < deadline, "the shell started nothing");
            tokio::task::yield_now().await;
        }
        assert_eq!(with_variable("KLED_PROC_TEST", "42").len(), 2);
        assert!(kill_all(Duration::from_secs(10), || descendants(number)).await);
        shell.wait().await.unwrap();
        assert!(with_variable("KLED_PROC_TEST", "42").is_empty());
    }
}
