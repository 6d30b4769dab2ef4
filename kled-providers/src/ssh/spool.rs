//! What a client sent and nobody has read yet.
//!
//! The library grants a channel's window anew whatever is done with its data, so a client cannot be slowed down by it;
//! and a connection whose data waits would hold up all of its channels, in both directions. So everything is taken: a
//! little is kept in memory, the rest in temporary files, whose room is given back as they are read. While
//! [much](super::waiting) waits the connection is read slowly, and a channel of which more than [`LIMIT`] waits is ended.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use kled_core::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, Notify};

use super::waiting::Waiting;

/// The most that may wait in one channel.
pub(super) const LIMIT: u64 = 1 << 30;

/// Kept in memory.
const MEMORY_MAX: usize = 4 << 20;

/// What one file takes.
const FILE_MAX: u64 = 16 << 20;

/// Read at once from a file.
const CHUNK: usize = 64 << 10;

/// Both ends.
#[derive(Clone)]
pub(super) struct Spool(Arc<(Mutex<State>, Notify)>);

struct State {
    limit: u64,
    waiting: Waiting,
    size: u64,
    /// The oldest. The files are younger; they take everything while there is one.
    memory: VecDeque<Bytes>,
    in_memory: usize,
    files: VecDeque<Segment>,
    ended: bool,
}

/// A file and how much of it was written and read.
struct Segment {
    file: Arc<File>,
    written: u64,
    read: u64,
}

impl State {
    fn grow(&mut self, bytes: u64) {
        self.size += bytes;
        self.waiting.add(bytes);
    }

    fn shrink(&mut self, bytes: u64) {
        self.size -= bytes;
        self.waiting.remove(bytes);
    }

    /// A file that takes so much more, and where.
    async fn file_for(&mut self, length: u64) -> io::Result<(Arc<File>, u64)> {
        if self.files.back().is_none_or(|last| last.written + length > FILE_MAX) {
            let file = Arc::new(blocking(tempfile::tempfile).await?);
            self.files.push_back(Segment { file, written: 0, read: 0 });
        }
        let last = self.files.back().ok_or_else(|| io::Error::other("no file"))?;
        Ok((Arc::clone(&last.file), last.written))
    }
}

/// What nobody will read any more waits no more.
impl Drop for State {
    fn drop(&mut self) {
        self.waiting.remove(self.size);
    }
}

impl Spool {
    /// An empty one of a connection.
    pub(super) fn new(waiting: &Waiting) -> Self {
        Self::of(waiting, LIMIT)
    }

    fn of(waiting: &Waiting, limit: u64) -> Self {
        let (waiting, memory, files) = (waiting.clone(), VecDeque::new(), VecDeque::new());
        let state = State { limit, waiting, size: 0, memory, in_memory: 0, files, ended: false };
        Self(Arc::new((Mutex::new(state), Notify::new())))
    }

    /// Takes bytes; waits for nothing but the disk.
    ///
    /// # Errors
    /// `QuotaExceeded` when too much waits already, `StorageFull` when the temporary folder is full.
    pub(super) async fn push(&self, bytes: Bytes) -> Result<()> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().await;
        let length = bytes.len() as u64;
        if state.size + length > state.limit {
            return Err(Error::new(ErrorKind::QuotaExceeded, "what was sent is not read in the workspace")
                .with("waiting bytes", state.size)
                .hint("send it more slowly, or copy it as a file: kled workspace cp"));
        }
        if state.files.is_empty() && state.in_memory + bytes.len() <= MEMORY_MAX {
            state.in_memory += bytes.len();
            state.memory.push_back(bytes);
        } else {
            let (file, at) = state.file_for(length).await.map_err(unwritten)?;
            blocking(move || file.write_all_at(&bytes, at)).await.map_err(unwritten)?;
            if let Some(last) = state.files.back_mut() {
                last.written += length;
            }
        }
        state.grow(length);
        changed.notify_one();
        Ok(())
    }

    /// Nothing more will come.
    pub(super) async fn end(&self) {
        let (state, changed) = &*self.0;
        state.lock().await.ended = true;
        changed.notify_one();
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&self) -> io::Result<Option<Bytes>> {
        let (state, changed) = &*self.0;
        loop {
            let mut state = state.lock().await;
            if let Some(bytes) = state.memory.pop_front() {
                state.in_memory -= bytes.len();
                state.shrink(bytes.len() as u64);
                return Ok(Some(bytes));
            }
            if let Some(Segment { file, written, read }) = state.files.front_mut() {
                let (at, file) = (*read, Arc::clone(file));
                let length = CHUNK.min(usize::try_from(*written - at).unwrap_or(CHUNK));
                let bytes = blocking(move || {
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, at).map(|()| bytes)
                });
                let bytes = bytes.await?;
                *read += length as u64;
                if read == written {
                    // Its room is given back with it.
                    state.files.pop_front();
                }
                state.shrink(length as u64);
                return Ok(Some(bytes.into()));
            }
            if state.ended {
                return Ok(None);
            }
            drop(state);
            changed.notified().await;
        }
    }
}

fn unwritten(cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, "what was sent cannot be kept in a temporary file").because(cause)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("a thread ended")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(round: u32) -> Vec<u8> {
        (0..32 << 10).map(|index: u32| ((index + round) % 251) as u8).collect()
    }

    async fn files(spool: &Spool) -> usize {
        spool.0.0.lock().await.files.len()
    }

    #[tokio::test]
    async fn everything_comes_out_in_order_whatever_is_kept_where() {
        let waiting = Waiting::default();
        let spool = Spool::new(&waiting);
        let mut expected = Vec::new();
        for round in 0..800_u32 {
            expected.extend_from_slice(&piece(round));
            spool.push(piece(round).into()).await.unwrap();
        }
        assert_eq!((files(&spool).await, waiting.bytes()), (2, expected.len() as u64));
        let mut arrived = Vec::new();
        while arrived.len() < expected.len() {
            arrived.extend_from_slice(&spool.next().await.unwrap().unwrap());
        }
        spool.push(Bytes::from_static(b"again in memory")).await.unwrap();
        spool.end().await;
        assert_eq!(spool.next().await.unwrap().as_deref(), Some(&b"again in memory"[..]));
        assert_eq!(spool.next().await.unwrap(), None);
        assert!(arrived == expected && files(&spool).await == 0 && waiting.bytes() == 0);
    }

    #[tokio::test]
    async fn room_is_given_back_while_more_arrives() {
        let spool = Spool::new(&Waiting::default());
        let (mut most, mut round) = (0, 0);
        // Never empty, and ten times what one file takes in all.
        while u64::from(round) * (32 << 10) < 10 * FILE_MAX {
            spool.push(piece(round).into()).await.unwrap();
            if round > 300 {
                spool.next().await.unwrap();
            }
            most = most.max(files(&spool).await);
            round += 1;
        }
        assert!(most <= 2, "{most} files for what one takes");
    }

    #[tokio::test]
    async fn what_is_not_read_is_bounded_and_waits_no_more_when_it_is_given_up() {
        let waiting = Waiting::default();
        let spool = Spool::of(&waiting, 6 << 20);
        let error = loop {
            if let Err(error) = spool.push(piece(0).into()).await {
                break error;
            }
        };
        assert_eq!((error.kind(), waiting.bytes()), (ErrorKind::QuotaExceeded, 6 << 20));
        assert!(error.hint_text().is_some());
        spool.next().await.unwrap();
        spool.push(piece(0).into()).await.unwrap();
        drop(spool);
        assert_eq!(waiting.bytes(), 0);
    }
}
