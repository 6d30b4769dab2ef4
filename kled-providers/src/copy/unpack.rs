//! An archive of a workspace, which is not trusted, as files of this machine.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use kled_core::provider::ByteReader;
use kled_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::place::{Folder, Target};
use super::{CHUNK, Chunk, OutsideLinks, QUEUE, Transferred, failed};

/// The folder into which a copy arrives begins with this.
const ARRIVING: &str = ".kled-arriving-";

/// What is kept of a mode: no program of a workspace runs here with the rights of its owner.
const MODE: u32 = 0o777;

/// How long a copy that is given up may take to remove what it has written.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// Links that were left out because they lead out of the copy.
    pub skipped_links: Vec<PathBuf>,
}

/// Unpacks an archive with one top entry, which gets the target's name whatever it is called in the archive, and moves
/// it to its place when all of it is there. Dropping the future removes what has arrived, and waits for that.
///
/// # Errors
/// `InvalidInput` for an archive that is broken or not safe to unpack, `PermissionDenied`, `StorageFull`, and what the
/// archive's reader answers.
pub async fn unpack(
    archive: ByteReader,
    target: Target,
    outside_links: OutsideLinks,
    transferred: &Transferred,
) -> Result<Unpacked> {
    let transferred = transferred.clone();
    through_thread(archive, move |chunks| {
        let beside = target.beside();
        let arriving = tempfile::Builder::new()
            .prefix(ARRIVING)
            .tempdir_in(&beside)
            .map_err(|cause| failed("write to the folder", &beside, cause))?;
        let top = arriving.path().join("copy");
        let mut unpacker = Unpacker {
            top,
            outside_links,
            transferred,
            name: None,
            folders: Vec::new(),
            unpacked: Unpacked::default(),
        };
        unpacker.take_all(chunks)?;
        target.take(&unpacker.top, &unpacker.folders)?;
        Ok(unpacker.unpacked)
    })
    .await
}

/// Writes the one file of an archive to `writer`.
///
/// # Errors
/// `InvalidInput` when the archive is not that of a file; what the archive's reader answers.
pub async fn unpack_file(
    archive: ByteReader,
    mut writer: impl AsyncWrite + Send + Unpin,
    transferred: &Transferred,
) -> Result<()> {
    let transferred = transferred.clone();
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    let unpacking = through_thread(archive, move |chunks| {
        let mut archive = tar::Archive::new(chunks);
        let no_file = || {
            Error::new(ErrorKind::InvalidInput, "this is not a file")
                .hint("only a file can be copied to a stream")
        };
        let first = archive.entries().and_then(|mut entries| entries.next().transpose());
        let mut entry = first.map_err(broken)?.ok_or_else(no_file)?;
        if !entry.header().entry_type().is_file() {
            return Err(no_file());
        }
        let size = entry.size();
        let mut sent = 0_u64;
        let mut chunk = vec![0; CHUNK];
        while let count @ 1.. = entry.read(&mut chunk).map_err(broken)? {
            let bytes = Bytes::copy_from_slice(chunk.get(..count).unwrap_or_default());
            transferred.add(count);
            sent += count as u64;
            if sender.blocking_send(bytes).is_err() {
                break;
            }
        }
        drop(entry);
        if sent != size {
            return Err(truncated());
        }
        io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop).map_err(broken)
    });
    let write = async move {
        // Dropped with this future, so that the thread does not wait for someone who is gone.
        let mut receiver = receiver;
        while let Some(bytes) = receiver.recv().await {
            writer.write_all(&bytes).await.map_err(written)?;
        }
        writer.flush().await.map_err(written)
    };
    // A reader of the output that is gone ends the copy. Both run at once; the one that writes is dropped first.
    let ((), unpacked) = tokio::try_join!(write, async { Ok(unpacking.await) })?;
    unpacked
}

fn written(cause: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the copy cannot be written").because(cause)
}

/// Runs `take` on a thread that may block and feeds it the archive.
async fn through_thread<T: Send + 'static>(
    mut archive: ByteReader,
    take: impl FnOnce(&mut Chunks) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (alive, ended) = std::sync::mpsc::channel::<()>();
    let mut thread = Thread { sender: Some(sender), ended };
    let taking = tokio::task::spawn_blocking(move || {
        let taken = take(&mut Chunks { receiver, chunk: Bytes::new(), ended: false });
        drop(alive);
        taken
    });
    while let Some(sender) = &thread.sender {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let read = archive.read_buf(&mut chunk).await;
        let ends = !matches!(read, Ok(1..));
        // An empty chunk is the end: without it the thread knows that there is more to come.
        if sender.send(read.map(|_| chunk.freeze())).await.is_err() || ends {
            break;
        }
    }
    let ended = taking.await;
    thread.sender = None;
    ended.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the thread of a copy ended")))
}

