//! Packing and unpacking, above all of archives that a workspace has made to do harm.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kled_core::ErrorKind;
use kled_core::provider::ByteReader;
use tar::EntryType;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use super::{OutsideLinks, Target, Transferred, pack, pack_stream, unpack, unpack_file};

/// An archive whose names and targets are written as they are, without the checks of a decent program.
#[derive(Default)]
struct Hostile(Vec<u8>);

impl Hostile {
    fn entry(mut self, kind: EntryType, name: &str, target: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str) -> Self {
        self.entry(EntryType::Regular, name, "", 0o644, b"evil")
    }

    fn folder(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", 0o755, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, b"")
    }

    fn finished(mut self) -> ByteReader {
        self.0.extend_from_slice(&[0; 1024]);
        Box::pin(io::Cursor::new(self.0))
    }
}

/// A folder `inside` to unpack in, and a file beside it that nobody may touch.
fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("inside")).unwrap();
    fs::write(place.path().join("secret"), "untouched").unwrap();
    place
}

async fn unpack_in(
    place: &TempDir,
    archive: ByteReader,
    links: OutsideLinks,
) -> kled_core::Result<super::Unpacked> {
    let target = Target::find(&place.path().join("inside"), Some("copy")).unwrap();
    unpack(archive, target, links, &Transferred::default()).await
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_hostile_archive_is_refused_and_leaves_nothing() {
    let new = Hostile::default;
    let cases = [
        ("a name with ..", new().folder("a").file("a/../../secret")),
        ("a name of .. alone", new().file("..")),
        ("a top name with ..", new().file("../secret")),
        ("an absolute name", new().file("/tmp/kled-evil")),
        ("two top entries", new().file("a").file("b")),
        ("an absolute link", new().folder("a").link("a/l", "/etc/passwd")),
        ("a link to above", new().folder("a").link("a/l", "../secret")),
        ("a link to far above", new().folder("a").folder("a/b").link("a/b/l", "../../secret")),
        ("the top is a link", new().link("a", "secret")),
        ("through a link", new().folder("a").link("a/l", ".").file("a/l/x")),
        ("a link over a link", new().folder("a").link("a/l", ".").link("a/l/m", "..")),
        (
            "a link that leaves a linked folder",
            new().folder("a").link("a/l", "b").link("a/m", "l/../../secret"),
        ),
        ("a file over a link", new().folder("a").link("a/l", "x").file("a/l")),
        ("a folder over a link", new().folder("a").link("a/l", "x").folder("a/l")),
        ("a file twice", new().folder("a").file("a/x").file("a/x")),
        ("below a file", new().file("a").file("a/x")),
        ("a hard link to outside", new().folder("a").entry(EntryType::Link, "a/h", "../secret", 0o644, b"")),
        ("an absolute hard link", new().folder("a").entry(EntryType::Link, "a/h", "/etc/passwd", 0o644, b"")),
        (
            "a hard link to a link",
            new().folder("a").link("a/l", "x").entry(EntryType::Link, "a/h", "a/l", 0o644, b""),
        ),
        ("a device", new().folder("a").entry(EntryType::Char, "a/null", "", 0o666, b"")),
        ("a pipe", new().folder("a").entry(EntryType::Fifo, "a/pipe", "", 0o666, b"")),
        ("nothing", new()),
    ];
    for (what, archive) in cases {
        let place = place();
        let error = unpack_in(&place, archive.finished(), OutsideLinks::Refuse).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{what}: {error}");
        assert_eq!(names(&place.path().join("inside")), [""; 0].map(PathBuf::from), "{what} leaves nothing");
        assert_eq!(names(place.path()), ["inside", "secret"].map(PathBuf::from), "{what}");
        assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "untouched", "{what}");
    }
    assert!(!Path::new("/tmp/kled-evil").exists());
}

