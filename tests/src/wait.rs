//! Polling with a deadline: no wait of the harness is without one.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

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
    let mut last = None;
    while Instant::now() < end {
        match tokio::time::timeout_at(end.into(), probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = Some(error),
            // What the try before said tells more than that this one was cut off.
            Err(_) => break,
        }
        tokio::time::sleep(INTERVAL).await;
    }
    let last = last.unwrap_or_else(|| anyhow!("the only try did not return"));
    Err(last).with_context(|| format!("waited {} s for {what}", deadline.as_secs()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_deadline_tells_the_last_error() {
        let waited =
            until::<(), _>(Duration::from_millis(120), "rain", async || bail!("the sky is blue")).await;
        let told = waited.map_err(|error| format!("{error:#}"));
        assert_eq!(told, Err("waited 0 s for rain: the sky is blue".to_owned()));
    }

    #[tokio::test]
    async fn a_try_that_hangs_is_cut_off() {
        let waited = until::<(), _>(Duration::from_millis(120), "rain", std::future::pending).await;
        assert!(waited.is_err());
    }

    #[tokio::test]
    async fn the_first_success_ends_the_wait() -> Result<()> {
        let mut tries = 0;
        let waited = until(Duration::from_secs(60), "three tries", || {
            tries += 1;
            let result = if tries < 3 { Err(anyhow!("not yet")) } else { Ok(tries) };
            std::future::ready(result)
        });
        assert_eq!(waited.await?, 3);
        Ok(())
    }
}
