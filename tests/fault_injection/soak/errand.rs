//! What is asked for, and how often.

use crate::dice::Dice;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    Poll,
    Again,
    List,
    Head,
    IfNoneMatch,
    NoCache,
    NoStore,
    Wait,
    Included,
}

impl Errand {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        match dice.below(100) {
            0..50 => Self::Poll,
            50..74 => Self::Again,
            74..79 => Self::List,
            79..83 => Self::Head,
            83..88 => Self::IfNoneMatch,
            88..91 => Self::NoCache,
            91..93 => Self::NoStore,
            93..96 => Self::Wait,
            _ => Self::Included,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Again => "again",
            Self::List => "list",
            Self::Head => "head",
            Self::IfNoneMatch => "if_none_match",
            Self::NoCache => "no_cache",
            Self::NoStore => "no_store",
            Self::Wait => "wait",
            Self::Included => "included",
        }
    }
}
