//! The files of an image, as a tar archive that is the same every time.

use std::io;

use kled_core::{Error, ErrorKind, Result};

/// A file of an image. Its time is that of the epoch.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) content: Content,
    pub(super) mode: u32,
    /// User and group.
    pub(super) owner: u32,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Directory,
    File(Vec<u8>),
    Link(String),
}

/// The layer with these files in this order.
pub(super) fn write(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        entry.append_to(&mut archive).map_err(|cause| {
            Error::new(ErrorKind::InvalidInput, "malformed path in an image")
                .with("path", &entry.path)
                .because(cause)
                .hint("a path is relative to the image's root and has no '..'")
        })?;
    }
    archive
        .into_inner()
        .map_err(|cause| Error::new(ErrorKind::Internal, "the layer cannot be put together").because(cause))
}

/// A header whose every field is set: some readers take an empty number for a mistake.
pub(super) fn header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

impl Entry {
    fn append_to(&self, archive: &mut tar::Builder<Vec<u8>>) -> io::Result<()> {
        let mut header = header(self.mode);
        header.set_uid(self.owner.into());
        header.set_gid(self.owner.into());
        match &self.content {
            Content::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                archive.append_data(&mut header, &self.path, io::empty())
            }
            Content::File(content) => {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, &self.path, content.as_slice())
            }
            Content::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, &self.path, target)
            }
        }
    }
}
