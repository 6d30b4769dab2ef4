//! Bubblewrap: mounts and process numbers of its own.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use super::View;

/// Where the program that serves inside lies in the sandbox: its own folder may be one that is not seen.
const PROGRAM: &str = "/run/kled/agent";

/// For root no user namespace is made, so that its files keep their owners; these capabilities stay, as a container
/// engine leaves them, since package tools run by root set owners and modes. All others go.
const ROOT_CAPABILITIES: [&str; 7] =
    ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"];

/// Tries it: a distribution or a container around this process may forbid what it needs.
pub(super) fn works() -> bool {
    let mut probe = Command::new("bwrap");
    probe.args([
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--die-with-parent",
        "--ro-bind",
        "/",
        "/",
    ]);
    probe.args(["--proc", "/proc", "--dev", "/dev", "--", "true"]);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

pub(super) fn wrap(view: &View, command: Vec<OsString>) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.flags(&[
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--die-with-parent",
        "--new-session",
    ]);
    if rustix::process::geteuid().is_root() {
        arguments.flags(&["--cap-drop", "ALL"]);
        ROOT_CAPABILITIES.iter().for_each(|capability| arguments.flags(&["--cap-add", capability]));
    }
    arguments.flags(&["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run", "--dir", "/var"]);
    let (below_home, system): (Vec<_>, Vec<_>) =
        view.readable.iter().partition(|path| path.starts_with(&view.user_home));
    for path in system {
        arguments.readable(path);
    }
    for path in &view.hidden {
        arguments.hide(path);
    }
    // The order matters: what comes later covers what came before.
    arguments.mount("--bind", &view.temporary, Path::new("/tmp"));
    arguments.mount("--bind", &view.temporary, Path::new("/var/tmp"));
    arguments.mount("--bind", &view.home, &view.user_home);
    for path in below_home {
        arguments.readable(path);
    }
    arguments.mount("--bind", &view.checkout, &view.checkout);
    arguments.mount("--bind", &view.state, &view.state);
    arguments.mount("--ro-bind", &view.program, Path::new(PROGRAM));
    arguments.flags(&["--chdir"]);
    arguments.0.push(view.checkout.clone().into());
    arguments.flags(&["--", PROGRAM]);
    arguments.0.extend(command.into_iter().skip(1));
    arguments.0
}

struct Arguments(Vec<OsString>);

impl Default for Arguments {
    fn default() -> Self {
        Self(vec!["bwrap".into()])
    }
}

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn mount(&mut self, how: &str, from: &Path, to: &Path) {
        self.0.extend([how.into(), from.into(), to.into()]);
    }

    /// A link of the system (`/bin` to `usr/bin`) stays a link; everything else is mounted read-only.
    fn readable(&mut self, path: &Path) {
        match std::fs::read_link(path) {
            Ok(target) if path.parent() == Some(Path::new("/")) => self.mount("--symlink", &target, path),
            _ => self.mount("--ro-bind", path, path),
        }
    }

    fn hide(&mut self, path: &Path) {
        if path.is_dir() {
            self.0.extend(["--tmpfs".into(), path.into()]);
        } else {
            self.mount("--ro-bind", Path::new("/dev/null"), path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn view() -> View {
        View {
            checkout: "/home/user/.local/share/kled/workspaces/demo/checkout".into(),
            home: "/data/home".into(),
            temporary: "/data/tmp".into(),
            state: "/home/user/.local/share/kled/workspaces/demo/state".into(),
            user_home: "/home/user".into(),
            readable: vec!["/usr".into(), "/home/user/.rustup".into()],
            hidden: vec![PathBuf::from("/etc/shadow")],
            program: "/opt/kled".into(),
        }
    }

    fn position(arguments: &[OsString], triple: [&str; 3]) -> usize {
        arguments
            .windows(3)
            .position(|window| window == triple)
            .unwrap_or_else(|| panic!("{triple:?} is missing"))
    }

    #[test]
    fn toolchains_cover_the_home_and_the_checkout_covers_both() {
        let arguments = wrap(&view(), vec!["/opt/kled".into(), "serve".into()]);
        let home = position(&arguments, ["--bind", "/data/home", "/home/user"]);
        let toolchain = position(&arguments, ["--ro-bind", "/home/user/.rustup", "/home/user/.rustup"]);
        let checkout = "/home/user/.local/share/kled/workspaces/demo/checkout";
        let checkout = position(&arguments, ["--bind", checkout, checkout]);
        assert!(home < toolchain && toolchain < checkout);
        assert_eq!(arguments[arguments.len() - 3..], ["--", PROGRAM, "serve"]);
    }

    #[test]
    fn only_own_folders_are_writable() {
        let arguments = wrap(&view(), vec!["/opt/kled".into()]);
        let writable: Vec<_> =
            arguments.windows(2).filter(|pair| pair[0] == "--bind").map(|pair| &pair[1]).collect();
        let own = [
            "/data/tmp",
            "/data/tmp",
            "/data/home",
            "/home/user/.local/share/kled/workspaces/demo/checkout",
            "/home/user/.local/share/kled/workspaces/demo/state",
        ];
        assert_eq!(writable, own);
    }
}
