//! Counting what `cargo test` says, line by line.

use std::collections::BTreeMap;
use std::fmt;

use crate::suite::SKIPPED;

/// What a skipped test is reported with when its author gave no reason.
const NO_REASON: &str = "ignored without a reason";

/// The totals of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    passed: usize,
    failed: usize,
    skipped: usize,
    reasons: BTreeMap<String, String>,
}

impl Summary {
    /// Takes in one line of output.
    pub fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += count(result, "passed");
            self.failed += count(result, "failed");
            self.skipped += count(result, "ignored");
        } else if let Some((name, reason)) = line.strip_prefix(SKIPPED).and_then(|rest| rest.split_once(": "))
        {
            self.reasons.insert(name.to_owned(), reason.to_owned());
        } else if let Some((name, reason)) = ignored(line) {
            // A suite says more than libtest does, and says it first.
            self.reasons.entry(name).or_insert(reason);
        }
    }

    /// Whether tests ran and none failed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.passed > 0 && self.failed == 0
    }
}

/// One line for each skipped test, then the totals alone on a line.
impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, reason) in &self.reasons {
            writeln!(formatter, "{SKIPPED}{name}: {reason}")?;
        }
        let Self { passed, failed, skipped, .. } = self;
        writeln!(formatter, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// The number before a word: 3 in `ok. 3 passed; 0 failed`.
fn count(result: &str, word: &str) -> usize {
    let words: Vec<&str> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    let number = words.windows(2).find(|pair| pair[1] == word).map(|pair| pair[0].parse());
    number.and_then(Result::ok).unwrap_or(0)
}

/// `test NAME ... ignored`, with the reason behind it (libtest) or as the trial's kind before it (`[REASON] NAME`).
fn ignored(line: &str) -> Option<(String, String)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let behind = result.strip_prefix("ignored")?.strip_prefix(", ");
    let before = name.strip_prefix('[').and_then(|name| name.split_once("] "));
    let (reason, name) = match (behind, before) {
        (None, Some((kind, name))) => (kind, name),
        (behind, _) => (behind.unwrap_or(NO_REASON), name),
    };
    Some((name.trim().to_owned(), reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Summary {
        let mut summary = Summary::default();
        output.lines().for_each(|line| summary.read(line));
        summary
    }

    #[test]
    fn totals_are_added_up_over_binaries() {
        let summary = read(
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 1 passed; 2 failed; 4 ignored; 0 measured; 0 filtered out; finished in 1.00s\n",
        );
        assert_eq!(summary.to_string(), "4 passed, 2 failed, 4 skipped\n");
        assert!(!summary.is_success());
    }

    #[test]
    fn each_skipped_test_is_named_once_with_its_reason() {
        let summary = read(
            "skipped podman::runs a container: needs root\n\
             test podman::runs a container ... ignored\n\
             test slow ... ignored, takes an hour\n\
             test [the provider has no shell]   memory::exec  ... ignored\n\
             test src/lib.rs - (line 3) ... ignored\n\
             test result: ok. 1 passed; 0 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(
            summary.to_string(),
            "skipped memory::exec: the provider has no shell\n\
             skipped podman::runs a container: needs root\n\
             skipped slow: takes an hour\n\
             skipped src/lib.rs - (line 3): ignored without a reason\n\
             1 passed, 0 failed, 4 skipped\n"
        );
        assert!(summary.is_success());
    }

    #[test]
    fn a_run_without_tests_is_no_success() {
        assert!(!read("test result: ok. 0 passed; 0 failed; 9 ignored; 0 measured\n").is_success());
    }
}
