//! `kled image save`

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use kled_core::{Error, ErrorKind, Result};
use kled_providers::image::{Image, ImageArchive, ImageSummary};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::own;
use crate::output::{Failure, Format, Table};
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
For clusters without a registry: the file is an OCI archive that every engine takes. A file that is there already is \
replaced. As -o names the file, the format of what is printed has only its long form here.

Examples:
  kled image save -o kled-images.tar
  kled image save -o kled-images.tar --agent ./kled-agent --output json
  ctr --namespace k8s.io images import kled-images.tar
  podman load --input kled-images.tar")]
pub(crate) struct SaveArguments {
    /// The archive to write
    #[arg(short = 'o', long, value_name = "FILE")]
    file: PathBuf,
    /// The agent's static program [default: kled-agent beside this program]
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// How results are printed: table, json or yaml [default: table]
    // The global option of that name without its short form, which clap leaves out where there is one of the same id.
    #[arg(
        id = "output",
        long,
        value_name = "FORMAT",
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    _output: Option<Format>,
}

/// What was written.
#[derive(Serialize)]
struct Saved {
    file: PathBuf,
    images: Vec<ImageSummary>,
}

impl SaveArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let file = context.surroundings.working_directory.join(&self.file);
        let images = self.images(context).await?;
        let images = write(&file, images).await?;
        let saved = Saved { file: self.file.clone(), images };
        context.print(&saved, |look| table(&saved.images).to_text(look.color))?;
        Ok(Exit::SUCCESS)
    }

    /// All images that are ours.
    async fn images(&self, context: &Context) -> Result<Vec<Image>> {
        let programs = [(own::AGENT, &self.agent)];
        let directory = &context.surroundings.working_directory;
        let programs = programs.map(|(image, file)| (image, file.as_ref().map(|file| directory.join(file))));
        blocking(move || programs.into_iter().map(|(image, file)| image.image(file)).collect()).await
    }
}

fn table(images: &[ImageSummary]) -> Table {
    let mut table = Table::new(["IMAGE", "ARCHITECTURE", "SIZE", "DIGEST"]);
    for image in images {
        let size = megabytes(image.size);
        table.row([&image.reference, &image.architecture, &size, &image.digest].map(String::clone));
    }
    table
}

/// With one decimal, as engines print sizes.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

/// Writes the archive to a temporary file that takes the place of `file` once it is whole. Interrupted, it leaves
/// nothing: the temporary file is removed with this future.
async fn write(file: &Path, images: Vec<Image>) -> Result<Vec<ImageSummary>> {
    let (file, temporary) = blocking({
        let file = file.to_path_buf();
        move || create(&file)
    })
    .await?;
    let writer = temporary.as_file().try_clone().map_err(|cause| file_error(&file, cause))?;
    let place = file.clone();
    let images = blocking(move || write_to(&writer, &place, images)).await?;
    temporary.persist(&file).map_err(|error| file_error(&file, error.error))?;
    Ok(images)
}

fn write_to(writer: &File, file: &Path, images: Vec<Image>) -> Result<Vec<ImageSummary>> {
    let written = ImageArchive::new(images).write_to(writer);
    let images = written.map_err(|error| error.with("file", file.display()))?;
    writer.sync_data().map_err(|cause| file_error(file, cause))?;
    Ok(images)
}

/// The file that is meant, links followed, and a temporary one beside it.
fn create(file: &Path) -> Result<(PathBuf, NamedTempFile)> {
    let failed = |cause| file_error(file, cause);
    let target = match fs::canonicalize(file) {
        Ok(target) => target,
        Err(cause) if is_absence(cause.kind()) => file.to_path_buf(),
        Err(cause) => return Err(failed(cause)),
    };
    // A device or a pipe must not be replaced by a file, least of all by root.
    if fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Error::new(ErrorKind::InvalidInput, "not a file that can be replaced")
            .with("file", file.display())
            .hint("name a file with -o, for example kled-images.tar"));
    }
    let folder = target.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        return Err(Error::new(ErrorKind::InvalidInput, "the folder of the archive does not exist")
            .with("folder", folder.display())
            .hint("make the folder first, or name another with -o"));
    }
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What the user's umask leaves of it, as for any file; a temporary one would be private.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let temporary = builder.prefix(".kled-images-").tempfile_in(folder).map_err(failed)?;
    Ok((target, temporary))
}

const fn is_absence(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn file_error(file: &Path, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, "the archive cannot be written").with("file", file.display()).because(cause)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|cause| Error::new(ErrorKind::Internal, "the images cannot be written").because(cause))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!([0, 1, 100_000, 1_823_648].map(megabytes), ["0.0 MB", "0.1 MB", "0.1 MB", "1.9 MB"]);
    }
}
