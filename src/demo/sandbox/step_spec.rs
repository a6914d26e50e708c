//! Derives from a step's id its kind, its lifetime and its final status.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::demo::seeded_rng::SeededRng;

/// The status of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Still changing.
    InProgress,
    /// Ended well.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended by its owner.
    Cancelled,
    /// Ended by the clock.
    Expired,
}

impl Status {
    /// Every status, the live one first.
    pub const ALL: [Self; 5] = [
        Self::InProgress,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Returns the status as it stands in the body.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Returns whether the step never changes again.
    pub fn is_final(self) -> bool {
        self != Self::InProgress
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    CodeInterpreter,
    FileSearch,
}

/// Holds what the id of a step decides.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StepSpec {
    pub(super) kind: Kind,
    pub(super) final_status: Status,
    /// Where in the range of lifetimes it lies, from 0 to 1.
    position: f64,
    /// Seconds since 1970.
    pub(super) created_at: u64,
}

/// The start of the day in 2026 on which all steps are created. A body must not depend on a clock.
const FIRST_CREATED_AT: u64 = 1_795_000_000;

impl StepSpec {
    pub(super) fn of(step: &str) -> Self {
        let mut rng = SeededRng::of(&["spec", step]);
        Self {
            kind: match rng.below(10) {
                0..5 => Kind::Message,
                5..8 => Kind::CodeInterpreter,
                8.. => Kind::FileSearch,
            },
            final_status: match rng.below(100) {
                0..88 => Status::Completed,
                88..94 => Status::Failed,
                94..97 => Status::Cancelled,
                97.. => Status::Expired,
            },
            position: rng.share(),
            created_at: FIRST_CREATED_AT + u64::from(rng.below(86_400)),
        }
    }

    /// Returns how long the step is in progress.
    pub(super) fn lifetime(&self, range: &RangeInclusive<Duration>) -> Duration {
        let span = range.end().saturating_sub(*range.start());
        *range.start() + span.mul_f64(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_spread_over_their_range() {
        let range = Duration::from_secs(2)..=Duration::from_secs(8);
        let lifetimes: Vec<Duration> = (0..200)
            .map(|n| StepSpec::of(&format!("step_{n}")).lifetime(&range))
            .collect();
        assert!(lifetimes.iter().all(|lifetime| range.contains(lifetime)));
        assert!(
            lifetimes
                .iter()
                .any(|lifetime| *lifetime < Duration::from_secs(3))
        );
        assert!(
            lifetimes
                .iter()
                .any(|lifetime| *lifetime > Duration::from_secs(7))
        );
    }

    #[test]
    fn most_steps_complete_and_some_do_not() {
        let statuses: Vec<Status> = (0..1000)
            .map(|n| StepSpec::of(&format!("step_{n}")).final_status)
            .collect();
        let count = |status| statuses.iter().filter(|s| **s == status).count();
        assert!((850..920).contains(&count(Status::Completed)));
        for rare in [Status::Failed, Status::Cancelled, Status::Expired] {
            assert!(count(rare) > 10, "{rare:?}");
        }
        assert_eq!(count(Status::InProgress), 0);
    }

    #[test]
    fn the_step_of_the_intro_is_a_message_that_completes() {
        let spec = StepSpec::of("step_1");
        assert_eq!(
            (spec.kind, spec.final_status),
            (Kind::Message, Status::Completed)
        );
    }
}
