//! What is to become of a workspace: a function of what was seen of it, what was asked for, and the time.
//!
//! Idleness is measured on the clock that nobody sets, and by differences only, so steps of the wall clock change
//! nothing in it. The wall clock says one thing: whether the workspace has expired.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The longest time without a look. A wall clock that was set, and a request that nobody carried out, are noticed then.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// The shortest: looking is cheap, but not free.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// A moment on the clock that nobody sets: the time since this program began, negative before.
pub(super) type Moment = SignedDuration;

/// The time, twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) moment: Moment,
    pub(super) wall: Timestamp,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) idle_timeout: Option<Duration>,
    pub(super) expires: Option<Timestamp>,
}

/// What the agent says, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// How long nothing has been done; `None` while a command runs.
    pub(super) idle: Option<Duration>,
    /// False when nothing at all was done since the agent began: its beginning is no activity of the workspace, or one
    /// that is started again and again would never be idle.
    pub(super) used: bool,
}

/// Whether the agent is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// Not yet.
    Never,
    /// It answers.
    Answers,
    /// It did, until then.
    Lost { since: Moment },
}

/// What was seen of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) contact: Contact,
    /// A command ran when the agent was last heard.
    pub(super) busy: bool,
    /// When something was last done, as far as is known; this program's own beginning at first.
    pub(super) last_active: Moment,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing, until something is heard or this time has passed.
    Stay { next_look: Duration },
    /// The workspace is to be stopped.
    Stop { reason: Quiet },
    /// The workspace is to be deleted.
    Delete,
}

/// Why a workspace is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quiet {
    /// Nothing was done in it.
    Idle,
    /// Its agent does not answer, so nothing can be done in it.
    Unreachable,
}

impl Observed {
    /// Nothing was seen yet.
    pub(super) const fn nothing() -> Self {
        Self { contact: Contact::Never, busy: false, last_active: Moment::ZERO }
    }

    /// The agent said how it is.
    pub(super) fn heard(&mut self, heard: Heard, now: Moment) {
        let first = self.contact == Contact::Never;
        self.contact = Contact::Answers;
        self.busy = heard.idle.is_none();
        let active = now.saturating_sub(signed(heard.idle.unwrap_or_default()));
        if first {
            // It may have been idle for longer than this program runs.
            self.last_active = active;
        } else if self.busy || heard.used {
            self.last_active = self.last_active.max(active);
        }
    }

    /// The agent does not answer.
    pub(super) fn lost(&mut self, now: Moment) {
        if self.busy {
            // What ran may have run until now.
            self.last_active = self.last_active.max(now);
        }
        self.busy = false;
        if self.contact == Contact::Answers {
            self.contact = Contact::Lost { since: now };
        }
    }

    /// It was asked to stop: if it does not, because somebody started it at the same moment, it has its time again.
    pub(super) fn asked_to_stop(&mut self, now: Moment) {
        self.last_active = self.last_active.max(now);
    }

