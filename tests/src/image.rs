//! Container images made from local files: no registry is needed, and any name can be given.
//!
//! [`Image::write`] makes an OCI archive with one layer, which `podman load` and `ctr images import` take. The
//! archive is a pure function of its files, so the same image has the same digest on every machine.

mod workspace;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use kled_providers::image::ImageArchive;

use crate::programs;

pub use self::workspace::{WORKSPACE, WORKSPACE_USER};

/// What a shell script in an image can call; each is a link to the one static program.
///
/// Debian's `wget -T` crashes; `timeout 5 wget` does what it should.
const BUSYBOX_COMMANDS: &str = "sh cat cp mv rm ls ln mkdir rmdir touch chmod chown echo env printf pwd hostname \
    timeout sleep true false test date dd df du find grep head tail sed sort wc tar id ps kill mount stty seq wget nc httpd \
    nslookup ip sha256sum";

/// An image that is being put together.
#[derive(Clone, Debug)]
pub struct Image(kled_providers::image::Image);

impl From<kled_providers::image::Image> for Image {
    fn from(image: kled_providers::image::Image) -> Self {
        Self(image)
    }
}

impl Image {
    /// An image with nothing in it, under its full name (`registry.k8s.io/pause:3.10`).
    pub fn new(name: impl Into<String>) -> Self {
        Self(kled_providers::image::Image::new(name))
    }

    /// A small Linux with a shell and the commands scripts use, from the machine's static busybox.
    ///
    /// # Errors
    /// When the machine has no busybox, or none that is static.
    pub fn busybox(name: impl Into<String>) -> Result<Self> {
        let busybox =
            programs::find("busybox").context("no program busybox (Debian package busybox-static)")?;
        ensure!(programs::is_static(&busybox), "{} is not static (see busybox-static)", busybox.display());
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        let mut image = Self::new(name)
            .directory("bin", 0o755)
            .file("bin/busybox", fs::read(&busybox)?, 0o755)
            .directory("etc", 0o755)
            .file("etc/passwd", users, 0o644)
            .file("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)
            .directory("root", 0o700)
            .directory("tmp", 0o1777)
            .command(["sh"]);
        for command in BUSYBOX_COMMANDS.split_whitespace() {
            image = image.link(format!("bin/{command}"), "busybox");
        }
        Ok(image)
    }

    /// An image around one static program, which it runs.
    ///
    /// # Errors
    /// When the program cannot be read or is not static.
    pub fn program(name: impl Into<String>, program: &Path) -> Result<Self> {
        let file_name =
            program.file_name().and_then(|name| name.to_str()).context("a program's name is UTF-8")?;
        ensure!(
            programs::is_static(program),
            "{} would not run in an image: it is not static",
            program.display()
        );
        let content = fs::read(program).with_context(|| format!("read {}", program.display()))?;
        let path = format!("usr/local/bin/{file_name}");
        let image = Self::new(name).directory("usr", 0o755).directory("usr/local", 0o755);
        Ok(image
            .directory("usr/local/bin", 0o755)
            .directory("tmp", 0o1777)
            .file(path.clone(), content, 0o755)
            .entrypoint([format!("/{path}")]))
    }

    /// Adds a directory; `path` is relative to the root.
    #[must_use]
    pub fn directory(self, path: impl Into<String>, mode: u32) -> Self {
        Self(self.0.directory(path, mode))
    }

    /// Adds a directory of a user, and of the group of the same number.
    #[must_use]
    pub fn directory_of(self, owner: u32, path: impl Into<String>, mode: u32) -> Self {
        Self(self.0.directory_of(owner, path, mode))
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, path: impl Into<String>, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        Self(self.0.file(path, content, mode))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, path: impl Into<String>, target: impl Into<String>) -> Self {
        Self(self.0.link(path, target))
    }

    /// What the image runs, before its arguments.
    #[must_use]
    pub fn entrypoint(self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(self.0.entrypoint(words))
    }

    /// What the image runs unless told otherwise, or the default arguments of its entrypoint.
    #[must_use]
    pub fn command(self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(self.0.command(words))
    }

    /// Sets a variable in the image's environment.
    #[must_use]
    pub fn environment(self, name: &str, value: &str) -> Self {
        Self(self.0.environment(name, value))
    }

    /// Whom its processes run as.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        Self(self.0.user(user))
    }

    /// Writes the OCI archive to `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        self.write_to(file).with_context(|| format!("write {}", path.display()))
    }

    /// Writes the OCI archive anywhere.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn write_to(&self, writer: impl Write) -> Result<()> {
        ImageArchive::new([self.0.clone()]).write_to(writer)?;
        Ok(())
    }
}
