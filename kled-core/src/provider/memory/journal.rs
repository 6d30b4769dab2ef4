//! A bounded record of what happened.

use std::collections::VecDeque;

/// How many entries a workspace keeps of its events, and how many of its log lines.
const ENTRIES_MAX: usize = 1000;

/// Entries, oldest first. When it is full the oldest one goes. Each has a position that stays its own, so that a
/// reader can go on where it was.
#[derive(Debug)]
pub(super) struct Journal<T> {
    entries: VecDeque<T>,
    first: u64,
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), first: 0 }
    }
}

impl<T: Clone> Journal<T> {
    pub(super) fn push(&mut self, entry: T) {
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
            self.first += 1;
        }
        self.entries.push_back(entry);
    }

    /// The entries from `position` on, and the position after them.
    pub(super) fn since(&self, position: u64) -> (Vec<T>, u64) {
        let skipped = usize::try_from(position.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (self.entries.iter().skip(skipped).cloned().collect(), self.first + self.entries.len() as u64)
    }

    /// The position of the last `count` entries.
    pub(super) fn tail(&self, count: usize) -> u64 {
        self.first + self.entries.len().saturating_sub(count) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_journal_drops_the_oldest_and_keeps_positions() {
        let mut journal = Journal::default();
        (0..ENTRIES_MAX + 5).for_each(|entry| journal.push(entry));
        let (entries, next) = journal.since(0);
        assert_eq!((entries.first(), entries.len(), next), (Some(&5), ENTRIES_MAX, ENTRIES_MAX as u64 + 5));
        assert_eq!(journal.since(journal.tail(2)).0, [ENTRIES_MAX + 3, ENTRIES_MAX + 4]);
        assert!(journal.since(next).0.is_empty());
    }
}
