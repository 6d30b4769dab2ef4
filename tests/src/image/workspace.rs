//! An image that people could work in: every command of busybox, and the machine's git with all that it needs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::Image;
use crate::{process, programs};

/// The workspace image's name in clusters.
pub const WORKSPACE: &str = "kled.test/workspace:1";

/// The user of the workspace image, who is called `kled` and has no rights; also the group.
pub const WORKSPACE_USER: u32 = 1000;

const USERS: &str = "\
root:x:0:0:root:/root:/bin/sh
kled:x:1000:1000:Kled:/home/kled:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
";

const GROUPS: &str = "root:x:0:\nkled:x:1000:\nnogroup:x:65534:\n";

/// The C library would look elsewhere first.
const NAME_SERVICES: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// Where distributions keep the certificates that programs trust.
const CERTIFICATES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

impl Image {
    /// A small Linux for user 1000 with all commands of busybox, and with git, which is the machine's own.
    ///
    /// # Errors
    /// When the machine has no git, no static busybox, or misses a library that git names.
    pub fn workspace(name: impl Into<String>) -> Result<Self> {
        let busybox =
            programs::find("busybox").context("no program busybox (Debian package busybox-static)")?;
        ensure!(programs::is_static(&busybox), "{} is not static (see busybox-static)", busybox.display());
        let mut image = Self::new(name)
            .directory("bin", 0o755)
            .file("bin/busybox", fs::read(&busybox)?, 0o755)
            .directory("etc", 0o755)
            .file("etc/passwd", USERS, 0o644)
            .file("etc/group", GROUPS, 0o644)
            .file("etc/nsswitch.conf", NAME_SERVICES, 0o644)
            .directory("root", 0o700)
            .directory("home", 0o755)
            .directory_of(WORKSPACE_USER, "home/kled", 0o755)
            .directory("tmp", 0o1777)
            .directory("var", 0o755)
            .directory("var/tmp", 0o1777)
            .user(format!("{WORKSPACE_USER}:{WORKSPACE_USER}"))
            .command(["sh"]);
        for command in said(&busybox, &["--list"])?.lines().filter(|command| *command != "busybox") {
            image = image.link(format!("bin/{command}"), "busybox");
        }
        image.git()?.certificates()
    }

    /// git's programs at the path where they look for each other, and the libraries that they name.
    fn git(mut self) -> Result<Self> {
        let git = programs::find("git").context("no program git")?;
        let folder = PathBuf::from(said(&git, &["--exec-path"])?.trim());
        let mut files = files(&folder)?;
        let prefix = folder.ancestors().nth(2).context("git's programs are below a prefix")?;
        let templates = prefix.join("share").join("git-core").join("templates");
        if templates.exists() {
            files.extend(self::files(&templates)?);
        }
        let mut libraries = BTreeSet::new();
        for file in &files {
            self = self.copy(file)?;
            if !file.is_symlink() && is_dynamic(file)? {
                libraries.extend(libraries_of(file)?);
            }
        }
        // Some distributions have the program here only, others also among the rest.
        self = match folder.join("git") {
            program if program.exists() => self.link("usr/bin/git", program.to_string_lossy()),
            _ => {
                libraries.extend(libraries_of(&git)?);
                self.file("usr/bin/git", fs::read(&git)?, 0o755)
            }
        };
        for library in libraries {
            let content = fs::read(&library).with_context(|| format!("read {}", library.display()))?;
            self = self.file(inside(&library)?, content, 0o755);
        }
        Ok(self)
    }

    fn certificates(self) -> Result<Self> {
        match CERTIFICATES.iter().map(Path::new).find(|path| path.exists()) {
            Some(path) => Ok(self.file(inside(path)?, fs::read(path)?, 0o644)),
            None => Ok(self),
        }
    }

    /// Adds a file of the machine at its own path.
    fn copy(self, path: &Path) -> Result<Self> {
        if path.is_symlink() {
            let target = fs::read_link(path)?;
            return Ok(self.link(inside(path)?, target.to_string_lossy()));
        }
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        Ok(self.file(inside(path)?, fs::read(path)?, mode))
    }
}

fn said(program: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    process::run(command)
}

/// A path of the machine as one of an image.
fn inside(path: &Path) -> Result<String> {
    let path = path.strip_prefix("/").context("a path of the machine is absolute")?;
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}

/// The files and links in a folder and below, in an order that does not depend on the machine.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether it is a program that needs others' libraries, not a script.
fn is_dynamic(file: &Path) -> Result<bool> {
    Ok(fs::read(file)?.starts_with(b"\x7fELF") && !programs::is_static(file))
}

fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let ldd = programs::find("ldd").context("no program ldd")?;
    let program = program.to_str().context("a program's path is UTF-8")?;
    parse_libraries(&said(&ldd, &[program])?).with_context(|| format!("find the libraries of {program}"))
}

/// The paths in what `ldd` says. The kernel's own library has none.
fn parse_libraries(said: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in said.lines() {
        if line.contains("not found") {
            bail!("{}", line.trim());
        }
        let place = line.split_once("=>").map_or(line, |(_name, place)| place);
        libraries
            .extend(place.split_whitespace().next().filter(|path| path.starts_with('/')).map(PathBuf::from));
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_the_loader_says() -> Result<()> {
        let said = "\tlinux-vdso.so.1 (0x00007f1a5da25000)\n\
                    \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f1a5d9f5000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f1a5da27000)\n";
        let found = parse_libraries(said)?;
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        let missing = parse_libraries("\tlibz.so.1 => not found\n").map_err(|error| error.to_string());
        assert_eq!(missing, Err("libz.so.1 => not found".to_owned()));
        Ok(())
    }
}
