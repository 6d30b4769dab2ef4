//! Container images made from local files: no registry is needed, and any name can be given.
//!
//! [`Image::write`] makes an OCI archive with one layer, which `podman load` and `ctr images import` take. The
//! archive is a pure function of its files, so the same image has the same digest on every machine.

mod workspace;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, RootFsBuilder, SCHEMA_VERSION, Sha256Digest,
};
use sha2::{Digest as _, Sha256};

use crate::programs;

pub use self::workspace::{WORKSPACE, WORKSPACE_USER};

/// containerd's importer takes an image's full name from here; podman takes it from [`ANNOTATION_REF_NAME`].
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What a shell script in an image can call; each is a link to the one static program.
///
/// Debian's `wget -T` crashes; `timeout 5 wget` does what it should.
const BUSYBOX_COMMANDS: &str = "sh cat cp mv rm ls ln mkdir rmdir touch chmod chown echo env printf pwd hostname \
    timeout sleep true false test date dd df du find grep head tail sed sort wc tar id ps kill mount stty seq wget nc httpd \
    nslookup ip sha256sum";

/// An image that is being put together.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    layer: Vec<Entry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    user: Option<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    content: Content,
    mode: u32,
    /// User and group.
    owner: u32,
}

#[derive(Clone, Debug)]
enum Content {
    Directory,
    File(Vec<u8>),
    Link(String),
}

impl Image {
    /// An image with nothing in it, under its full name (`registry.k8s.io/pause:3.10`).
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            layer: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: vec!["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".to_owned()],
            user: None,
        }
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
        self.entry(path.into() + "/", Content::Directory, mode, 0)
    }

    /// Adds a directory of a user, and of the group of the same number.
    #[must_use]
    pub fn directory_of(self, owner: u32, path: impl Into<String>, mode: u32) -> Self {
        self.entry(path.into() + "/", Content::Directory, mode, owner)
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, path: impl Into<String>, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.entry(path.into(), Content::File(content.into()), mode, 0)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, path: impl Into<String>, target: impl Into<String>) -> Self {
        self.entry(path.into(), Content::Link(target.into()), 0o777, 0)
    }

    fn entry(mut self, path: String, content: Content, mode: u32, owner: u32) -> Self {
        self.layer.push(Entry { path, content, mode, owner });
        self
    }

    /// The image's full name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the image runs, before its arguments.
    #[must_use]
    pub fn entrypoint(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// What the image runs unless told otherwise, or the default arguments of its entrypoint.
    #[must_use]
    pub fn command(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable in the image's environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Whom its processes run as.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
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
        let layer = self.layer_archive()?;
        let configuration = serde_json::to_vec(&self.configuration(&layer)?)?;
        let layer_descriptor = descriptor(MediaType::ImageLayer, &layer)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(descriptor(MediaType::ImageConfig, &configuration)?)
            .layers(vec![layer_descriptor])
            .build()?;
        let manifest = serde_json::to_vec(&manifest)?;
        // By way of a value, which sorts the keys: annotations are a hash map.
        let index = serde_json::to_vec(&serde_json::to_value(self.index(&manifest)?)?)?;
        let mut archive = tar::Builder::new(writer);
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut archive, "index.json", &index)?;
        for blob in [&layer, &configuration, &manifest] {
            append(&mut archive, &format!("blobs/sha256/{}", digest(blob)), blob)?;
        }
        archive.finish()?;
        Ok(())
    }

    fn layer_archive(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for entry in &self.layer {
            entry.append_to(&mut archive).with_context(|| format!("add {}", entry.path))?;
        }
        Ok(archive.into_inner()?)
    }

    fn configuration(&self, layer: &[u8]) -> Result<oci_spec::image::ImageConfiguration> {
        let mut config = ConfigBuilder::default().env(self.environment.clone());
        if !self.entrypoint.is_empty() {
            config = config.entrypoint(self.entrypoint.clone());
        }
        if !self.command.is_empty() {
            config = config.cmd(self.command.clone());
        }
        if let Some(user) = &self.user {
            config = config.user(user.clone());
        }
        let layers = RootFsBuilder::default().diff_ids(vec![format!("sha256:{}", digest(layer))]).build()?;
        let image = ImageConfigurationBuilder::default().architecture(Arch::default()).os(Os::default());
        Ok(image.config(config.build()?).rootfs(layers).build()?)
    }

    fn index(&self, manifest: &[u8]) -> Result<oci_spec::image::ImageIndex> {
        let mut manifest = descriptor(MediaType::ImageManifest, manifest)?;
        let names = [ANNOTATION_REF_NAME, CONTAINERD_NAME].map(|key| (key.to_owned(), self.name.clone()));
        manifest.set_annotations(Some(HashMap::from(names)));
        Ok(ImageIndexBuilder::default().schema_version(SCHEMA_VERSION).manifests(vec![manifest]).build()?)
    }
}

