//! Ages.

use jiff::Timestamp;

/// How long ago `then` was, in its one or two largest units: `8s`, `5m`, `3h20m`, `12d`. `0s` for the future.
///
/// ```
/// use jiff::Timestamp;
///
/// let now = Timestamp::from_second(12_000)?;
/// assert_eq!(kled_cli::output::age(Timestamp::UNIX_EPOCH, now), "3h20m");
/// # Ok::<_, jiff::Error>(())
/// ```
#[must_use]
pub fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    // Two units as long as the smaller one matters, as kubectl does.
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_or_two_units() {
        let at = |seconds| age(Timestamp::UNIX_EPOCH, Timestamp::from_second(seconds).unwrap());
        let ages: Vec<_> =
            [-5, 0, 119, 120, 125, 600, 10_799, 12_000, 30_000, 172_800, 180_000, 700_000].map(at).into();
        assert_eq!(
            ages,
            ["0s", "0s", "119s", "2m", "2m5s", "10m", "179m", "3h20m", "8h", "2d", "2d2h", "8d"]
        );
    }
}
