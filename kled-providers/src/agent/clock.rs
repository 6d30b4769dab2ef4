//! Waiting for a time of the wall clock.

use std::time::Duration;

use jiff::Timestamp;

/// How often the clock is looked at: it may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);

/// Waits until `time` has come.
pub(crate) async fn sleep_until(time: Timestamp) {
    while let Some(left) =
        Duration::try_from(time.duration_since(Timestamp::now())).ok().filter(|left| !left.is_zero())
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}
