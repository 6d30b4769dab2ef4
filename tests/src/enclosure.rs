//! A set of namespaces in which a node or a container engine may do as it likes.
//!
//! The process, mount, network, IPC and control-group namespaces belong to one process, the enclosure's first.
//! When it ends, the kernel ends every other process inside, and with the last of them go all mounts, interfaces,
//! addresses, routes and iptables rules that were made there. So cleanup doesn't depend on knowing what a
//! kubelet, a container runtime or a CNI plugin made, and happens even when the test process is killed: the first
//! process is bound to it by a parent-death signal. Only the control groups and the slot's directory outlive it,
//! and both are named after the slot.
//!
//! The file system is the machine's, except for what servers write to by default: `/run`, `/var/lib`, `/var/log`
//! and `/dev/shm` are empty and in memory, the machine's settings that a kubelet insists on changing are plain
//! files, and `/sys/fs/cgroup` shows the enclosure's own group as the root.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::cgroup::{self, Groups};
use crate::process::{self, Server};
use crate::slot::Slot;
use crate::{link, programs, wait};

const START_DEADLINE: Duration = Duration::from_secs(20);

/// The programs that [`Enclosure::start`] calls.
pub const PROGRAMS: [&str; 5] = ["unshare", "nsenter", "ip", "mount", "umount"];

/// The line that the first process prints once its mounts are made.
const READY: &str = "enclosure ready";

/// Below `/proc/sys`; a kubelet sets them, and fails if it cannot. They have no namespace.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// A running enclosure. Dropping it ends everything inside.
#[derive(Debug)]
pub struct Enclosure {
    // `unshare`; the enclosure's first process is its only child and ends with it.
    outer: Server,
    entrance: Entrance,
}

impl Enclosure {
    /// Makes the namespaces, the control groups and the link to the machine.
    ///
    /// # Errors
    /// When the machine does not allow one of them; the message says which.
    pub async fn start(slot: &Slot) -> Result<Self> {
        let groups = Groups::create(slot.number())?;
        let script = slot.directory().join("enclosure.sh");
        fs::write(&script, first_script()?)?;
        let unshare = programs::find("unshare").context("no program unshare (Debian package util-linux)")?;
        let mut command = Command::new(unshare);
        command.args(["--mount", "--net", "--pid", "--ipc", "--cgroup", "--propagation", "private"]);
        command.args(["--fork", "--kill-child=KILL", "--mount-proc", "sh"]).arg(&script);
        join(&mut command, groups.doors()?);
        let outer = Server::start(slot, "enclosure", command)?;
        let first_process = wait::until(START_DEADLINE, "the enclosure", async || {
            outer.check_running()?;
            ensure!(outer.log().contains(READY), "not ready; {}", outer.log_tail());
            only_child(outer.id()?)
        })
        .await?;
        groups.settle()?;
        let entrance = Entrance { first_process, groups, number: slot.number() };
        entrance.connect()?;
        Ok(Self { outer, entrance })
    }

    /// The way in.
    #[must_use]
    pub fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    /// An error if the enclosure has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check_running(&self) -> Result<()> {
        self.outer.check_running()
    }
}

/// The way into an enclosure, for its owner and for any other process of the machine's root.
#[derive(Debug)]
pub struct Entrance {
    first_process: u32,
    groups: Groups,
    number: u8,
}

impl Entrance {
    /// The way into the enclosure of another process.
    ///
    /// # Errors
    /// When the machine's control groups cannot be read.
    pub fn open(number: u8, first_process: u32) -> Result<Self> {
        Ok(Self { first_process, groups: Groups::open(number)?, number })
    }

    /// Another handle of the same entrance.
    ///
    /// # Errors
    /// When the machine's control groups cannot be read.
    pub fn try_clone(&self) -> Result<Self> {
        Self::open(self.number, self.first_process)
    }

    /// Joins the network namespace to the machine with a pair of interfaces.
    fn connect(&self) -> Result<()> {
        link::create(self.number, self.first_process)?;
        let address = format!("{}/30", self.address());
        let gateway = self.outer_address().to_string();
        for arguments in [
            vec!["link", "set", "lo", "up"],
            vec!["address", "add", &address, "dev", "eth0"],
            vec!["link", "set", "eth0", "up"],
            vec!["route", "add", "default", "via", &gateway],
        ] {
            let mut command = self.command("ip")?;
            command.args(arguments);
            process::run(command)?;
        }
        Ok(())
    }

