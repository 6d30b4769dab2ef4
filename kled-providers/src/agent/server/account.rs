//! Other users of the workspace, whom commands can run as where the agent may become them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// A user by the workspace's own list, `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    name: String,
    user: Uid,
    /// The first one is the user's own.
    groups: Vec<Gid>,
    home: String,
    shell: String,
}

impl Account {
    /// The user of this process, by number.
    pub(super) fn own_number() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    /// The user of this name or number.
    pub(super) fn find(user: &str) -> Option<Self> {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        Self::in_lists(user, &read("/etc/passwd"), &read("/etc/group"))
    }

    fn in_lists(user: &str, passwd: &str, group: &str) -> Option<Self> {
        let line = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.len() == 7 && (fields[0] == user || fields[2] == user)).then_some(fields)
        })?;
        let name = line[0];
        let own = Gid::from_raw(line[3].parse().ok()?);
        let further = group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, number, members] = fields[..] else { return None };
            members.split(',').any(|member| member == name).then(|| number.parse().ok().map(Gid::from_raw))?
        });
        Some(Self {
            name: name.into(),
            user: Uid::from_raw(line[2].parse().ok()?),
            groups: std::iter::once(own).chain(further.filter(|group| *group != own)).collect(),
            home: line[5].into(),
            shell: line[6].into(),
        })
    }

    pub(super) fn number(&self) -> u32 {
        self.user.as_raw()
    }

    /// What a login of the user has in its environment.
    pub(super) fn environment(&self) -> impl Iterator<Item = (String, String)> {
        let variables =
            [("HOME", &self.home), ("LOGNAME", &self.name), ("SHELL", &self.shell), ("USER", &self.name)];
        let given = variables.into_iter().filter(|(_, value)| !value.is_empty());
        given.map(|(name, value)| (name.to_owned(), value.clone())).collect::<Vec<_>>().into_iter()
    }

    /// Makes this process, a child that is about to run a program, one of the user. It makes three system calls and
    /// nothing else, so it may be called between fork and exec.
    #[cfg(target_os = "linux")]
    pub(super) fn enter(&self) -> io::Result<()> {
        rustix::thread::set_thread_groups(&self.groups)?;
        if let Some(group) = self.groups.first() {
            rustix::thread::set_thread_gid(*group)?;
        }
        Ok(rustix::thread::set_thread_uid(self.user)?)
    }

    /// Elsewhere than on Linux nobody else is entered.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn enter(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Tries whether a process here may become one of the user: whether the agent has the right to, and its sandbox
    /// has the user at all.
    pub(super) fn can_be_entered(&self) -> bool {
        let account = self.clone();
        let mut command = Command::new("/proc/self/no-such-program");
        // SAFETY: `enter` makes system calls only, all of them async-signal-safe: no allocation, no lock.
        unsafe { command.pre_exec(move || account.enter()) };
        // Who gets as far as looking for the program is in.
        command.spawn().is_err_and(|cause| cause.kind() == io::ErrorKind::NotFound)
    }

    /// Gives a folder and what is in it to the user, unless it is the user's. The folder itself comes last, so that
    /// one that was not finished is begun again.
    pub(super) fn own(&self, folder: &Path) -> io::Result<()> {
        if std::fs::symlink_metadata(folder)?.uid() == self.number() {
            return Ok(());
        }
        Ok(self.own_all(CWD, folder)?)
    }

    /// Every folder is opened from the one above it and no link is followed: a process of the user that puts a link
    /// in the way gains nothing.
    fn own_all<P: rustix::path::Arg + Copy>(&self, above: BorrowedFd<'_>, name: P) -> rustix::io::Result<()> {
        let group = self.groups.first().copied();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::openat(above, name, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                return rustix::fs::chownat(above, name, Some(self.user), group, flags);
            }
            Err(cause) => return Err(cause),
        };
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.own_all(folder.as_fd(), entry.file_name())?;
            }
        }
        rustix::fs::fchown(&folder, Some(self.user), group)
    }

    /// Gives an open terminal to the user, so that its programs can open it by name.
    pub(super) fn own_terminal(&self, terminal: impl AsFd) -> io::Result<()> {
        Ok(rustix::fs::fchown(terminal, Some(self.user), self.groups.first().copied())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndev:x:1000:100:Dev:/home/dev:/bin/bash\nbroken:x\n";
    const GROUP: &str = "users:x:100:dev\ndocker:x:998:other,dev\nx:x:5:develop\nbroken\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let dev = Account::in_lists("dev", PASSWD, GROUP).unwrap();
        assert_eq!(Account::in_lists("1000", PASSWD, GROUP).as_ref(), Some(&dev));
        assert_eq!(dev.number(), 1000);
        assert_eq!(dev.groups.iter().map(|group| group.as_raw()).collect::<Vec<_>>(), [100, 998]);
        let environment: Vec<_> = dev.environment().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(environment, ["HOME=/home/dev", "LOGNAME=dev", "SHELL=/bin/bash", "USER=dev"]);
        for unknown in ["broken", "de", "", "100"] {
            assert_eq!(Account::in_lists(unknown, PASSWD, GROUP), None, "{unknown}");
        }
    }

    #[test]
    fn whom_a_process_may_become_is_tried() {
        let root = Account::in_lists("root", PASSWD, "").unwrap();
        assert_eq!(root.can_be_entered(), cfg!(target_os = "linux") && Account::own_number() == 0);
    }

    #[test]
    fn a_folder_is_given_away_and_not_what_its_links_lead_to() {
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        std::fs::write(path("a/b/file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), path("a/link")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        let Some(other) = Account::find("nobody").filter(|_| Account::own_number() == 0) else {
            // Only root can give files away: nothing happens to what is the user's own already.
            let own = Account {
                user: rustix::process::geteuid(),
                ..Account::in_lists("dev", PASSWD, GROUP).unwrap()
            };
            return own.own(folder.path()).unwrap();
        };
        other.own(folder.path()).unwrap();
        for name in ["", "a", "a/b", "a/b/file", "a/link", "dangling"] {
            assert_eq!(std::fs::symlink_metadata(path(name)).unwrap().uid(), other.number(), "{name}");
        }
        assert_eq!(std::fs::metadata(outside.path()).unwrap().uid(), 0);
    }
}
