//! An image that is being put together.

use std::collections::HashMap;

use kled_core::{Error, ErrorKind, Result};
use oci_spec::OciSpecError;
use oci_spec::distribution::Reference;
use oci_spec::image::{
    Arch, Config, ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder, Os, RootFsBuilder,
};

use super::Architecture;
use super::layer::{Content, Entry};

/// Where programs are looked for in an image whose environment does not say it.
const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// An image that is being put together: the files of one layer, and how a container runs them.
///
/// The order of the files is kept; a directory comes before what is in it. Setters never fail: what is wrong with a
/// value is the error of [`ImageArchive::write_to`](super::ImageArchive::write_to).
#[derive(Clone, Debug)]
pub struct Image {
    reference: String,
    architecture: Arch,
    pub(super) layer: Vec<Entry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    user: Option<String>,
    labels: HashMap<String, String>,
}

impl Image {
    /// An image with nothing in it, for the architecture of this machine, under its name (`registry.k8s.io/pause:3.10`).
    ///
    /// A name without a registry is one of `docker.io` and one without a tag is `latest`, as everywhere: an archive
    /// holds the full name, which is what Kubernetes asks a node for.
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            architecture: Arch::default(),
            layer: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: vec![PATH.to_owned()],
            user: None,
            labels: HashMap::new(),
        }
    }

    /// The architecture of the programs in it.
    #[must_use]
    pub fn architecture(mut self, architecture: Architecture) -> Self {
        self.architecture = architecture.into();
        self
    }

    /// Adds a directory; `path` is relative to the root.
    #[must_use]
    pub fn directory(mut self, path: impl Into<String>, mode: u32) -> Self {
        self.layer.push(Entry { path: path.into() + "/", content: Content::Directory, mode, owner: 0 });
        self
    }

    /// Adds a directory of a user, and of the group of the same number.
    #[must_use]
    pub fn directory_of(mut self, owner: u32, path: impl Into<String>, mode: u32) -> Self {
        self.layer.push(Entry { path: path.into() + "/", content: Content::Directory, mode, owner });
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.layer.push(Entry { path: path.into(), content: Content::File(content.into()), mode, owner: 0 });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: impl Into<String>, target: impl Into<String>) -> Self {
        self.layer.push(Entry {
            path: path.into(),
            content: Content::Link(target.into()),
            mode: 0o777,
            owner: 0,
        });
        self
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

    /// Whom its processes run as: a name, or `UID:GID`.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// The full name, with registry and tag.
    pub(super) fn full_name(&self) -> Result<String> {
        let malformed = || {
            Error::new(ErrorKind::InvalidInput, "malformed name of an image")
                .with("image", format!("{:?}", self.reference))
                .hint("write [REGISTRY/]REPOSITORY[:TAG] in lower case, for example registry.example/tools:1")
        };
        let reference: Reference = self
            .reference
            .parse()
            .map_err(|cause: oci_spec::distribution::ParseError| malformed().because(cause))?;
        // The digest is what comes out, not what the maker of an image can choose.
        if reference.digest().is_some() { Err(malformed()) } else { Ok(reference.whole()) }
    }

    pub(super) fn architecture_name(&self) -> String {
        self.architecture.to_string()
    }

    /// What the image says of itself, around the layer of that digest.
    pub(super) fn configuration(&self, layer: &str) -> Result<ImageConfiguration, OciSpecError> {
        let layers = RootFsBuilder::default().diff_ids(vec![layer.to_owned()]).build()?;
        let image =
            ImageConfigurationBuilder::default().architecture(self.architecture.clone()).os(Os::Linux);
        image.config(self.run_configuration()?).rootfs(layers).build()
    }

    fn run_configuration(&self) -> Result<Config, OciSpecError> {
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
        if !self.labels.is_empty() {
            config = config.labels(self.labels.clone());
        }
        config.build()
    }
}
