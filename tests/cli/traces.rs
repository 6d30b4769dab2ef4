//! What a workspace could leave behind: processes, files, control groups, mounts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kled_tests::wait;

/// A process that was killed is gone as soon as it is reaped; nothing else is waited for.
const REAPED: Duration = Duration::from_secs(2);

/// Fails naming what is left.
pub(crate) fn nothing_left(data: &Path, name: &str, identity: Option<&str>) -> Result<()> {
    let files = files_of(data, name);
    ensure!(files.is_empty(), "files are left: {files:?}");
    wait::until_blocking(REAPED, "processes to be gone", || Ok(processes_of(data).is_empty()))
        .map_err(|error| error.context(format!("processes are left: {:?}", processes_of(data))))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts.lines().find(|line| line.contains(&*data.to_string_lossy()));
    if let Some(mount) = mount {
        bail!("a mount is left: {mount}");
    }
    if let Some(identity) = identity {
        let groups = named(Path::new("/sys/fs/cgroup"), identity);
        ensure!(groups.is_empty(), "control groups are left: {groups:?}");
    }
    Ok(())
}

/// Whatever is in the folders of workspaces and of what is being removed, and whatever has the workspace's name.
fn files_of(data: &Path, name: &str) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for folder in ["workspaces", "trash"] {
        // All of it, since the names tell who wrote there.
        left.extend(named(&data.join(folder), ""));
    }
    left.extend(named(data, name).into_iter().filter(|path| !left.contains(path)).collect::<Vec<_>>());
    left
}

/// Everything below `folder` whose name holds `part`.
fn named(folder: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // A control group of somebody else may go while it is looked at.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().contains(part) {
                found.push(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

/// Processes that have anything to do with `data`, with what they are.
fn processes_of(data: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec!["/proc cannot be read".into()] };
    let numbered = |name: &str| name.parse::<u32>().ok().filter(|number| *number != std::process::id());
    entries
        .flatten()
        .filter_map(|entry| {
            let number = numbered(entry.file_name().to_str()?)?;
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            concerns(&entry.path(), data, &line)
                .then(|| format!("{number}: {}", String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .collect()
}

fn concerns(process: &Path, data: &Path, line: &[u8]) -> bool {
    let path = data.to_string_lossy();
    let holds = |bytes: &[u8]| bytes.windows(path.len()).any(|part| part == path.as_bytes());
    let file = |name: &str| fs::read(process.join(name)).is_ok_and(|bytes| holds(&bytes));
    let link = |name: &str| fs::read_link(process.join(name)).is_ok_and(|target| target.starts_with(data));
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let opened = open.flat_map(|entry| fs::read_link(entry.path())).any(|target| target.starts_with(data));
    holds(line) || file("environ") || file("maps") || link("cwd") || link("root") || opened
}
