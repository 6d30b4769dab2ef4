//! Container images without a container engine: put together from files, written as one OCI archive.
//!
//! ```
//! use kled_providers::image::{Architecture, Image, ImageArchive};
//!
//! let image = Image::new("registry.example/tools:1")
//!     .architecture(Architecture::Amd64)
//!     .file("run", b"#!/bin/sh\n", 0o755)
//!     .entrypoint(["/run"]);
//! let mut archive = Vec::new();
//! let written = ImageArchive::new([image]).write_to(&mut archive)?;
//! assert_eq!(written[0].reference, "registry.example/tools:1");
//! # Ok::<_, kled_core::Error>(())
//! ```
//!
//! An archive is a pure function of its images: the same files give the same bytes, and so the same digests, on every
//! machine and at any time. `ctr images import`, `podman load`, `docker load`, `skopeo` and `crane` take it.
//!
//! | part | what it is |
//! |---|---|
//! | [`Image`] | an image that is being put together: one layer and how it is run |
//! | [`ImageArchive`] | several images as one file, each under its name |
//! | [`StaticProgram`] | a program that runs in an image with nothing else in it |
//! | [`agent_image`] | the image of the workspace agent |

mod agent;
mod archive;
mod builder;
mod layer;
mod program;

pub use agent::{AGENT_PATH, AGENT_REFERENCE, AGENT_USER, agent_image};
pub use archive::{ImageArchive, ImageSummary};
pub use builder::Image;
pub use program::{Architecture, StaticProgram};

use std::io;
use std::path::Path;

use kled_core::{Error, ErrorKind};

/// A failure of the file system: its kind tells what the caller can do.
fn io_error(message: &'static str, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::IsADirectory => ErrorKind::InvalidInput,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, message).because(cause)
}

fn file_error(message: &'static str, file: &Path, cause: io::Error) -> Error {
    io_error(message, cause).with("file", file.display())
}
