//! Limits through control groups, where this user may make one.
//!
//! A few files are written by hand: the crates for control groups bring D-Bus with them, for managers that are not
//! needed here.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kled_core::WorkspaceId;
use kled_core::provider::Enforcement;
use kled_core::workspace::{Condition, Resources};

use crate::agent::proc;

const MOUNT: &str = "/sys/fs/cgroup";

/// The period in which a processor quota counts, the kernel's default: 100 ms.
const CPU_PERIOD_MICROSECONDS: u64 = 100_000;

/// How long killed processes may take to leave a group.
const EMPTY_LIMIT: Duration = Duration::from_secs(5);

/// Where groups can be made on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// Version 2: one tree; the folder under which this user may make groups.
    Unified(PathBuf),
    /// Version 1: a tree for each controller.
    Separate { cpu: Option<PathBuf>, memory: Option<PathBuf> },
    /// None, and why.
    Absent(String),
}

impl Hierarchy {
    /// Looks for a place where this user may make groups.
    pub(crate) fn detect() -> Self {
        let mount = Path::new(MOUNT);
        if mount.join("cgroup.controllers").exists() {
            return match delegated_ancestor(mount) {
                Some(parent) => Self::Unified(parent.join("kled")),
                None => Self::Absent("no control group is delegated to this user".into()),
            };
        }
        let controller =
            |name: &str| Some(mount.join(name)).filter(|path| writable(path)).map(|path| path.join("kled"));
        match (controller("cpu"), controller("memory")) {
            (None, None) => Self::Absent("this user may not make control groups".into()),
            (cpu, memory) => Self::Separate { cpu, memory },
        }
    }

    /// What a provider can promise before a group is made.
    pub(crate) fn enforcement(&self) -> (Enforcement, Enforcement) {
        let state = |there: bool| match self {
            _ if there => Enforcement::Enforced,
            Self::Absent(reason) => Enforcement::NotEnforced { reason: reason.clone() },
            _ => Enforcement::NotEnforced { reason: "this controller is not available".into() },
        };
        match self {
            Self::Unified(_) => (state(true), state(true)),
            Self::Separate { cpu, memory } => (state(cpu.is_some()), state(memory.is_some())),
            Self::Absent(_) => (state(false), state(false)),
        }
    }

    fn parents(&self) -> Vec<&Path> {
        match self {
            Self::Unified(parent) => vec![parent],
            Self::Separate { cpu, memory } => cpu.iter().chain(memory).map(PathBuf::as_path).collect(),
            Self::Absent(_) => Vec::new(),
        }
    }
}

/// The nearest group above this process's own in which groups can be made: `user@….service` of a systemd login, or
/// the mount itself for root.
fn delegated_ancestor(mount: &Path) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    if rustix::process::geteuid().is_root() {
        return writable(mount).then(|| mount.to_owned());
    }
    let own = mount.join(own);
    own.ancestors()
        .take_while(|path| path.starts_with(mount))
        .filter(|path| path.extension().is_some_and(|extension| extension == "service"))
        .find(|path| writable(path))
        .map(Path::to_owned)
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// The group of one workspace.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    folders: Vec<PathBuf>,
}

impl Group {
    /// Makes the group and sets its limits. What cannot be had stands in the conditions, never in an error: the
    /// workspace runs, and says that the limit is not kept.
    pub(crate) fn create(
        hierarchy: &Hierarchy,
        id: WorkspaceId,
        limits: &Resources,
    ) -> (Self, Vec<Condition>) {
        let mut group = Self { folders: Vec::new() };
        let mut problem = match hierarchy {
            Hierarchy::Absent(reason) => Some(reason.clone()),
            _ => None,
        };
        if let Hierarchy::Unified(parent) = hierarchy {
            problem = enable_controllers(parent).err().map(|cause| cause.to_string());
        }
        for parent in hierarchy.parents() {
            let folder = parent.join(id.to_string());
            match fs::create_dir_all(&folder) {
                Ok(()) => group.folders.push(folder),
                Err(cause) => problem = Some(cause.to_string()),
            }
        }
        let cpu = limits.cpu.as_ref().map(|cpu| limit("CpuLimited", &problem, group.limit_cpu(cpu.millis())));
        let memory = limits
            .memory
            .as_ref()
            .map(|memory| limit("MemoryLimited", &problem, group.limit_memory(memory.value())));
        (group, cpu.into_iter().chain(memory).collect())
    }

