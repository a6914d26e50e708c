//! What happened to a request, in one word: the metric label and the log field.

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From memory.
    Hit,
    /// From the shared tier: another gateway of the fleet had fetched the resource.
    SharedHit,
    /// By a fetch that the request started.
    Miss,
    /// By a fetch that another request started.
    Coalesced,
    /// After the request waited as its `Prefer: wait` asked.
    LongPoll,
    /// By a 429 that the upstream had sent to another request.
    RateLimited,
    /// By the upstream: no rule applies, so the request was forwarded.
    Bypass,
    /// With an error, because of the request.
    Rejected,
    /// With an error, because of the upstream or the gateway.
    Error,
}

impl Outcome {
    /// Every outcome, in the order of [`Outcome::index`].
    pub const ALL: [Self; 9] = [
        Self::Hit,
        Self::SharedHit,
        Self::Miss,
        Self::Coalesced,
        Self::LongPoll,
        Self::RateLimited,
        Self::Bypass,
        Self::Rejected,
        Self::Error,
    ];

    /// Returns the word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::SharedHit => "shared_hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::LongPoll => "long_poll",
            Self::RateLimited => "rate_limited",
            Self::Bypass => "bypass",
            Self::Rejected => "rejected",
            Self::Error => "error",
        }
    }

    /// Returns whether the request got what it asked for, as far as the upstream had it.
    pub(crate) fn is_answered(self) -> bool {
        matches!(
            self,
            Self::Hit | Self::SharedHit | Self::Miss | Self::Coalesced | Self::LongPoll
        )
    }

    /// Returns the position in [`Outcome::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}
