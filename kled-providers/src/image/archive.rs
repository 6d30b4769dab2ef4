//! Images as one OCI archive.
//!
//! ```text
//! oci-layout           that it is one
//! index.json           each image's name and manifest
//! blobs/sha256/…       layers, configurations and manifests by their digests
//! manifest.json        the same once more, as Docker's own archives have it
//! ```
//!
//! Layers are not compressed: they are copied to a node once, and a program that is compressed twice, in the archive and
//! on its way, is slower to write and hardly smaller.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;

use kled_core::{Error, ErrorKind, Result};
use oci_spec::OciSpecError;
use oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, DescriptorBuilder, ImageIndex, ImageIndexBuilder, ImageManifest,
    ImageManifestBuilder, MediaType, SCHEMA_VERSION, Sha256Digest,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Image, io_error, layer};

/// containerd's importer takes an image's full name from here; podman takes it from [`ANNOTATION_REF_NAME`].
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Several images as one OCI archive.
///
/// ```
/// use kled_providers::image::{Image, ImageArchive};
///
/// let archive = ImageArchive::new([Image::new("a.example/one:1"), Image::new("a.example/two:1")]);
/// let mut once = Vec::new();
/// let mut again = Vec::new();
/// archive.write_to(&mut once)?;
/// archive.write_to(&mut again)?;
/// assert_eq!(once, again);
/// # Ok::<_, kled_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ImageArchive {
    images: Vec<Image>,
}

/// What was written of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImageSummary {
    /// The full name, with registry and tag.
    pub reference: String,
    /// The architecture, as the OCI names it (`amd64`).
    pub architecture: String,
    /// The digest of the manifest, which pins the image: `sha256:…`.
    pub digest: String,
    /// The bytes of its layer, configuration and manifest.
    pub size: u64,
}

impl ImageArchive {
    /// An archive of these images.
    pub fn new(images: impl IntoIterator<Item = Image>) -> Self {
        Self { images: images.into_iter().collect() }
    }

    /// Adds an image.
    #[must_use]
    pub fn image(mut self, image: Image) -> Self {
        self.images.push(image);
        self
    }

    /// Writes the archive and tells what is in it. Blocks: call it on a thread that may.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a malformed name or path and for two images of one name, before anything is
    /// written. What the writer answers: [`ErrorKind::StorageFull`] when there is no room.
    pub fn write_to(&self, writer: impl Write) -> Result<Vec<ImageSummary>> {
        let images = self.images.iter().map(Built::new).collect::<Result<Vec<_>>>()?;
        check_names(&images)?;
        let index = canonical(&index(&images).map_err(broken)?)?;
        let manifests = canonical(&images.iter().map(Built::docker_manifest).collect::<Vec<_>>())?;
        let mut archive = Archive { tar: tar::Builder::new(writer), blobs: BTreeSet::new() };
        archive.append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.append("index.json", &index)?;
        for image in &images {
            for blob in [&image.layer, &image.configuration, &image.manifest] {
                archive.blob(blob)?;
            }
        }
        archive.append("manifest.json", &manifests)?;
        archive.finish()?;
        Ok(images.into_iter().map(Built::summary).collect())
    }
}

/// An image whose parts have their digests.
struct Built {
    name: String,
    architecture: String,
    layer: Blob,
    configuration: Blob,
    manifest: Blob,
}

/// The entry of an image in the index of Docker's archives.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: [String; 1],
    layers: [String; 1],
}

impl Built {
    fn new(image: &Image) -> Result<Self> {
        let name = image.full_name()?;
        let layer = Blob::new(MediaType::ImageLayer, layer::write(&image.layer)?);
        let configuration = image.configuration(&layer.digest()).map_err(broken)?;
        let configuration = Blob::new(MediaType::ImageConfig, canonical(&configuration)?);
        let manifest = manifest(&configuration, &layer).map_err(broken)?;
        let manifest = Blob::new(MediaType::ImageManifest, canonical(&manifest)?);
        Ok(Self { name, architecture: image.architecture_name(), layer, configuration, manifest })
    }

    fn descriptor(&self) -> Result<Descriptor, OciSpecError> {
        let mut descriptor = self.manifest.descriptor()?;
        let names = [ANNOTATION_REF_NAME, CONTAINERD_NAME].map(|key| (key.to_owned(), self.name.clone()));
        descriptor.set_annotations(Some(HashMap::from(names)));
        Ok(descriptor)
    }

    fn docker_manifest(&self) -> DockerManifest {
        DockerManifest {
            config: self.configuration.path(),
            repo_tags: [self.name.clone()],
            layers: [self.layer.path()],
        }
    }

