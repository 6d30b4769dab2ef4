//! Finding programs, and saying in one line what this machine lacks.

use std::env;
use std::path::{Path, PathBuf};

use kled_providers::image::StaticProgram;

use crate::servers::{self, table};

/// The variable that switches server tests on; the runner sets it.
pub const SERVERS_SWITCH: &str = "KLED_TEST_SERVERS";

/// A folder with programs that are preferred to those on `PATH`.
pub const PROGRAM_FOLDER: &str = "KLED_TEST_BIN";

/// Where distributions keep programs of the administrator, which a plain user's `PATH` leaves out.
const ADMINISTRATOR_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where network plugins are, which nobody has on `PATH`: they are for container runtimes.
const PLUGIN_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The path of a program: a server of the [`table`] at its version, or whatever is in `KLED_TEST_BIN` or on `PATH`.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    match table::go_program(name) {
        Some((server, program)) => servers::find(server, program),
        None => find_installed(name),
    }
}

/// The path of a program outside the cache of built servers.
pub(crate) fn find_installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let preferred = env::var_os(PROGRAM_FOLDER).map(PathBuf::from);
    let folders = preferred.into_iter().chain(env::split_paths(&path));
    let folders = folders.chain(ADMINISTRATOR_FOLDERS.iter().chain(&PLUGIN_FOLDERS).map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// Whether a program runs without any other file, so that it works in an image of its own.
#[must_use]
pub fn is_static(path: &Path) -> bool {
    StaticProgram::read(path).is_ok()
}

/// Why server tests that need these programs (and root, if asked for) cannot run here, in one line.
#[must_use]
pub fn missing(programs: &[&str], needs: Privilege) -> Option<String> {
    if env::var_os(SERVERS_SWITCH).is_none() {
        return Some("server tests are off; `cargo run --package kled-tests` runs them".to_owned());
    }
    if !cfg!(target_os = "linux") {
        return Some("needs Linux".to_owned());
    }
    if needs == Privilege::Root && !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let absent: Vec<&str> = programs.iter().copied().filter(|name| find(name).is_none()).collect();
    (!absent.is_empty()).then(|| format!("missing programs: {}", absent.join(", ")))
}

/// What a fixture may do on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Anyone can run it.
    User,
    /// It makes namespaces, mounts or control groups.
    Root,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        let shell = find_installed("sh").unwrap_or_default();
        assert!(!is_static(&shell), "{} is linked to the C library", shell.display());
        assert!(!is_static(Path::new("/etc/passwd")), "a text is no program");
    }
}
