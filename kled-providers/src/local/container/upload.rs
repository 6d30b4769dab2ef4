//! The files of a checkout as an archive for the engine.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use futures::stream::poll_fn;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

/// How much of the archive is in memory at most: pieces times their size.
const PIECES: usize = 16;
const PIECE: usize = 256 << 10;

/// Whom the files belong to in the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) user: u64,
    pub(super) group: u64,
}

/// A `tar` of all in `folder`, the folder itself included, as a stream. It is read in a thread of its own, which ends
/// when the stream is dropped.
pub(super) fn archive(
    folder: PathBuf,
    owner: Owner,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, mut receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut builder = Builder::new(Pieces { sender: sender.clone(), piece: Vec::new() });
        let written = add_folder(&mut builder, &folder, Path::new("."), owner)
            .and_then(|()| builder.into_inner())
            .and_then(|mut pieces| pieces.flush());
        if let Err(error) = written {
            // Without the reader nobody wants to know.
            let _unread = sender.blocking_send(Err(error));
        }
    });
    poll_fn(move |context| receiver.poll_recv(context))
}

/// Adds `folder` as `path`, then what is in it.
fn add_folder(builder: &mut Builder<Pieces>, folder: &Path, path: &Path, owner: Owner) -> io::Result<()> {
    let mut header = entry_header(&fs::symlink_metadata(folder)?, owner, EntryType::Directory);
    // The checkout's own folder is private on the host; in the container it is as open as any other.
    header.set_mode(0o755);
    builder.append_data(&mut header, path.join(""), io::empty())?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (file, path) = (entry.path(), path.join(entry.file_name()));
        let metadata = fs::symlink_metadata(&file)?;
        if metadata.is_dir() {
            add_folder(builder, &file, &path, owner)?;
        } else if metadata.is_symlink() {
            let mut header = entry_header(&metadata, owner, EntryType::Symlink);
            builder.append_link(&mut header, &path, fs::read_link(&file)?)?;
        } else if metadata.is_file() {
            let mut header = entry_header(&metadata, owner, EntryType::Regular);
            header.set_size(metadata.len());
            builder.append_data(&mut header, &path, fs::File::open(&file)?)?;
        }
        // git checks out nothing else; sockets and pipes would be from outside.
    }
    Ok(())
}

fn entry_header(metadata: &Metadata, owner: Owner, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
    header.set_uid(owner.user);
    header.set_gid(owner.group);
    header
}

/// A writer whose pieces go into a bounded queue.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Who a container's user is, from the image's setting (`NAME`, `ID`, each with `:GROUP`) and its `/etc/passwd`.
pub(super) fn owner(setting: &str, users: &[u8]) -> Option<Owner> {
    let (user, group) = setting.split_once(':').map_or((setting, None), |(user, group)| (user, Some(group)));
    if user.is_empty() {
        return Some(Owner::default());
    }
    let entry = users.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<_> =
            line.split(|byte| *byte == b':').map(|field| std::str::from_utf8(field).ok()).collect();
        let (name, id, group) = (*fields.first()?, (*fields.get(2)?)?, (*fields.get(3)?)?);
        (name == Some(user) || id == user)
            .then(|| Some(Owner { user: id.parse().ok()?, group: group.parse().ok()? }))?
    });
    let user = user.parse().ok().or(entry.map(|entry| entry.user))?;
    let group =
        group.and_then(|group| group.parse().ok()).or(entry.map(|entry| entry.group)).unwrap_or_default();
    Some(Owner { user, group })
}

/// The one file of an archive that the engine gave.
pub(super) fn single_file(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let mut content = Vec::new();
    if let Some(entry) = archive.entries()?.next() {
        let mut entry = entry?;
        io::copy(&mut entry, &mut content)?;
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    #[test]
    fn the_owner_of_the_files() {
        let users = b"root:x:0:0:root:/root:/bin/sh\ndev:x:1000:1001::/home/dev:/bin/sh\n";
        let owner = |setting| owner(setting, users).map(|owner| (owner.user, owner.group));
        assert_eq!(owner(""), Some((0, 0)));
        assert_eq!(owner("dev"), Some((1000, 1001)));
        assert_eq!(owner("1000"), Some((1000, 1001)));
        assert_eq!(owner("1000:5"), Some((1000, 5)));
        assert_eq!(owner("77"), Some((77, 0)));
        assert_eq!(owner("nobody"), None);
    }

    #[tokio::test]
    async fn an_archive_has_everything() {
        let folder = tempfile::tempdir().unwrap();
        let long = "d".repeat(120);
        fs::create_dir_all(folder.path().join(&long).join("inner")).unwrap();
        let large = vec![7; 3 * PIECE + 1];
        fs::write(folder.path().join(&long).join("inner/file"), &large).unwrap();
        std::os::unix::fs::symlink("/absolute", folder.path().join("link")).unwrap();
        let owner = Owner { user: 5, group: 6 };
        let pieces: Vec<Bytes> = archive(folder.path().into(), owner).try_collect().await.unwrap();
        let bytes = pieces.concat();
        let mut seen = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (5, 6));
            let link = entry.link_name().unwrap().map(|link| link.into_owned());
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            seen.insert(path, (entry.size(), link));
        }
        let paths: Vec<_> = seen.keys().cloned().collect();
        assert!(paths.iter().any(|path| path.trim_end_matches('/') == "."), "{paths:?}");
        let file = seen.iter().find(|(path, _)| path.ends_with("inner/file")).unwrap();
        assert_eq!(file.1.0, large.len() as u64);
        assert!(seen.values().any(|(_, link)| link.as_deref() == Some(Path::new("/absolute"))));
    }
}