    fn summary(self) -> ImageSummary {
        let blobs = [&self.layer, &self.configuration, &self.manifest];
        let size = blobs.iter().map(|blob| blob.content.len() as u64).sum();
        ImageSummary {
            digest: self.manifest.digest(),
            size,
            reference: self.name,
            architecture: self.architecture,
        }
    }
}

fn manifest(configuration: &Blob, layer: &Blob) -> Result<ImageManifest, OciSpecError> {
    ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(configuration.descriptor()?)
        .layers(vec![layer.descriptor()?])
        .build()
}

fn index(images: &[Built]) -> Result<ImageIndex, OciSpecError> {
    let manifests = images.iter().map(Built::descriptor).collect::<Result<Vec<_>, _>>()?;
    ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()
}

fn check_names(images: &[Built]) -> Result<()> {
    let mut names = BTreeSet::new();
    match images.iter().find(|image| !names.insert(&image.name)) {
        None => Ok(()),
        Some(image) => {
            Err(Error::new(ErrorKind::InvalidInput, "two images of an archive have the same name")
                .with("image", &image.name))
        }
    }
}

/// Content under its digest.
struct Blob {
    media_type: MediaType,
    content: Vec<u8>,
    hash: String,
}

impl Blob {
    fn new(media_type: MediaType, content: Vec<u8>) -> Self {
        let hash = hex::encode(Sha256::digest(&content));
        Self { media_type, content, hash }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hash)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hash)
    }

    fn descriptor(&self) -> Result<Descriptor, OciSpecError> {
        let digest: Sha256Digest = self.hash.parse()?;
        let size = self.content.len() as u64;
        DescriptorBuilder::default().media_type(self.media_type.clone()).size(size).digest(digest).build()
    }
}

/// The file that is being written, each blob once.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
    blobs: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    fn append(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let mut header = layer::header(0o644);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content).map_err(unwritable)
    }

    fn blob(&mut self, blob: &Blob) -> Result<()> {
        let path = blob.path();
        if self.blobs.contains(&path) {
            return Ok(());
        }
        self.append(&path, &blob.content)?;
        self.blobs.insert(path);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.tar.into_inner().and_then(|mut writer| writer.flush()).map_err(unwritable)
    }
}

/// JSON whose keys are sorted: labels and annotations are hash maps.
fn canonical(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(value).map_err(broken)?;
    // Sorted already, unless somebody's dependency switched on that keys keep their order.
    value.sort_all_objects();
    serde_json::to_vec(&value).map_err(broken)
}

fn unwritable(cause: std::io::Error) -> Error {
    io_error("the archive cannot be written", cause)
}

