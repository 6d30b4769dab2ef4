//! Progress of an operation: a spinner on a terminal, plain lines elsewhere.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kled_core::provider::{Event, EventStream, Severity};

use super::printable;
use crate::Sink;

/// Fast enough to look alive, slow enough to cost nothing.
const TICK: Duration = Duration::from_millis(100);

/// Shows the events of one operation.
#[derive(Debug)]
pub(crate) enum ProgressReport {
    /// One moving line; what is done stands above it.
    Spinner(ProgressBar),
    /// One line for each event.
    Lines(Sink),
    /// Warnings only.
    Quiet(Sink),
}

impl ProgressReport {
    pub(crate) fn new(sink: &Sink, quiet: bool) -> Self {
        if quiet {
            return Self::Quiet(sink.clone());
        }
        if !sink.is_terminal() {
            return Self::Lines(sink.clone());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The template is a constant; should it ever be malformed, the default style does.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self::Spinner(bar)
    }

    /// Waits for `operation` and shows what it reports meanwhile.
    pub(crate) async fn watch<T>(self, mut events: EventStream, operation: impl Future<Output = T>) -> T {
        let mut operation = std::pin::pin!(operation);
        let result = loop {
            tokio::select! {
                // Events first, so that none is shown after the result.
                biased;
                Some(event) = events.next() => self.show(&event),
                result = &mut operation => break result,
            }
        };
        while let Some(Some(event)) = events.next().now_or_never() {
            self.show(&event);
        }
        if let Self::Spinner(bar) = &self {
            bar.finish_and_clear();
        }
        result
    }

    fn show(&self, event: &Event) {
        let warning = event.severity == Severity::Warning;
        match self {
            Self::Spinner(bar) if warning => bar.println(line(event)),
            Self::Spinner(bar) => bar.set_message(line(event)),
            Self::Quiet(_) if !warning => {}
            // Nobody reads progress any more: that does not end the operation.
            Self::Lines(sink) | Self::Quiet(sink) => drop(sink.write((line(event) + "\n").as_bytes())),
        }
    }
}

impl Drop for ProgressReport {
    /// An operation that is cancelled leaves no half line behind.
    fn drop(&mut self) {
        if let Self::Spinner(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn line(event: &Event) -> String {
    let message = printable(&event.message).replace('\n', " ");
    let step = event.step.map(|step| format!("[{}/{}] ", step.number, step.total)).unwrap_or_default();
    let label = if event.severity == Severity::Warning { "warning: " } else { "" };
    format!("{step}{label}{message}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use kled_core::WorkspaceName;
    use kled_core::provider::{Progress, StepCount};
    use kled_core::workspace::Operation;

    fn event(severity: Severity, number: u32, message: &str) -> Event {
        Event {
            time: Timestamp::UNIX_EPOCH,
            workspace: WorkspaceName::new("demo").unwrap(),
            operation: Operation::Create,
            severity,
            reason: "Cloning".into(),
            message: message.into(),
            step: Some(StepCount { number, total: 3 }),
        }
    }

    async fn shown(quiet: bool) -> String {
        let sink = Sink::memory();
        let (progress, events) = Progress::channel(8);
        let report = ProgressReport::new(&sink, quiet);
        let operation = async move {
            progress.report(event(Severity::Normal, 1, "cloning"));
            progress.report(event(Severity::Warning, 2, "no cgroup\nhere"));
            // A provider that keeps its sender does not hold the result back.
            std::mem::forget(progress);
            7
        };
        assert_eq!(report.watch(events, operation).await, 7);
        String::from_utf8(sink.contents()).unwrap()
    }

    #[tokio::test]
    async fn a_pipe_gets_a_line_for_each_event() {
        assert_eq!(shown(false).await, "[1/3] cloning\n[2/3] warning: no cgroup here\n");
    }

    #[tokio::test]
    async fn quiet_leaves_warnings() {
        assert_eq!(shown(true).await, "[2/3] warning: no cgroup here\n");
    }
}
