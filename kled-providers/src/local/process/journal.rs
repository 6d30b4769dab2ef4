//! Files to which lines of JSON are added: the log and the events of a workspace.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kled_core::provider::{Event, Severity};
use kled_core::workspace::Operation;
use kled_core::{Result, WorkspaceName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::layout::{blocking, file_error};

/// A file that is longer is put aside, replacing the one put aside before: at most twice this is kept.
const ROTATE_BYTES: u64 = 8 << 20;

/// How often a followed file is looked at. A file that is written elsewhere gives no other sign on every system.
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);

/// Adds a line. A log that cannot be written must not stop what it tells of, so failures are traced only.
pub(crate) fn append<T: Serialize>(path: &Path, value: &T) {
    let write = || -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        if fs::metadata(path).is_ok_and(|metadata| metadata.len() > ROTATE_BYTES) {
            fs::rename(path, put_aside(path))?;
        }
        // One write of one line with O_APPEND: lines of several writers do not mix.
        File::options().create(true).append(true).open(path)?.write_all(&line)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "cannot write a log");
    }
}

fn put_aside(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

/// The event of now.
pub(crate) fn event(
    workspace: &WorkspaceName,
    operation: Operation,
    severity: Severity,
    reason: &str,
    message: String,
) -> Event {
    Event {
        time: Timestamp::now(),
        workspace: workspace.clone(),
        operation,
        severity,
        reason: reason.into(),
        message,
        step: None,
    }
}

/// The lines of a file, the last `tail` of them; with `follow` also those that are added until `ended` says so.
pub(crate) async fn read<T, E>(
    path: PathBuf,
    tail: Option<usize>,
    follow: Option<E>,
) -> Result<BoxStream<'static, Result<T>>>
where
    T: DeserializeOwned + Send + 'static,
    E: Fn() -> bool + Send + Sync + Clone + 'static,
{
    let from = path.clone();
    let (lines, position) = blocking(move || existing(&from, tail)).await?;
    let existing = futures::stream::iter(lines.into_iter().map(Ok));
    let Some(ended) = follow else { return Ok(existing.boxed()) };
    let added = futures::stream::unfold(Some((path, position)), move |state| {
        let ended = ended.clone();
        async move {
            let (path, position) = state?;
            // Looked at before reading, so that what was written before the end is read.
            let last = ended();
            let from = path.clone();
            match blocking(move || added(&from, position)).await {
                Ok((lines, position)) => {
                    if lines.is_empty() && !last {
                        tokio::time::sleep(FOLLOW_PERIOD).await;
                    }
                    let lines: Vec<Result<T>> = lines.into_iter().map(Ok).collect();
                    Some((lines, (!last).then_some((path, position))))
                }
                Err(error) => Some((vec![Err(error)], None)),
            }
        }
    });
    Ok(existing.chain(added.flat_map(futures::stream::iter)).boxed())
}

/// Where reading goes on: in which file, and from which byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    file: u64,
    offset: u64,
}

fn existing<T: DeserializeOwned>(path: &Path, tail: Option<usize>) -> Result<(VecDeque<T>, Position)> {
    let mut lines = VecDeque::new();
    let mut keep = |line: T| {
        lines.push_back(line);
        if tail.is_some_and(|tail| lines.len() > tail) {
            lines.pop_front();
        }
    };
    read_from(&put_aside(path), Position::default(), &mut keep)?;
    let position = read_from(path, Position::default(), &mut keep)?;
    Ok((lines, position))
}

fn added<T: DeserializeOwned>(path: &Path, position: Position) -> Result<(Vec<T>, Position)> {
    let mut lines = Vec::new();
    let position = read_from(path, position, &mut |line| lines.push(line))?;
    Ok((lines, position))
}

/// Reads whole lines. A file that was put aside meanwhile is finished first.
fn read_from<T: DeserializeOwned>(
    path: &Path,
    position: Position,
    keep: &mut impl FnMut(T),
) -> Result<Position> {
    let failed = |cause| file_error("cannot read", path, cause);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(position),
        Err(cause) => return Err(failed(cause)),
    };
    let number = file.metadata().map_err(failed)?.ino();
    let mut offset = if number == position.file { position.offset } else { 0 };
    if position.file != 0 && number != position.file && put_aside(path) != path {
        let aside = put_aside(path);
        if fs::metadata(&aside).is_ok_and(|metadata| metadata.ino() == position.file) {
            read_from(&aside, position, keep)?;
        }
    }
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if line.last() != Some(&b'\n') {
            // Still being written: read when it is whole.
            break;
        }
        offset += line.len() as u64;
        // A line cut by a full disk or a crash is left out; the ones after it are whole.
        if let Ok(value) = serde_json::from_slice(&line) {
            keep(value);
        }
        line.clear();
    }
    Ok(Position { file: number, offset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn lines_are_followed_until_the_end_also_across_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        (0..3).for_each(|number: u32| append(&path, &number));
        let ended = Arc::new(AtomicBool::new(false));
        let look = Arc::clone(&ended);
        let follow = Some(move || look.load(Ordering::SeqCst));
        let mut lines = read::<u32, _>(path.clone(), Some(2), follow).await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), 1);
        assert_eq!(lines.next().await.unwrap().unwrap(), 2);
        append(&path, &3_u32);
        fs::rename(&path, put_aside(&path)).unwrap();
        append(&path, &4_u32);
        ended.store(true, Ordering::SeqCst);
        let rest: Vec<u32> = lines.map(|line| line.unwrap()).collect().await;
        assert_eq!(rest, [3, 4]);
    }

    #[tokio::test]
    async fn a_torn_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        fs::write(&path, "1\n{\"torn\n2\n3").unwrap();
        let lines = read::<u32, fn() -> bool>(path, None, None).await.unwrap();
        let lines: Vec<u32> = lines.map(|line| line.unwrap()).collect().await;
        assert_eq!(lines, [1, 2]);
    }
}