    /// The group of a workspace, whether it is there or not.
    pub(crate) fn of(hierarchy: &Hierarchy, id: WorkspaceId) -> Self {
        Self { folders: hierarchy.parents().into_iter().map(|parent| parent.join(id.to_string())).collect() }
    }

    fn limit_cpu(&self, millis: u64) -> io::Result<()> {
        // The kernel takes no quota below 1 ms.
        let quota = (millis * CPU_PERIOD_MICROSECONDS / 1000).max(1000);
        self.write_one(&[
            ("cpu.max", format!("{quota} {CPU_PERIOD_MICROSECONDS}")),
            ("cpu.cfs_quota_us", quota.to_string()),
        ])
    }

    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        self.write_one(&[("memory.max", bytes.to_string()), ("memory.limit_in_bytes", bytes.to_string())])
    }

    /// Writes the first of these files that one of the group's folders has: version 1 and 2 name them differently.
    fn write_one(&self, files: &[(&str, String)]) -> io::Result<()> {
        let there =
            |file: &str| self.folders.iter().map(|folder| folder.join(file)).find(|path| path.exists());
        match files.iter().find_map(|(file, value)| there(file).zip(Some(value))) {
            Some((path, value)) => fs::write(path, value),
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "this controller is not available")),
        }
    }

    /// Puts a process, and all that it starts from now on, into the group.
    pub(crate) fn add(&self, process: u32) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), process.to_string()))
    }

    /// Kills all that is in the group and removes it. Says what was removed.
    pub(crate) async fn remove(&self) -> Vec<String> {
        proc::kill_all(EMPTY_LIMIT, || self.processes()).await;
        let mut removed = Vec::new();
        for folder in &self.folders {
            if fs::remove_dir(folder).is_ok() {
                removed.push(format!("control group {}", folder.display()));
            }
            // The parent goes with its last group; while others are in it the kernel refuses.
            if let Some(parent) = folder.parent() {
                let _still_used = fs::remove_dir(parent);
            }
        }
        removed
    }

    fn processes(&self) -> BTreeSet<u32> {
        let read = |folder: &PathBuf| fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        self.folders.iter().map(read).flat_map(|text| numbers(&text)).collect()
    }
}

fn numbers(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn enable_controllers(parent: &Path) -> io::Result<()> {
    fs::create_dir_all(parent)?;
    for folder in [parent.parent().unwrap_or(parent), parent] {
        fs::write(folder.join("cgroup.subtree_control"), "+cpu +memory")?;
    }
    Ok(())
}

fn limit(condition_type: &str, problem: &Option<String>, result: io::Result<()>) -> Condition {
    match (problem, result) {
        (None, Ok(())) => Condition::new(condition_type, true, "ControlGroup", "the kernel keeps the limit"),
        (Some(problem), _) => not_limited(condition_type, problem),
        (None, Err(cause)) => not_limited(condition_type, &cause.to_string()),
    }
}

/// The condition of a limit that is not kept.
pub(crate) fn not_limited(condition_type: &str, why: &str) -> Condition {
    Condition::new(condition_type, false, "NotEnforced", format!("the limit is not kept: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_is_kept_or_the_condition_says_that_it_is_not() {
        let hierarchy = Hierarchy::detect();
        let limits = Resources {
            memory: Some("64Mi".parse().unwrap()),
            cpu: Some("500m".parse().unwrap()),
            ..Resources::default()
        };
        let (group, conditions) = Group::create(&hierarchy, WorkspaceId::random(), &limits);
        assert_eq!(conditions.len(), 2);
        let (cpu, memory) = hierarchy.enforcement();
        if cpu.is_enforced() && memory.is_enforced() {
            let kept = |name: &str| {
                group.folders.iter().find_map(|folder| fs::read_to_string(folder.join(name)).ok())
            };
            let memory = kept("memory.max").or_else(|| kept("memory.limit_in_bytes"));
            assert_eq!(memory.as_deref().map(str::trim), Some("67108864"), "{conditions:?}");
            let cpu = kept("cpu.max").or_else(|| kept("cpu.cfs_quota_us"));
            assert!(cpu.is_some_and(|quota| quota.starts_with("50000")), "{conditions:?}");
        }
        group.remove().await;
        assert!(group.folders.iter().all(|folder| !folder.exists()));
    }
}