    /// The slot's number.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The id, on the machine, of the process that all others inside depend on.
    #[must_use]
    pub fn first_process(&self) -> u32 {
        self.first_process
    }

    /// The address at which the machine reaches what listens inside.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        link::inner_address(self.number)
    }

    /// The machine's own address, as seen from inside.
    #[must_use]
    pub fn outer_address(&self) -> Ipv4Addr {
        link::outer_address(self.number)
    }

    /// A command that will run inside: in all the namespaces and in the control group.
    ///
    /// # Errors
    /// When the program is not on this machine, or the enclosure has ended.
    pub fn command(&self, program: &str) -> Result<Command> {
        let path = programs::find(program).with_context(|| format!("no program {program}"))?;
        let nsenter = programs::find("nsenter").context("no program nsenter (Debian package util-linux)")?;
        let mut command = Command::new(nsenter);
        command.args(["--target", &self.first_process.to_string()]);
        command.args(["--mount", "--net", "--pid", "--ipc", "--cgroup", "--"]).arg(path);
        join(&mut command, self.groups.doors()?);
        Ok(command)
    }
}

/// Makes the process join the control groups before it becomes the program.
fn join(command: &mut Command, doors: Vec<File>) {
    // SAFETY: between fork and exec the closure only writes to files that are open already.
    unsafe {
        command.pre_exec(move || {
            doors.iter().try_for_each(|door| rustix::io::write(door.as_fd(), b"0").map(|_written| ()))?;
            Ok(())
        });
    }
}

/// `unshare` forks once: its child is the first process of the new namespaces.
fn only_child(parent: u32) -> Result<u32> {
    let child = process::children(parent)?.first().copied().context("unshare has no child")?;
    Ok(u32::try_from(child)?)
}

/// What the first process does: mount, say so, then adopt and reap orphans for as long as it lives.
fn first_script() -> Result<String> {
    let mut lines = vec!["set -e".to_owned()];
    lines.extend(
        ["/run", "/dev/shm", "/var/lib", "/var/log"].map(|path| format!("mount -t tmpfs tmpfs {path}")),
    );
    lines.extend(SETTINGS.iter().flat_map(|setting| setting_stand_in(setting)));
    lines.push("umount --recursive --lazy /sys".to_owned());
    lines.push("mount -t sysfs sysfs /sys".to_owned());
    lines.extend(cgroup_mounts(&cgroup::hierarchies()?));
    lines.push(format!("echo '{READY}'"));
    // `wait` reaps whatever is adopted meanwhile; the sleep only keeps it from returning at once.
    lines.push("while :; do sleep 86400 & wait $!; done".to_owned());
    Ok(lines.join("\n") + "\n")
}

/// Puts a plain file in the setting's place: whatever is written stays in the enclosure.
fn setting_stand_in(setting: &str) -> [String; 2] {
    let stand_in = format!("/run/{}", setting.replace('/', "."));
    [format!("cat /proc/sys/{setting} > {stand_in}"), format!("mount --bind {stand_in} /proc/sys/{setting}")]
}

/// Mounts the same hierarchies again: a mount made in a control-group namespace has the namespace's root.
fn cgroup_mounts(hierarchies: &[cgroup::Hierarchy]) -> Vec<String> {
    let unified = hierarchies.iter().any(|hierarchy| hierarchy.mount_point == Path::new("/sys/fs/cgroup"));
    let mut lines = Vec::new();
    if !unified {
        lines.push("mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup".to_owned());
    }
    for hierarchy in hierarchies {
        let path = hierarchy.mount_point.display();
        let kind = &hierarchy.file_system;
        let options =
            if hierarchy.options.is_empty() { String::new() } else { format!("-o {} ", hierarchy.options) };
        lines.push(format!("mkdir -p {path}"));
        lines.push(format!("mount -t {kind} {options}cgroup {path}"));
    }
    lines
}