/// Ends the thread when the future is dropped, and waits until it has removed what it has written: a program may end
/// right after.
struct Thread {
    sender: Option<mpsc::Sender<Chunk>>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.sender = None;
        // The end of the channel is the end of the thread.
        let _ended = self.ended.recv_timeout(CLEAN_UP);
    }
}

/// The archive, on the thread.
struct Chunks {
    receiver: mpsc::Receiver<Chunk>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Ok(chunk)) => {
                    self.ended = chunk.is_empty();
                    self.chunk = chunk;
                }
                Some(Err(cause)) => return Err(cause),
                None => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the copy was given up"));
                }
            }
        }
        let count = buffer.len().min(self.chunk.len());
        if let Some(buffer) = buffer.get_mut(..count) {
            self.chunk.copy_to_slice(buffer);
        }
        Ok(count)
    }
}

/// What the archive's reader said, else that it is no archive.
fn broken(cause: io::Error) -> Error {
    // The library wraps errors of the reader in its own.
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&cause);
    while let Some(error) = source {
        if let Some(said) = error.downcast_ref::<Error>() {
            return Error::new(said.kind(), said.message().to_owned()).because(cause);
        }
        source = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    Error::new(ErrorKind::InvalidInput, "the archive of the workspace cannot be unpacked").because(cause)
}

fn truncated() -> Error {
    Error::new(ErrorKind::InvalidInput, "the archive of the workspace ends in the middle of a file")
}

/// What is not safe to unpack.
fn refused(why: &str, entry: &Path) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the archive of the workspace is not safe to unpack: {why}"))
        .with("entry", entry.display())
}

struct Unpacker {
    /// Where the top entry is unpacked.
    top: PathBuf,
    outside_links: OutsideLinks,
    transferred: Transferred,
    /// What the top entry is called in the archive.
    name: Option<PathBuf>,
    folders: Vec<Folder>,
    unpacked: Unpacked,
}

