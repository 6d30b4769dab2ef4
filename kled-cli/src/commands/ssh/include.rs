//! The one line in the user's own configuration of ssh.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kled_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::files::{failed, replace};

/// Around our lines.
const BEGIN: &str = "# >>> kled: added by kled ssh-config >>>";
const END: &str = "# <<< kled <<<";

/// How long another process may hold the lock, and between two tries.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// Adds `line` to the configuration in the folder `user`, once.
pub(super) async fn add(user: &Path, line: &str) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(user).map_err(failed("make the folder", user))?;
    change(user, line, |text| added(text, line)).await
}

/// Takes `line` away again.
pub(super) async fn remove(user: &Path, line: &str) -> Result<()> {
    if !user.is_dir() {
        return Ok(());
    }
    change(user, line, |text| removed(text, line)).await
}

async fn change(user: &Path, line: &str, edit: impl FnOnce(&str) -> String) -> Result<()> {
    let _lock = lock(user).await?;
    let path = user.join("config");
    // A link stays a link: what it leads to is replaced.
    let path = path.canonicalize().unwrap_or(path);
    let before = match fs::read_to_string(&path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(failed("read", &path))?,
    };
    let after = edit(&before);
    if after == before {
        return Ok(());
    }
    if is_read_only(&path) {
        return Err(by_hand(&path, line, Error::new(ErrorKind::PermissionDenied, "the file is read-only")));
    }
    replace(&path, &after).map_err(|error| by_hand(&path, line, error))
}

/// Replacing a file needs no right to write to it; who has taken that away means it.
fn is_read_only(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o200 == 0)
}

fn by_hand(path: &Path, line: &str, cause: Error) -> Error {
    Error::new(cause.kind(), "the configuration of ssh cannot be changed")
        .with("path", path.display())
        .hint(format!("change this line at its top by hand: {line}"))
        .because(cause)
}

/// Only one process changes the file at a time.
async fn lock(user: &Path) -> Result<File> {
    let path: PathBuf = user.join(".kled.lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = opened.map_err(failed("open", &path))?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                tokio::time::sleep(LOCK_INTERVAL).await;
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::timeout("ssh-config", LOCK_LIMIT).with("lock", path.display()));
            }
            Err(fs::TryLockError::Error(cause)) => return Err(failed("lock", &path)(cause)),
        }
    }
}

/// Our lines, and the text without them.
fn parted(text: &str) -> (Vec<&str>, String) {
    let whole = || {
        let (before, rest) = text.split_once(BEGIN)?;
        let (ours, after) = rest.split_once(END)?;
        let after = after.strip_prefix('\n').unwrap_or(after);
        let ours = ours.lines().filter(|line| !line.is_empty()).collect();
        Some((ours, format!("{before}{after}")))
    };
    whole().unwrap_or_else(|| (Vec::new(), text.to_owned()))
}

/// At the top: what stands below a `Host` or `Match` holds only there.
fn joined(ours: &[&str], others: &str) -> String {
    if ours.is_empty() { others.to_owned() } else { format!("{BEGIN}\n{}\n{END}\n{others}", ours.join("\n")) }
}

fn added(text: &str, line: &str) -> String {
    let (mut ours, others) = parted(text);
    if ours.contains(&line) {
        return text.to_owned();
    }
    ours.push(line);
    joined(&ours, &others)
}

fn removed(text: &str, line: &str) -> String {
    let (mut ours, others) = parted(text);
    ours.retain(|one| *one != line);
    joined(&ours, &others)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: &str = "Match host x\n  User y\n\nHost *\n  Port 22";

    #[test]
    fn the_rest_of_the_file_stays_as_it_is() {
        for others in ["", OTHERS, "# only a comment\n"] {
            let one = added(others, "Include \"a\"");
            assert_eq!(one, format!("{BEGIN}\nInclude \"a\"\n{END}\n{others}"));
            assert_eq!(added(&one, "Include \"a\""), one, "once is enough");
            let two = added(&one, "Include \"b\"");
            assert_eq!(removed(&removed(&two, "Include \"a\""), "Include \"b\""), others);
            assert_eq!(removed(others, "Include \"a\""), others);
        }
    }

    #[tokio::test]
    async fn a_link_stays_a_link_and_a_mode_stays() {
        let place = tempfile::tempdir().unwrap();
        let (user, real) = (place.path().join(".ssh"), place.path().join("dotfiles"));
        fs::create_dir(&user).unwrap();
        fs::write(&real, OTHERS).unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("../dotfiles", user.join("config")).unwrap();
        add(&user, "Include \"a\"").await.unwrap();
        assert!(user.join("config").is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::read_to_string(&real).unwrap().ends_with(OTHERS));
        remove(&user, "Include \"a\"").await.unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), OTHERS);
    }

    #[tokio::test]
    async fn a_read_only_file_is_left_alone_and_the_line_is_told() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config");
        fs::write(&path, OTHERS).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        let error = add(place.path(), "Include \"a\"").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.hint_text().unwrap().contains("Include \"a\""), "{error:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), OTHERS);
    }

    #[tokio::test]
    async fn many_writers_at_once_lose_nothing() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("config"), OTHERS).unwrap();
        let lines: Vec<_> = (0..20).map(|number| format!("Include \"{number}\"")).collect();
        let writers = lines.iter().map(|line| add(place.path(), line));
        futures::future::try_join_all(writers).await.unwrap();
        let text = fs::read_to_string(place.path().join("config")).unwrap();
        assert!(lines.iter().all(|line| text.contains(line)) && text.ends_with(OTHERS), "{text}");
    }
}
