//! What a client sent and nobody has read yet.
//!
//! The library grants a channel's window anew whatever is done with its data, so a client cannot be slowed down; and a
//! connection whose data waits would hold up all of its channels, in both directions. So everything is taken at once:
//! a little is kept in memory, the rest in a temporary file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, Notify};

/// Kept in memory.
const MEMORY_MAX: usize = 4 << 20;

/// Read at once from the file.
const CHUNK: usize = 64 << 10;

/// Both ends.
#[derive(Clone, Default)]
pub(super) struct Spool(Arc<(Mutex<State>, Notify)>);

#[derive(Default)]
struct State {
    /// The oldest. The file is younger; it takes everything while it has something.
    memory: VecDeque<Bytes>,
    in_memory: usize,
    file: Option<Arc<File>>,
    written: u64,
    read: u64,
    ended: bool,
}

impl Spool {
    /// Takes bytes; waits for nothing but the disk.
    pub(super) async fn push(&self, bytes: Bytes) -> io::Result<()> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().await;
        if state.read == state.written && state.in_memory + bytes.len() <= MEMORY_MAX {
            state.in_memory += bytes.len();
            state.memory.push_back(bytes);
        } else {
            let file = match &state.file {
                Some(file) => Arc::clone(file),
                None => Arc::clone(state.file.insert(Arc::new(blocking(tempfile::tempfile).await?))),
            };
            let (at, length) = (state.written, bytes.len());
            blocking(move || file.write_all_at(&bytes, at)).await?;
            state.written += length as u64;
        }
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
                return Ok(Some(bytes));
            }
            if let Some(file) = state.file.clone().filter(|_| state.read < state.written) {
                let at = state.read;
                let length = CHUNK.min(usize::try_from(state.written - at).unwrap_or(CHUNK));
                let bytes = blocking(move || {
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, at).map(|()| bytes)
                });
                let bytes = bytes.await?;
                state.read += length as u64;
                if state.read == state.written {
                    // Its room is given back with it.
                    (state.file, state.read, state.written) = (None, 0, 0);
                }
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("a thread ended")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_comes_out_in_order_whatever_is_kept_where() {
        let spool = Spool::default();
        let mut expected = Vec::new();
        for round in 0..300_u32 {
            let bytes: Vec<u8> = (0..32 << 10).map(|index: u32| ((index + round) % 251) as u8).collect();
            expected.extend_from_slice(&bytes);
            spool.push(bytes.into()).await.unwrap();
        }
        assert!(spool.0.0.lock().await.file.is_some(), "more than is kept in memory");
        let mut arrived = Vec::new();
        while arrived.len() < expected.len() {
            arrived.extend_from_slice(&spool.next().await.unwrap().unwrap());
        }
        spool.push(Bytes::from_static(b"again in memory")).await.unwrap();
        spool.end().await;
        assert_eq!(spool.next().await.unwrap().as_deref(), Some(&b"again in memory"[..]));
        assert_eq!(spool.next().await.unwrap(), None);
        assert!(arrived == expected && spool.0.0.lock().await.file.is_none());
    }
}
