//! What keeps the commands of a workspace apart from the rest of the machine.
//!
//! The strongest one that works here is taken: bubblewrap (its own mounts and process numbers), else Landlock (paths
//! refused by the kernel), else none is silently taken: the create fails and says what to do.

mod bubblewrap;
#[cfg(target_os = "linux")]
mod landlock;
mod view;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kled_core::workspace::{Condition, Isolation};
use kled_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

pub(crate) use view::View;

/// Which sandbox holds a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Sandbox {
    /// [bubblewrap](https://github.com/containers/bubblewrap): mounts and process numbers of its own. What is not
    /// allowed is not there.
    Bubblewrap,
    /// [Landlock](https://landlock.io): the kernel refuses paths. Other processes are visible, though out of reach of
    /// signals and debuggers, and sockets that other programs listen on (a container engine's) can be connected to.
    Landlock,
    /// None: what [`Isolation::None`] asks for.
    None,
}

impl Sandbox {
    /// The strongest sandbox that works here, found by trying; or the preferred one if that works.
    pub(crate) fn detect(preferred: Option<Self>) -> Option<Self> {
        [Self::Bubblewrap, Self::Landlock]
            .into_iter()
            .filter(|sandbox| preferred.is_none_or(|preferred| preferred == *sandbox))
            .find(|sandbox| sandbox.works())
    }

    /// True when it can be had on this machine, found by trying.
    #[must_use]
    pub fn works(self) -> bool {
        match self {
            Self::Bubblewrap => bubblewrap::works(),
            Self::Landlock => landlock_works(),
            Self::None => true,
        }
    }

    /// The sandbox for what a spec asks for.
    pub(crate) fn for_isolation(isolation: Isolation, strongest: Option<Self>) -> Result<Self> {
        match (isolation, strongest) {
            (Isolation::None, _) => Ok(Self::None),
            (Isolation::Default | Isolation::Process, Some(sandbox)) => Ok(sandbox),
            (Isolation::Default | Isolation::Process, None) => {
                Err(Error::new(ErrorKind::Unsupported, "no sandbox works on this machine")
                    .hint("install bubblewrap, or ask for isolation none if the repository is trusted"))
            }
            (Isolation::Container, _) => {
                Err(Error::new(ErrorKind::Unsupported, "no container engine answers")
                    .hint("start Docker or Podman, or ask for isolation process"))
            }
        }
    }

    /// True when processes of the workspace are numbered apart, and end with the first of them.
    pub(crate) const fn has_own_processes(self) -> bool {
        matches!(self, Self::Bubblewrap)
    }

    pub(crate) fn condition(self) -> Condition {
        match self {
            Self::Bubblewrap => Condition::new(
                "Sandboxed",
                true,
                "Bubblewrap",
                "commands see only their own files and processes, and toolchains read-only",
            ),
            Self::Landlock => Condition::new(
                "Sandboxed",
                true,
                "Landlock",
                "commands reach only their own files, and toolchains read-only; other processes are visible, and sockets \
                 that other programs listen on can be reached",
            ),
            Self::None => {
                Condition::new("Sandboxed", false, "IsolationNone", "commands can do whatever the user can")
            }
        }
    }

    /// The program and arguments that run `command` in this sandbox.
    pub(crate) fn wrap(self, view: &View, command: Vec<OsString>) -> Vec<OsString> {
        match self {
            Self::Bubblewrap => bubblewrap::wrap(view, command),
            Self::Landlock | Self::None => command,
        }
    }

    /// Confines this process and all that it will start, where the sandbox is of that kind. Called before any thread
    /// is made, since it holds for the calling thread and its descendants.
    pub(crate) fn enter(self, view: &View) -> Result<()> {
        match self {
            Self::Bubblewrap | Self::None => Ok(()),
            Self::Landlock => enter_landlock(view),
        }
    }

    /// The home folder that commands see.
    pub(crate) fn home(self, view: &View) -> &Path {
        match self {
            // The workspace's own home lies where the user's is, so that absolute paths of toolchains stay right.
            Self::Bubblewrap => &view.user_home,
            Self::Landlock | Self::None => &view.home,
        }
    }

    /// The temporary folder that commands see.
    pub(crate) fn temporary(self, view: &View) -> PathBuf {
        match self {
            Self::Bubblewrap => PathBuf::from("/tmp"),
            Self::Landlock | Self::None => view.temporary.clone(),
        }
    }
}

#[cfg(target_os = "linux")]
fn landlock_works() -> bool {
    landlock::works()
}

#[cfg(not(target_os = "linux"))]
fn landlock_works() -> bool {
    false
}

#[cfg(target_os = "linux")]
fn enter_landlock(view: &View) -> Result<()> {
    landlock::enter(view)
}

#[cfg(not(target_os = "linux"))]
fn enter_landlock(_: &View) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "Landlock is a part of Linux"))
}
