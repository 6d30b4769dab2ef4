//! Progress of a copy: a bar on a terminal, nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Sink;

/// Between two looks at how far it is.
const TICK: Duration = Duration::from_millis(100);

/// Waits for `operation` and shows meanwhile how many bytes went by, of `total` where that is known.
pub(crate) async fn watch_transfer<T>(
    sink: &Sink,
    quiet: bool,
    total: Option<u64>,
    bytes: impl Fn() -> u64,
    operation: impl Future<Output = T>,
) -> T {
    if quiet || !sink.is_terminal() {
        return operation.await;
    }
    let bar = Bar(ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()));
    let template = match total {
        Some(_) => "{wide_bar} {bytes}/{total_bytes} ({bytes_per_sec}, {eta})",
        None => "{spinner} {bytes} ({bytes_per_sec}, {elapsed})",
    };
    // The template is a constant; should it ever be malformed, the default style does.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.0.set_style(style);
    }
    let mut ticks = tokio::time::interval(TICK);
    let mut operation = std::pin::pin!(operation);
    loop {
        tokio::select! {
            result = &mut operation => return result,
            _ = ticks.tick() => {
                bar.0.set_position(bytes());
                bar.0.tick();
            }
        }
    }
}

/// Its line is cleared whatever ends the operation.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
