//! What a workspace uses: files of its control group, as a container sees them, and its file system.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::agent::protocol::messages::Usage;

const MOUNT: &str = "/sys/fs/cgroup";

/// Version 1 has a number for "no limit": the largest that is a multiple of a page.
const NO_LIMIT: u64 = 1 << 62;

/// What is used now. Reads files and asks the file system of `folder`, so it blocks.
pub(super) fn usage(folder: &Path) -> Usage {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut usage = of_group(Path::new(MOUNT), &own);
    if let Ok(disk) = rustix::fs::statvfs(folder) {
        usage.disk_total_bytes = Some(disk.f_blocks.saturating_mul(disk.f_frsize));
        usage.disk_used_bytes =
            Some(disk.f_blocks.saturating_sub(disk.f_bfree).saturating_mul(disk.f_frsize));
    }
    usage
}

/// The usage of a control group. `own` is the text of `/proc/self/cgroup`.
fn of_group(mount: &Path, own: &str) -> Usage {
    if mount.join("cgroup.controllers").exists() { unified(mount, own) } else { separate(mount, own) }
}

/// Version 2: one tree.
fn unified(mount: &Path, own: &str) -> Usage {
    let folder = folder(mount, path_of(own, ""));
    let memory = number::<u64>(&folder.join("memory.current"));
    Usage {
        memory_bytes: memory.map(|all| without_files(all, &folder.join("memory.stat"), "inactive_file")),
        memory_limit_bytes: number(&folder.join("memory.max")),
        cpu_microseconds: field(&folder.join("cpu.stat"), "usage_usec"),
        processes: number(&folder.join("pids.current")),
        disk_used_bytes: None,
        disk_total_bytes: None,
    }
}

/// Version 1: a tree for each controller.
fn separate(mount: &Path, own: &str) -> Usage {
    let of = |controller: &str| folder(&mount.join(controller), path_of(own, controller));
    let memory = of("memory");
    let all = number::<u64>(&memory.join("memory.usage_in_bytes"));
    let limit = number::<u64>(&memory.join("memory.limit_in_bytes"));
    let nanoseconds = number::<u64>(&of("cpuacct").join("cpuacct.usage"));
    Usage {
        memory_bytes: all.map(|all| without_files(all, &memory.join("memory.stat"), "total_inactive_file")),
        memory_limit_bytes: limit.filter(|limit| *limit < NO_LIMIT),
        cpu_microseconds: nanoseconds.map(|nanoseconds| nanoseconds / 1000),
        processes: number(&of("pids").join("pids.current")),
        disk_used_bytes: None,
        disk_total_bytes: None,
    }
}

/// The path of the group of a controller in `/proc/self/cgroup`; version 2 has none before its colons.
fn path_of<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

/// A container sees its own group as the mount itself, while its path may still be that on the machine.
fn folder(mount: &Path, path: Option<&str>) -> PathBuf {
    let below = path.map(|path| mount.join(path.trim_start_matches('/')));
    below.filter(|folder| folder.is_dir()).unwrap_or_else(|| mount.to_owned())
}

/// Copies of files that nobody needs now are given back when memory is short: they are not in use.
fn without_files(all: u64, statistics: &Path, name: &str) -> u64 {
    all.saturating_sub(field(statistics, name).unwrap_or_default())
}

/// The number in a file; `max` is none.
fn number<T: FromStr>(file: &Path) -> Option<T> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number after a name in a file of `NAME NUMBER` lines.
fn field(file: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(mount: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = mount.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    #[test]
    fn version_2_in_a_container() {
        let mount = tempfile::tempdir().unwrap();
        write(
            mount.path(),
            &[
                ("cgroup.controllers", "cpu memory pids\n"),
                ("memory.current", "1000000\n"),
                ("memory.max", "max\n"),
                ("memory.stat", "anon 5\ninactive_file 400000\ninactive_file_x 1\n"),
                ("cpu.stat", "usage_usec 123\nuser_usec 100\n"),
                ("pids.current", "7\n"),
            ],
        );
        let usage = of_group(mount.path(), "0::/\n");
        assert_eq!(usage.memory_bytes, Some(600_000));
        assert_eq!(usage.memory_limit_bytes, None);
        assert_eq!((usage.cpu_microseconds, usage.processes), (Some(123), Some(7)));
        write(mount.path(), &[("memory.max", "2000000\n")]);
        assert_eq!(of_group(mount.path(), "0::/\n").memory_limit_bytes, Some(2_000_000));
    }

    #[test]
    fn version_1_on_the_machine_and_in_a_container() {
        let mount = tempfile::tempdir().unwrap();
        let own = "4:memory:/pod/a\n2:cpu,cpuacct:/pod/a\n8:pids:/pod/a\n0::/\n";
        write(
            mount.path(),
            &[
                ("memory/memory.usage_in_bytes", "1000"),
                ("memory/memory.limit_in_bytes", "9223372036854771712"),
                ("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 300\n"),
                ("cpuacct/cpuacct.usage", "5000"),
                ("pids/pids.current", "3"),
            ],
        );
        let usage = of_group(mount.path(), own);
        assert_eq!((usage.memory_bytes, usage.memory_limit_bytes), (Some(700), None));
        assert_eq!((usage.cpu_microseconds, usage.processes), (Some(5), Some(3)));
        write(mount.path(), &[("memory/pod/a/memory.usage_in_bytes", "64")]);
        assert_eq!(of_group(mount.path(), own).memory_bytes, Some(64));
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let mount = tempfile::tempdir().unwrap();
        assert_eq!(of_group(mount.path(), ""), Usage::default());
        let disk = usage(mount.path());
        assert!(disk.disk_total_bytes >= disk.disk_used_bytes && disk.disk_total_bytes > Some(0));
    }
}
