//! How long to wait after a failure.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(60);

/// A server that asks for more is not believed: the workspace goes on costing.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// The pause after the `attempt`th failure, counted from 0. `random` is in 0..1: many workspaces fail at the same moment, and
/// must not try again at the same moment. Never shorter than what the server asked for.
pub(super) fn pause(attempt: u32, retry_after: Option<Duration>, random: f64) -> Duration {
    let random = random.clamp(0.0, 1.0);
    let full = FIRST.saturating_mul(2_u32.saturating_pow(attempt)).min(MAX);
    let own = full.mul_f64(0.5 + random / 2.0);
    match retry_after {
        Some(asked) => own.max(asked.min(RETRY_AFTER_MAX) + FIRST.mul_f64(random)),
        None => own,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_grows_to_a_bound_and_keeps_to_what_is_asked(
            attempt in any::<u32>(), asked in proptest::option::of(0_u64..10_000), random in 0.0_f64..1.0,
        ) {
            let asked = asked.map(Duration::from_secs);
            let pause = pause(attempt, asked, random);
            prop_assert!(pause >= FIRST / 2);
            prop_assert!(pause <= MAX.max(asked.unwrap_or_default().min(RETRY_AFTER_MAX) + FIRST));
            prop_assert!(pause >= asked.unwrap_or_default().min(RETRY_AFTER_MAX));
        }
    }

    #[test]
    fn it_doubles() {
        let pauses: Vec<_> = (0..8).map(|attempt| pause(attempt, None, 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
