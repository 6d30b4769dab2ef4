//! One control group per slot, in every hierarchy of the machine (version 1, version 2 or both).

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

const REMOVE_DEADLINE: Duration = Duration::from_secs(20);
const PROCESSES: &str = "cgroup.procs";
const SUBTREE: &str = "cgroup.subtree_control";

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount_point: PathBuf,
    /// `cgroup` or `cgroup2`.
    pub(crate) file_system: String,
    /// What `mount -o` takes to mount the same hierarchy again.
    pub(crate) options: String,
}

impl Hierarchy {
    /// Whether this is version 2 with controllers of its own, not the empty tree beside version 1.
    fn has_unified_controllers(&self) -> bool {
        let controllers = fs::read_to_string(self.mount_point.join("cgroup.controllers")).unwrap_or_default();
        self.file_system == "cgroup2" && !controllers.trim().is_empty()
    }
}

/// The hierarchies of this machine, in the order they are mounted.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts of this process")?;
    Ok(parse_hierarchies(&mounts))
}

fn parse_hierarchies(mounts: &str) -> Vec<Hierarchy> {
    mounts.lines().filter_map(parse_hierarchy).collect()
}

fn parse_hierarchy(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mount_point = PathBuf::from(before.split_whitespace().nth(4)?);
    let mut words = after.split_whitespace();
    let (file_system, _source, options) = (words.next()?, words.next()?, words.next()?);
    if !matches!(file_system, "cgroup" | "cgroup2") {
        return None;
    }
    // "rw" and the like belong to the mount; the controllers are the rest.
    let own = ["rw", "ro", "xattr", "nsdelegate", "memory_recursiveprot", "clone_children"];
    let options: Vec<&str> = options.split(',').filter(|option| !own.contains(option)).collect();
    Some(Hierarchy { mount_point, file_system: file_system.to_owned(), options: options.join(",") })
}

/// The control groups of one slot.
#[derive(Debug)]
pub(crate) struct Groups(Vec<(Hierarchy, PathBuf)>);

impl Groups {
    /// Makes the slot's group in every hierarchy.
    pub(crate) fn create(number: u8) -> Result<Self> {
        let groups = Self::open(number)?;
        for (hierarchy, path) in &groups.0 {
            fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
            inherit_cpuset(&hierarchy.mount_point, path)?;
        }
        Ok(groups)
    }

    /// The groups that a slot's owner made.
    pub(crate) fn open(number: u8) -> Result<Self> {
        let path = |hierarchy: Hierarchy| {
            let path = hierarchy.mount_point.join(name(number));
            (hierarchy, path)
        };
        Ok(Self(hierarchies()?.into_iter().map(path).collect()))
    }

    /// Open files; a process that writes `0` to each of them has joined.
    pub(crate) fn doors(&self) -> Result<Vec<File>> {
        let open = |(_, path): &(Hierarchy, PathBuf)| {
            // Version 2 forbids processes beside child groups, so there they live in a leaf once `settle` made it.
            let leaf = path.join("init");
            let path = if leaf.exists() { leaf } else { path.clone() }.join(PROCESSES);
            OpenOptions::new().write(true).open(&path).with_context(|| format!("open {}", path.display()))
        };
        self.0.iter().map(open).collect()
    }

    /// On version 2, moves the first processes to a leaf and hands the controllers down.
    pub(crate) fn settle(&self) -> Result<()> {
        for (hierarchy, path) in self.0.iter().filter(|(hierarchy, _)| hierarchy.has_unified_controllers()) {
            let leaf = path.join("init");
            fs::create_dir_all(&leaf)?;
            for process in fs::read_to_string(path.join(PROCESSES))?.lines() {
                fs::write(leaf.join(PROCESSES), process)?;
            }
            for controller in
                fs::read_to_string(hierarchy.mount_point.join("cgroup.controllers"))?.split_whitespace()
            {
                // A controller that the machine keeps to itself stays off; the servers say so if they need it.
                let enable = format!("+{controller}");
                let _kept = fs::write(hierarchy.mount_point.join(SUBTREE), &enable);
                let _kept = fs::write(path.join(SUBTREE), &enable);
            }
        }
        Ok(())
    }
}

/// Version 1 lets nobody into a cpuset that has no processors yet.
fn inherit_cpuset(parent: &Path, group: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read(parent.join(file)) {
            fs::write(group.join(file), value)
                .with_context(|| format!("set {file} of {}", group.display()))?;
        }
    }
    let clone = group.join("cgroup.clone_children");
    if clone.exists() { fs::write(clone, "1").context("let child groups inherit") } else { Ok(()) }
}

/// Where the slot's groups are, whether they exist or not.
pub(crate) fn paths(number: u8) -> Result<Vec<PathBuf>> {
    Ok(hierarchies()?.into_iter().map(|hierarchy| hierarchy.mount_point.join(name(number))).collect())
}

/// Removes the slot's groups, ending whatever still runs in them: nothing else can have joined.
pub(crate) fn remove(number: u8) -> Result<()> {
    for path in paths(number)? {
        wait::until_blocking(REMOVE_DEADLINE, &format!("{} to go", path.display()), || {
            end_and_remove(&path);
            Ok(!path.exists())
        })?;
    }
    Ok(())
}

/// One try, from the leaves up. Processes take a moment to end, so the caller repeats it.
fn end_and_remove(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        end_and_remove(&entry.path());
    }
    for process in fs::read_to_string(group.join(PROCESSES)).unwrap_or_default().lines() {
        if let Some(id) = process.parse().ok().and_then(Pid::from_raw) {
            let _gone = kill_process(id, Signal::KILL);
        }
    }
    let _busy = fs::remove_dir(group);
}

/// The group's name below each hierarchy's root.
fn name(number: u8) -> String {
    format!("kled-tests-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_among_the_mounts() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = parse_hierarchies(mounts);
        let options: Vec<&str> = found.iter().map(|hierarchy| hierarchy.options.as_str()).collect();
        assert_eq!(options, ["cpu,cpuacct", "name=systemd", ""]);
        assert_eq!(found[0].mount_point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    }
}