#[tokio::test]
async fn a_link_that_leads_out_can_be_left_out_or_kept_but_is_never_written_through() {
    let archive = || Hostile::default().folder("a").link("a/l", "/etc/passwd").file("a/x").finished();
    let skipping = place();
    let unpacked = unpack_in(&skipping, archive(), OutsideLinks::Skip).await.unwrap();
    assert_eq!(unpacked.skipped_links, [Path::new("l")]);
    assert_eq!(names(&skipping.path().join("inside/copy")), [Path::new("x")]);

    let keeping = place();
    unpack_in(&keeping, archive(), OutsideLinks::Keep).await.unwrap();
    assert_eq!(fs::read_link(keeping.path().join("inside/copy/l")).unwrap(), Path::new("/etc/passwd"));

    let through = Hostile::default().folder("a").link("a/l", "../..").file("a/l/secret").finished();
    let error = unpack_in(&place(), through, OutsideLinks::Keep).await.unwrap_err();
    assert!(error.to_string().contains("below one that is no folder"), "{error}");

    // Nor by a second copy through a link that the first one left.
    let first = Hostile::default().folder("a").link("a/l", "../..").finished();
    unpack_in(&keeping, first, OutsideLinks::Keep).await.unwrap();
    let second = Hostile::default().folder("a").folder("a/l").file("a/l/secret").finished();
    unpack_in(&keeping, second, OutsideLinks::Keep).await.unwrap_err();
    assert_eq!(fs::read_to_string(keeping.path().join("secret")).unwrap(), "untouched");
}

