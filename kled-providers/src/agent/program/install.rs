//! The program as a file: its digest, and a copy of it where another container finds it.

use std::fs::{File, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kled_core::{Error, ErrorKind, Result};
use rustix::fs::StatVfsMountFlags;
use sha2::{Digest, Sha256};

/// Anybody may run it: which user a workspace has is not known here.
const MODE: u32 = 0o755;

/// This program's own file, also when it was replaced since.
#[cfg(target_os = "linux")]
fn own_file() -> io::Result<File> {
    File::open("/proc/self/exe")
}

#[cfg(not(target_os = "linux"))]
fn own_file() -> io::Result<File> {
    File::open(std::env::current_exe()?)
}

/// The SHA-256 of this program's own file, in hexadecimal.
pub(super) fn own_digest() -> Result<String> {
    own_file().and_then(digest).map_err(|cause| {
        Error::new(ErrorKind::Internal, "the program cannot read its own file").because(cause)
    })
}

fn digest(file: File) -> io::Result<String> {
    let (mut reader, mut digest) = (BufReader::new(file), Sha256::new());
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        digest.update(&buffer[..read]);
    }
}

/// Puts a copy of this program at `destination`, whole or not at all. Does nothing when it is there already.
///
/// # Errors
/// `PermissionDenied` (no right, a read-only file system), `StorageFull`, `Unsupported` (programs of the file system
/// cannot be run), `InvalidInput` (no path of a file).
pub(super) fn install(destination: &Path) -> Result<()> {
    let (Some(folder), Some(_)) = (destination.parent(), destination.file_name()) else {
        return Err(Error::new(ErrorKind::InvalidInput, "the destination is not the path of a file")
            .with("path", destination.display()));
    };
    let failed = |cause: io::Error| failed(destination, cause);
    std::fs::create_dir_all(folder).map_err(failed)?;
    check_executable(folder)?;
    let own = own_digest()?;
    if is_installed(destination, &own) {
        return Ok(());
    }
    let mut copy = tempfile::Builder::new().prefix(".kled-agent-").tempfile_in(folder).map_err(failed)?;
    own_file().and_then(|mut program| io::copy(&mut program, copy.as_file_mut())).map_err(failed)?;
    copy.as_file().set_permissions(Permissions::from_mode(MODE)).map_err(failed)?;
    copy.as_file().sync_all().map_err(failed)?;
    copy.persist(destination).map_err(|error| failed(error.error))?;
    // The name, too, has to outlive a crash of the machine.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn is_installed(destination: &Path, own: &str) -> bool {
    let Ok(metadata) = destination.symlink_metadata() else { return false };
    metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == MODE
        && File::open(destination).and_then(digest).is_ok_and(|digest| digest == own)
}

/// A mount that forbids programs would be noticed only when the other container starts.
fn check_executable(folder: &Path) -> Result<()> {
    let mount = rustix::fs::statvfs(folder).map_err(|cause| failed(folder, cause.into()))?;
    if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err(Error::new(ErrorKind::Unsupported, "programs of this file system cannot be run")
            .with("folder", folder.display())
            .hint("mount it without noexec"));
    }
    Ok(())
}

fn failed(path: &Path, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
            ErrorKind::InvalidInput
        }
        _ => ErrorKind::Internal,
    };
    Error::new(kind, "the program cannot be installed").with("path", path.display()).because(cause)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_is_whole_executable_and_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("bin/kled-agent");
        install(&destination).unwrap();
        let first = destination.metadata().unwrap();
        assert_eq!(first.permissions().mode() & 0o7777, MODE);
        assert_eq!(digest(File::open(&destination).unwrap()).unwrap(), own_digest().unwrap());
        install(&destination).unwrap();
        assert_eq!(destination.metadata().unwrap().ino(), first.ino(), "it was copied again");
        std::fs::write(&destination, "another version").unwrap();
        install(&destination).unwrap();
        assert_eq!(digest(File::open(&destination).unwrap()).unwrap(), own_digest().unwrap());
        assert_eq!(std::fs::read_dir(folder.path().join("bin")).unwrap().count(), 1, "a part was left");
    }

    #[test]
    fn what_cannot_be_installed_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(install(&file.join("kled-agent")).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(install(Path::new("/")).unwrap_err().kind(), ErrorKind::InvalidInput);
        // It can be written by nobody and holds no programs.
        assert!(install(Path::new("/proc/kled-agent")).is_err());
    }
}
