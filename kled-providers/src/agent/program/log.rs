//! The program's log: lines of JSON on standard output.

use std::io::Write;

use jiff::Timestamp;
use kled_core::provider::{LogLine, LogStream};

/// Writes a line of the program itself.
pub(super) fn log(line: impl Into<String>) {
    write(&LogLine {
        time: Timestamp::now(),
        stream: LogStream::Supervisor,
        command: None,
        line: line.into(),
    });
}

/// Writes a line.
pub(super) fn write(line: &LogLine) {
    let Ok(mut line) = serde_json::to_vec(line) else { return };
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    // Without a reader there is nobody to tell.
    let _unread = output.write_all(&line).and_then(|()| output.flush());
}
