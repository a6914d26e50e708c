//! What a step is, by its id alone: its kind, how long it lives, how it ends.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::demo::seeded_rng::SeededRng;

/// Where a step stands.
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

    /// The word in the body.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether the step will never change again.
    pub fn is_final(self) -> bool {
        self != Self::InProgress
    }
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    CodeInterpreter,
    FileSearch,
}

/// What an id decides about its step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StepSpec {
    pub(super) kind: Kind,
    pub(super) ending: Status,
    /// Where in the range of lifetimes it lies, 0 to 1.
    share: f64,
    /// Seconds since 1970.
    pub(super) created_at: u64,
}

/// All steps are born on one day in 2026: a body must not depend on when it is asked for.
const FIRST_CREATED_AT: u64 = 1_795_000_000;

impl StepSpec {
    pub(super) fn of(step: &str) -> Self {
        let mut dice = SeededRng::of(&["nature", step]);
        Self {
            kind: match dice.below(10) {
                0..5 => Kind::Message,
                5..8 => Kind::CodeInterpreter,
                8.. => Kind::FileSearch,
            },
            ending: match dice.below(100) {
                0..88 => Status::Completed,
                88..94 => Status::Failed,
                94..97 => Status::Cancelled,
                97.. => Status::Expired,
            },
            share: dice.share(),
            created_at: FIRST_CREATED_AT + u64::from(dice.below(86_400)),
        }
    }

    /// How long the step is in progress.
    pub(super) fn lifetime(&self, range: &RangeInclusive<Duration>) -> Duration {
        let span = range.end().saturating_sub(*range.start());
        *range.start() + span.mul_f64(self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_fill_their_range() {
        let range = Duration::from_secs(2)..=Duration::from_secs(8);
        let lives: Vec<Duration> = (0..200)
            .map(|n| StepSpec::of(&format!("step_{n}")).lifetime(&range))
            .collect();
        assert!(lives.iter().all(|life| range.contains(life)));
        assert!(lives.iter().any(|life| *life < Duration::from_secs(3)));
        assert!(lives.iter().any(|life| *life > Duration::from_secs(7)));
    }

    #[test]
    fn most_steps_complete_and_some_end_otherwise() {
        let endings: Vec<Status> = (0..1000)
            .map(|n| StepSpec::of(&format!("step_{n}")).ending)
            .collect();
        let count = |status| endings.iter().filter(|e| **e == status).count();
        assert!((850..920).contains(&count(Status::Completed)));
        for rare in [Status::Failed, Status::Cancelled, Status::Expired] {
            assert!(count(rare) > 10, "{rare:?}");
        }
        assert_eq!(count(Status::InProgress), 0);
    }

    #[test]
    fn the_step_of_the_example_is_a_message_that_completes() {
        let nature = StepSpec::of("step_abc123");
        assert_eq!(
            (nature.kind, nature.ending),
            (Kind::Message, Status::Completed)
        );
    }
}
