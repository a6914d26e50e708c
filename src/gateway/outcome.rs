//! What happened to a request, in one word: metric label and log field.

use crate::policy::NoStoreReason;

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From memory.
    Hit,
    /// From what another gateway of the fleet had fetched.
    SharedHit,
    /// By a fetch of its own.
    Miss,
    /// By a fetch that was going anyway.
    Coalesced,
    /// After it was held for its `wait` preference.
    LongPoll,
    /// By what the upstream said to somebody else: too many requests.
    RateLimited,
    /// By the upstream, through this gateway: no rule is for it.
    Bypass,
    /// Not at all: the request itself was at fault.
    Rejected,
    /// Not at all: the upstream or the gateway was at fault.
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

    /// The word.
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

    /// Whether the request got what it asked for, as far as the upstream had it.
    pub(super) fn is_answered(self) -> bool {
        matches!(
            self,
            Self::Hit | Self::SharedHit | Self::Miss | Self::Coalesced | Self::LongPoll
        )
    }

    /// Its place in [`Outcome::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Where a fetch comes from, in the words of RFC 9211 section 2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forward {
    /// Nothing was stored.
    UriMiss,
    /// The request wanted a fresh answer.
    Request,
}

impl Forward {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::Request => "request",
        }
    }
}

/// What one request's log line and metrics say of it; filled in on its way.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) rule: Option<usize>,
    pub(crate) client: Option<std::sync::Arc<str>>,
    pub(crate) not_stored: Option<NoStoreReason>,
    pub(crate) fetch: Option<std::time::Duration>,
}