impl Unpacker {
    fn take_all(&mut self, chunks: &mut Chunks) -> Result<()> {
        let mut archive = tar::Archive::new(chunks);
        for entry in archive.entries().map_err(broken)? {
            self.take(entry.map_err(broken)?)?;
        }
        if self.name.is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, "the archive of the workspace is empty"));
        }
        // Only the end of the stream says that all of it arrived unchanged.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop).map_err(broken)
    }

    fn take(&mut self, entry: tar::Entry<'_, impl Read>) -> Result<()> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&entry.path_bytes()));
        let below = self.below(&path)?;
        let place = self.place(&below, &path)?;
        match kind {
            tar::EntryType::Directory => self.folder(&entry, &below, &place, &path),
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                self.file(entry, &place, &path)
            }
            tar::EntryType::Symlink => self.symbolic_link(&entry, &below, &place, &path),
            tar::EntryType::Link => self.hard_link(&entry, &place, &path),
            _ => Err(refused("an entry is neither file, folder nor link", &path)),
        }
    }

    /// The entry's path below the top one.
    fn below(&mut self, path: &Path) -> Result<PathBuf> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name),
                Component::CurDir => {}
                Component::ParentDir => return Err(refused("a name has '..'", path)),
                Component::RootDir | Component::Prefix(_) => return Err(refused("a name is absolute", path)),
            }
        }
        let mut names = names.into_iter();
        let mut name = || names.next().map(PathBuf::from).unwrap_or_default();
        match &self.name {
            // The top entry is the root of a file system, which has no name.
            Some(top) if top == Path::new("") => {}
            Some(top) if *top == name() => {}
            Some(_) => return Err(refused("it has more than one top entry", path)),
            None => self.name = Some(name()),
        }
        Ok(names.collect())
    }

    /// Where the entry goes. Makes folders above it; they must be folders of this copy and no links.
    fn place(&self, below: &Path, path: &Path) -> Result<PathBuf> {
        if below == Path::new("") {
            return Ok(self.top.clone());
        }
        let mut place = self.top.clone();
        for name in below.components() {
            match fs::symlink_metadata(&place) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(refused("an entry is below one that is no folder", path)),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir(&place).map_err(|cause| failed("make the folder", &place, cause))?;
                }
                Err(cause) => return Err(failed("read", &place, cause)),
            }
            place.push(name);
        }
        Ok(place)
    }

    fn folder(
        &mut self,
        entry: &tar::Entry<'_, impl Read>,
        below: &Path,
        place: &Path,
        path: &Path,
    ) -> Result<()> {
        match fs::create_dir(place) {
            Ok(()) => {}
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(place).is_ok_and(|metadata| metadata.is_dir()) {
                    return Err(refused("a folder has the name of another entry", path));
                }
            }
            Err(cause) => return Err(failed("make the folder", place, cause)),
        }
        self.folders.push(Folder {
            path: below.to_owned(),
            mode: entry.header().mode().map_err(broken)? & MODE,
            modified: modified(entry),
        });
        Ok(())
    }

    fn file(&mut self, mut entry: tar::Entry<'_, impl Read>, place: &Path, path: &Path) -> Result<()> {
        // Neither through a link nor into what is there.
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place);
        let mut file = opened.map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => refused("two entries have the same name", path),
            _ => failed("write", place, cause),
        })?;
        let (size, time) = (entry.size(), modified(&entry));
        let mode = entry.header().mode().map_err(broken)? & MODE;
        if copy(&mut self.transferred.count(&mut entry), &mut file, place)? != size {
            return Err(truncated());
        }
        let finish = || {
            if let Some(time) = time {
                file.set_modified(time)?;
            }
            file.set_permissions(Permissions::from_mode(mode))
        };
        finish().map_err(|cause| failed("write", place, cause))
    }

    fn symbolic_link(
        &mut self,
        entry: &tar::Entry<'_, impl Read>,
        below: &Path,
        place: &Path,
        path: &Path,
    ) -> Result<()> {
        let target = link_target(entry, path)?;
        let is_top = below == Path::new("");
        let depth = below.components().count().saturating_sub(1);
        if is_top || !stays_below(&target, depth) {
            match self.outside_links {
                OutsideLinks::Keep => {}
                OutsideLinks::Skip if !is_top => {
                    self.unpacked.skipped_links.push(below.to_owned());
                    return Ok(());
                }
                OutsideLinks::Skip | OutsideLinks::Refuse => {
                    let error =
                        refused("a link leads out of the copy", path).with("target", target.display());
                    return Err(if is_top { error.hint("copy what the link leads to") } else { error });
                }
            }
        }
        std::os::unix::fs::symlink(&target, place).map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => refused("two entries have the same name", path),
            _ => failed("make the link", place, cause),
        })
    }

    fn hard_link(&mut self, entry: &tar::Entry<'_, impl Read>, place: &Path, path: &Path) -> Result<()> {
        let below = self.below(&link_target(entry, path)?)?;
        let target = self.place(&below, path)?;
        if !fs::symlink_metadata(&target).is_ok_and(|metadata| metadata.is_file()) {
            return Err(refused("a hard link is to no file of the copy", path));
        }
        fs::hard_link(&target, place).map_err(|cause| failed("make the link", place, cause))
    }
}

/// Copies a file and tells which side it was that failed.
fn copy(from: &mut impl Read, to: &mut File, place: &Path) -> Result<u64> {
    let (mut buffer, mut copied) = (vec![0; CHUNK], 0_u64);
    loop {
        let count = from.read(&mut buffer).map_err(broken)?;
        if count == 0 {
            return Ok(copied);
        }
        let chunk = buffer.get(..count).unwrap_or_default();
        io::Write::write_all(to, chunk).map_err(|cause| failed("write", place, cause))?;
        copied += count as u64;
    }
}

fn modified(entry: &tar::Entry<'_, impl Read>) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(entry.header().mtime().ok()?))
}

fn link_target(entry: &tar::Entry<'_, impl Read>, path: &Path) -> Result<PathBuf> {
    let target = entry.link_name_bytes().filter(|target| !target.is_empty());
    let target = target.ok_or_else(|| refused("a link leads nowhere", path))?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&target)))
}

/// Whether a link so many folders below the top leads to something below the top, whatever the links on its way are.
///
/// `..` counts only at the beginning, where it leaves folders that are known to be no links. Behind a name it may leave
/// the folder that a link leads to, so that is taken for outside.
fn stays_below(target: &Path, depth: usize) -> bool {
    let (mut left, mut named) = (depth, false);
    target.components().all(|component| match component {
        Component::CurDir => true,
        Component::Normal(_) => {
            named = true;
            true
        }
        Component::ParentDir if named => false,
        Component::ParentDir => left.checked_sub(1).map(|rest| left = rest).is_some(),
        Component::RootDir | Component::Prefix(_) => false,
    })
}