    /// How long nothing has been done.
    pub(super) fn quiet(&self, now: Moment) -> Duration {
        if self.busy {
            return Duration::ZERO;
        }
        Duration::try_from(now.saturating_sub(self.last_active)).unwrap_or_default()
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Decides.
pub(super) fn decide(observed: &Observed, spec: &Spec, now: Now) -> Verdict {
    let mut next_look = LOOK_MAX;
    if let Some(expires) = spec.expires {
        match Duration::try_from(expires.duration_since(now.wall)) {
            Ok(left) if !left.is_zero() => next_look = next_look.min(left),
            _ => return Verdict::Delete,
        }
    }
    if let Some(timeout) = spec.idle_timeout {
        let left = timeout.saturating_sub(observed.quiet(now.moment));
        if !observed.busy && left.is_zero() {
            let answers = observed.contact == Contact::Answers;
            return Verdict::Stop { reason: if answers { Quiet::Idle } else { Quiet::Unreachable } };
        }
        next_look = next_look.min(left);
    }
    Verdict::Stay { next_look: next_look.max(LOOK_MIN) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(600);
    const IDLE: Spec = Spec { idle_timeout: Some(TIMEOUT), expires: None };

    fn at(seconds: i64) -> Now {
        Now {
            moment: Moment::from_secs(seconds),
            wall: Timestamp::from_second(1_800_000_000 + seconds).unwrap(),
        }
    }

    fn idle(seconds: u64) -> Heard {
        Heard { idle: Some(Duration::from_secs(seconds)), used: true }
    }

    const BUSY: Heard = Heard { idle: None, used: true };

    fn observed(heard: &[(i64, Option<Heard>)]) -> Observed {
        let mut observed = Observed::nothing();
        for (second, heard) in heard {
            match heard {
                Some(heard) => observed.heard(*heard, at(*second).moment),
                None => observed.lost(at(*second).moment),
            }
        }
        observed
    }

    fn is_stopped(heard: &[(i64, Option<Heard>)], second: i64) -> bool {
        matches!(decide(&observed(heard), &IDLE, at(second)), Verdict::Stop { .. })
    }

    #[test]
    fn a_command_keeps_it_and_silence_stops_it_in_time() {
        assert!(!is_stopped(&[(0, Some(BUSY))], 1_000_000));
        assert!(!is_stopped(&[(0, Some(BUSY)), (100, Some(idle(0)))], 699));
        assert!(is_stopped(&[(0, Some(BUSY)), (100, Some(idle(0)))], 700));
        // Bytes that moved.
        assert!(!is_stopped(&[(0, Some(idle(0))), (500, Some(idle(1)))], 1098));
        assert!(is_stopped(&[(0, Some(idle(0))), (500, Some(idle(1)))], 1099));
        // What was idle already when this program began.
        assert!(is_stopped(&[(5, Some(idle(595)))], 10));
    }

    #[test]
    fn what_never_answers_or_no_longer_does_is_stopped() {
        assert!(!is_stopped(&[(1, None)], 599));
        assert!(is_stopped(&[(1, None)], 600));
        assert!(!is_stopped(&[(0, Some(BUSY)), (1000, None)], 1599));
        let lost = observed(&[(0, Some(BUSY)), (1000, None), (1300, None)]);
        assert_eq!(lost.contact, Contact::Lost { since: Moment::from_secs(1000) });
        assert_eq!(decide(&lost, &IDLE, at(1600)), Verdict::Stop { reason: Quiet::Unreachable });
    }

    #[test]
    fn an_agent_that_is_started_again_and_again_is_no_activity() {
        let unused = Heard { idle: Some(Duration::ZERO), used: false };
        let starts = [(0, Some(unused)), (200, None), (210, Some(unused)), (400, None), (410, Some(unused))];
        assert!(!is_stopped(&starts, 599));
        assert!(is_stopped(&starts, 600));
    }

    #[test]
    fn a_request_that_was_carried_out_is_not_repeated_at_once() {
        let mut observed = observed(&[(0, Some(idle(0)))]);
        observed.asked_to_stop(at(600).moment);
        assert_eq!(decide(&observed, &IDLE, at(601)), Verdict::Stay { next_look: LOOK_MAX });
    }

    #[test]
    fn it_is_deleted_when_it_expires_also_while_a_command_runs() {
        let spec = Spec { idle_timeout: None, expires: Some(at(100).wall) };
        let busy = observed(&[(0, Some(BUSY))]);
        assert_eq!(decide(&busy, &spec, at(40)), Verdict::Stay { next_look: LOOK_MAX });
        assert_eq!(decide(&busy, &spec, at(99)), Verdict::Stay { next_look: Duration::from_secs(1) });
        assert_eq!(decide(&busy, &spec, at(100)), Verdict::Delete);
    }

    fn any_heard() -> impl Strategy<Value = Vec<(i64, Option<Heard>)>> {
        let heard = (proptest::option::of(0_u64..2000), any::<bool>())
            .prop_map(|(idle, used)| Heard { idle: idle.map(Duration::from_secs), used });
        proptest::collection::vec((0_i64..200, proptest::option::of(heard)), 0..12).prop_map(|steps| {
            let mut second = 0;
            steps
                .into_iter()
                .map(|(pause, heard)| {
                    second += pause;
                    (second, heard)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn steps_of_the_wall_clock_change_nothing_in_idleness(
            heard in any_heard(), later in 0_i64..2000, wall in -100_000_000_i64..100_000_000,
        ) {
            let observed = observed(&heard);
            let now = at(heard.last().map_or(0, |(second, _)| *second) + later);
            let stepped = Now { wall: at(wall).wall, ..now };
            prop_assert_eq!(decide(&observed, &IDLE, now), decide(&observed, &IDLE, stepped));
        }

        #[test]
        fn what_is_busy_stays(heard in any_heard(), later in 0_i64..1_000_000) {
            let mut observed = observed(&heard);
            let last = heard.last().map_or(0, |(second, _)| *second);
            observed.heard(BUSY, at(last).moment);
            let stays = matches!(decide(&observed, &IDLE, at(last + later)), Verdict::Stay { .. });
            prop_assert!(stays);
        }

        #[test]
        fn the_next_look_is_the_first_at_which_it_could_be_stopped(heard in any_heard(), later in 0_i64..2000) {
            let observed = observed(&heard);
            let now = at(heard.last().map_or(0, |(second, _)| *second) + later);
            match decide(&observed, &IDLE, now) {
                Verdict::Stay { next_look } => {
                    prop_assert!(next_look > Duration::ZERO && next_look <= LOOK_MAX);
                    let look = Now { moment: now.moment + signed(next_look), ..now };
                    let stopped = matches!(decide(&observed, &IDLE, look), Verdict::Stop { .. });
                    prop_assert!(stopped || next_look == LOOK_MAX);
                    let before = Now { moment: look.moment - Moment::from_nanos(1), ..now };
                    let stays = matches!(decide(&observed, &IDLE, before), Verdict::Stay { .. });
                    prop_assert!(stays);
                }
                Verdict::Stop { .. } => prop_assert!(observed.quiet(now.moment) >= TIMEOUT),
                Verdict::Delete => prop_assert!(false, "it does not expire"),
            }
        }

        #[test]
        fn without_a_limit_it_stays(heard in any_heard(), later in 0_i64..100_000) {
            let now = at(heard.last().map_or(0, |(second, _)| *second) + later);
            let verdict = decide(&observed(&heard), &Spec::default(), now);
            prop_assert_eq!(verdict, Verdict::Stay { next_look: LOOK_MAX });
        }
    }
}