#[tokio::test]
async fn no_right_of_the_owner_is_taken_over() {
    let place = place();
    let archive = Hostile::default().entry(EntryType::Regular, "a", "", 0o6755, b"#!/bin/sh\n").finished();
    unpack_in(&place, archive, OutsideLinks::Refuse).await.unwrap();
    let mode = fs::metadata(place.path().join("inside/copy")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

/// A folder with what is easily lost.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("a/empty")).unwrap();
    fs::create_dir_all(root.join("locked")).unwrap();
    fs::write(root.join("a/program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("a/program"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::write(root.join("locked/x"), vec![7; 1 << 20]).unwrap();
    fs::write(root.join("locked").join("n".repeat(200)), "long").unwrap();
    symlink("a/program", root.join("link")).unwrap();
    symlink("../locked", root.join("a/link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    fs::set_permissions(root.join("locked"), fs::Permissions::from_mode(0o555)).unwrap();
}

/// Paths below `root` with their modes, targets and contents.
fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in names(&folder) {
            let path = folder.join(name);
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_dir() {
                folders.push(path.clone());
                "folder".into()
            } else if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                format!(
                    "{:?} {}",
                    metadata.modified().unwrap().elapsed().unwrap() < Duration::from_secs(600),
                    metadata.len()
                )
            };
            let mode = metadata.permissions().mode() & 0o7777;
            lines.push(format!("{} {mode:o} {content}", path.strip_prefix(root).unwrap().display()));
        }
    }
    lines.sort();
    lines
}

#[tokio::test]
async fn a_folder_arrives_as_it_was() {
    let place = place();
    let source = place.path().join("source");
    tree(&source);
    let transferred = Transferred::default();
    let archive = pack(&source, Some("any-name"), &transferred).await.unwrap();
    unpack_in(&place, archive, OutsideLinks::Refuse).await.unwrap();
    assert_eq!(listing(&place.path().join("inside/copy")), listing(&source));
    assert_eq!(transferred.bytes(), (1 << 20) + 4 + 10);

    // Once more over it: files are replaced, what is there besides is kept.
    fs::write(place.path().join("inside/copy/own"), "own").unwrap();
    fs::write(place.path().join("inside/copy/a/program"), "changed").unwrap();
    let archive = pack(&source, Some("any-name"), &transferred).await.unwrap();
    unpack_in(&place, archive, OutsideLinks::Refuse).await.unwrap();
    fs::remove_file(place.path().join("inside/copy/own")).unwrap();
    assert_eq!(listing(&place.path().join("inside/copy")), listing(&source));
}

#[tokio::test]
async fn a_copy_that_is_cut_off_or_given_up_leaves_nothing() {
    let place = place();
    let source = place.path().join("source");
    tree(&source);
    let mut whole = Vec::new();
    let packed = pack(&source, Some("a"), &Transferred::default()).await;
    packed.unwrap().read_to_end(&mut whole).await.unwrap();

    let cut = io::Cursor::new(whole[..whole.len() / 2].to_vec());
    let error = unpack_in(&place, Box::pin(cut.clone()), OutsideLinks::Refuse).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(names(&place.path().join("inside")).is_empty());

    // A connection that is lost has an error, whose kind is kept; also when the archive itself has ended.
    for archive in [cut, io::Cursor::new(whole)] {
        let lost = io::Error::other(kled_core::Error::new(ErrorKind::Unavailable, "lost"));
        let broken = tokio_util::io::StreamReader::new(futures::stream::iter([Err::<bytes::Bytes, _>(lost)]));
        let archive: ByteReader = Box::pin(archive.clone().chain(broken));
        let error = unpack_in(&place, archive, OutsideLinks::Refuse).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(names(&place.path().join("inside")).is_empty());
    }

    let (mut near, far) = tokio::io::duplex(1 << 20);
    let first_half = Hostile::default().folder("a").file("a/x").0;
    tokio::io::AsyncWriteExt::write_all(&mut near, &first_half).await.unwrap();
    let inside = place.path().join("inside");
    let arrives = async {
        while names(&inside).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = unpack_in(&place, Box::pin(far), OutsideLinks::Refuse) => panic!("there is more to come"),
        () = arrives => {}
    }
    assert!(names(&inside).is_empty(), "whoever gives a copy up waits until it is gone");
}

#[tokio::test]
async fn a_stream_is_a_file_with_its_length_in_front() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
    let transferred = Transferred::default();
    let archive = pack_stream(&content[..], "name", &transferred).await.unwrap();
    let mut arrived = Vec::new();
    unpack_file(archive, &mut arrived, &Transferred::default()).await.unwrap();
    assert!(arrived == content && transferred.bytes() == 3_000_000);

    let folder = Hostile::default().folder("a").file("a/x").finished();
    let error = unpack_file(folder, &mut arrived, &Transferred::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_reader_that_is_gone_ends_the_copy() {
    let archive: ByteReader = {
        let header = Hostile::default().entry(EntryType::Regular, "a", "", 0o644, b"");
        let mut bytes = header.0;
        let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
        header.set_size(1 << 40);
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        Box::pin(io::Cursor::new(bytes).chain(tokio::io::repeat(7)))
    };
    let (near, far) = tokio::io::duplex(1024);
    drop(far);
    let transferred = Transferred::default();
    let copied = unpack_file(archive, near, &transferred);
    let error = tokio::time::timeout(Duration::from_secs(5), copied).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn a_destination_is_found_as_cp_finds_it() {
    let place = place();
    let root = place.path().canonicalize().unwrap();
    let found = |destination: &str, base: Option<&str>| {
        Target::find(&root.join(destination), base).map(|target| target.path).map_err(|error| error.kind())
    };
    assert_eq!(found("inside", Some("x")), Ok(root.join("inside/x")));
    assert_eq!(found("inside/new", Some("x")), Ok(root.join("inside/new")));
    assert_eq!(found("inside", None), Ok(root.join("inside")));
    assert_eq!(found("secret", Some("x")), Ok(root.join("secret")));
    assert_eq!(found("nowhere/new", Some("x")), Err(ErrorKind::NotFound));
    symlink("inside", root.join("link")).unwrap();
    symlink("secret", root.join("file-link")).unwrap();
    assert_eq!(found("link", Some("x")), Ok(root.join("link/x")));
    assert_eq!(found("file-link", Some("x")), Ok(root.join("secret")));
}
