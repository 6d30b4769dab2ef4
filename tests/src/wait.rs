//! Polling with a deadline: no wait of the harness is without one.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const INTERVAL: Duration = Duration::from_millis(50);

/// Polls until `probe` gives a value.
///
/// An error of `probe` means "not yet"; the last one is told when the deadline passes.
///
/// # Errors
/// When the deadline passes.
pub async fn until<T, Ending>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Ending) -> Result<T>
where
    Ending: Future<Output = Result<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        let remaining = end.saturating_duration_since(Instant::now());
        let error = match tokio::time::timeout(remaining, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("the last try did not return"),
        };
        if Instant::now() + INTERVAL >= end {
            return Err(error).with_context(|| format!("waited {} s for {what}", deadline.as_secs()));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Polls until `probe` gives `true`; for places that cannot be async, such as `Drop`.
///
/// # Errors
/// When the deadline passes, or at once when `probe` fails.
pub fn until_blocking(deadline: Duration, what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + deadline;
    while !probe()? {
        if Instant::now() >= end {
            bail!("waited {} s for {what}", deadline.as_secs());
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}