fn broken(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Internal, "the image cannot be described").because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn files(archive: &[u8]) -> HashMap<String, Vec<u8>> {
        let mut files = HashMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            assert!(files.insert(path, content).is_none(), "a path twice");
        }
        files
    }

    fn json(files: &HashMap<String, Vec<u8>>, path: &str) -> serde_json::Value {
        serde_json::from_slice(&files[path]).unwrap()
    }

    /// The path of what a descriptor leads to, which has that digest and size.
    fn follow(files: &HashMap<String, Vec<u8>>, descriptor: &serde_json::Value) -> String {
        let path = format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"));
        let blob = &files[&path];
        assert_eq!(format!("blobs/sha256/{}", hex::encode(Sha256::digest(blob))), path);
        assert_eq!(descriptor["size"], blob.len());
        path
    }

    fn written(images: impl IntoIterator<Item = Image>) -> (Vec<u8>, Vec<ImageSummary>) {
        let mut archive = Vec::new();
        let summaries = ImageArchive::new(images).write_to(&mut archive).unwrap();
        (archive, summaries)
    }

    #[test]
    fn every_name_leads_to_its_own_files() {
        let image = |name: &str, content: &str| Image::new(name).file("what", content, 0o644);
        let (archive, summaries) = written([image("a.test/one:1", "one"), image("a.test/two:2", "two")]);
        let files = files(&archive);
        let index = json(&files, "index.json");
        for (at, name, content) in [(0, "a.test/one:1", "one"), (1, "a.test/two:2", "two")] {
            let descriptor = &index["manifests"][at];
            assert_eq!(descriptor["annotations"][ANNOTATION_REF_NAME], name);
            assert_eq!(descriptor["annotations"][CONTAINERD_NAME], name);
            let manifest = json(&files, &follow(&files, descriptor));
            let configuration = json(&files, &follow(&files, &manifest["config"]));
            assert_eq!(configuration["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
            assert_eq!(configuration["os"], "linux");
            let layer = super::tests::files(&files[&follow(&files, &manifest["layers"][0])]);
            assert_eq!(layer["what"], content.as_bytes());
            let sizes: u64 = [descriptor, &manifest["config"], &manifest["layers"][0]]
                .iter()
                .map(|blob| blob["size"].as_u64().unwrap())
                .sum();
            let summary = &summaries[at];
            assert_eq!((summary.reference.as_str(), summary.size), (name, sizes));
            assert_eq!(descriptor["digest"], *summary.digest);
        }
    }

    #[test]
    fn docker_is_told_the_same() {
        let (archive, _) = written([Image::new("a.test/one:1"), Image::new("a.test/two:2").user("nobody")]);
        let files = files(&archive);
        let index = json(&files, "index.json");
        for (at, name) in [(0, "a.test/one:1"), (1, "a.test/two:2")] {
            let entry = &json(&files, "manifest.json")[at];
            let manifest = json(&files, &follow(&files, &index["manifests"][at]));
            assert_eq!(entry["RepoTags"], serde_json::json!([name]));
            assert_eq!(entry["Config"], *follow(&files, &manifest["config"]));
            assert_eq!(entry["Layers"], serde_json::json!([follow(&files, &manifest["layers"][0])]));
        }
    }

    #[test]
    fn the_same_images_give_the_same_bytes() {
        let image = || {
            let image = Image::new("a.test/b:1").directory("etc", 0o755).link("etc/x", "y").command(["sh"]);
            ["a", "b", "c", "d", "e", "f"].iter().fold(image, |image, label| image.label(*label, "1"))
        };
        assert_eq!(written([image()]), written([image()]));
        assert_ne!(written([image()]), written([image().label("a", "2")]));
    }

    #[test]
    fn what_two_images_share_is_written_once() {
        let image = |name: &str| Image::new(name).file("large", vec![7; 100_000], 0o644);
        let (one, _) = written([image("a.test/one:1")]);
        let (two, summaries) = written([image("a.test/one:1"), image("a.test/two:1")]);
        assert!(two.len() < one.len() + 10_000, "{} {}", one.len(), two.len());
        assert_eq!(summaries[0].digest, summaries[1].digest);
    }

    #[test]
    fn a_name_is_completed_as_a_node_does() {
        for (short, full) in [
            ("kled/workspace-agent:0.1.0", "docker.io/kled/workspace-agent:0.1.0"),
            ("busybox", "docker.io/library/busybox:latest"),
            ("localhost/busybox:1", "localhost/busybox:1"),
            ("registry.example:5000/a/b:c", "registry.example:5000/a/b:c"),
        ] {
            assert_eq!(written([Image::new(short)]).1[0].reference, full);
        }
    }

    #[test]
    fn what_is_malformed_is_refused_before_anything_is_written() {
        let pinned = format!("a.test/b@sha256:{}", "0".repeat(64));
        for images in [
            vec![Image::new("")],
            vec![Image::new("A.test/B:1")],
            vec![Image::new("a.test/b:1 ")],
            vec![Image::new(pinned)],
            vec![Image::new("busybox"), Image::new("docker.io/library/busybox:latest")],
            vec![Image::new("a.test/b:1").file("../etc/passwd", "", 0o644)],
        ] {
            let mut archive = Vec::new();
            let error = ImageArchive::new(images).write_to(&mut archive).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(archive.is_empty(), "{error}");
        }
    }

    #[test]
    fn a_full_disk_is_told() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = ImageArchive::new([Image::new("a.test/b:1")]).write_to(full).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn the_layer_keeps_modes_and_links() {
        let (archive, _) = written([Image::new("a.test/b:1")
            .file("run", "x", 0o755)
            .link("go", "run")
            .directory("tmp", 0o1777)]);
        let files = files(&archive);
        let manifest = json(&files, &follow(&files, &json(&files, "index.json")["manifests"][0]));
        let layer = &files[&follow(&files, &manifest["layers"][0])];
        let mut layer = tar::Archive::new(layer.as_slice());
        let mut entries = layer.entries().unwrap().map(Result::unwrap);
        assert_eq!(entries.next().unwrap().header().mode().unwrap(), 0o755);
        let link = entries.next().unwrap();
        assert_eq!(link.link_name().unwrap().unwrap(), std::path::Path::new("run"));
        let directory = entries.next().unwrap();
        assert!(directory.header().entry_type().is_dir() && directory.header().mode().unwrap() == 0o1777);
        assert_eq!((directory.header().mtime().unwrap(), directory.header().uid().unwrap()), (0, 0));
    }
}