impl Entry {
    fn append_to(&self, archive: &mut tar::Builder<Vec<u8>>) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(self.mode);
        header.set_uid(self.owner.into());
        header.set_gid(self.owner.into());
        match &self.content {
            Content::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                archive.append_data(&mut header, &self.path, std::io::empty())?;
            }
            Content::File(content) => {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, &self.path, content.as_slice())?;
            }
            Content::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, &self.path, target)?;
            }
        }
        Ok(())
    }
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content).with_context(|| format!("add {path}"))
}

fn descriptor(media_type: MediaType, blob: &[u8]) -> Result<Descriptor> {
    let digest: Sha256Digest = digest(blob).parse()?;
    Ok(DescriptorBuilder::default().media_type(media_type).size(blob.len() as u64).digest(digest).build()?)
}

fn digest(blob: &[u8]) -> String {
    hex::encode(Sha256::digest(blob))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn blobs(archive: &[u8]) -> Result<HashMap<String, Vec<u8>>> {
        let mut archive = tar::Archive::new(archive);
        let mut blobs = HashMap::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            blobs.insert(entry.path()?.to_string_lossy().into_owned(), content);
        }
        Ok(blobs)
    }

    fn written(image: &Image) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        image.write_to(&mut archive)?;
        Ok(archive)
    }

    #[test]
    fn every_descriptor_leads_to_a_blob_of_that_digest_and_size() -> Result<()> {
        let image = Image::new("registry.k8s.io/pause:3.10").file("pause", b"program".to_vec(), 0o755);
        let blobs = blobs(&written(&image)?)?;
        let index: serde_json::Value = serde_json::from_slice(&blobs["index.json"])?;
        let manifest = follow(&blobs, &index["manifests"][0])?;
        let manifest: serde_json::Value = serde_json::from_slice(manifest)?;
        let configuration: serde_json::Value = serde_json::from_slice(follow(&blobs, &manifest["config"])?)?;
        follow(&blobs, &manifest["layers"][0])?;
        assert_eq!(configuration["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(configuration["os"], "linux");
        Ok(())
    }

    fn follow<'a>(blobs: &'a HashMap<String, Vec<u8>>, descriptor: &serde_json::Value) -> Result<&'a [u8]> {
        let name = descriptor["digest"].as_str().context("a digest")?.replace(':', "/");
        let blob = blobs.get(&format!("blobs/{name}")).with_context(|| format!("no blob {name}"))?;
        assert_eq!(format!("sha256/{}", digest(blob)), name);
        assert_eq!(descriptor["size"], blob.len());
        Ok(blob)
    }

    #[test]
    fn the_name_is_told_to_both_importers() -> Result<()> {
        let blobs = blobs(&written(&Image::new("example.test/a/b:c"))?)?;
        let index: serde_json::Value = serde_json::from_slice(&blobs["index.json"])?;
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations[ANNOTATION_REF_NAME], "example.test/a/b:c");
        assert_eq!(annotations[CONTAINERD_NAME], "example.test/a/b:c");
        Ok(())
    }

    #[test]
    fn the_same_files_give_the_same_archive() -> Result<()> {
        let image = || {
            Image::new("a.test/b:1").directory("etc", 0o755).link("etc/x", "y").command(["sh", "-c", "id"])
        };
        assert_eq!(written(&image())?, written(&image())?);
        Ok(())
    }

    #[test]
    fn the_layer_keeps_modes_and_links() -> Result<()> {
        let image = Image::new("a.test/b:1").file("run", b"x".to_vec(), 0o755).link("go", "run");
        let layer = image.layer_archive()?;
        let mut archive = tar::Archive::new(layer.as_slice());
        let mut entries = archive.entries()?;
        let file = entries.next().context("a file")??;
        assert_eq!(file.header().mode()? & 0o777, 0o755);
        let link = entries.next().context("a link")??;
        assert_eq!(link.link_name()?.context("a target")?, Path::new("run"));
        Ok(())
    }
}
