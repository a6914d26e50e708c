//! A kind of fault: its word, the harm it does, and what a caller may see of it.

use crate::kinds;
use crate::origin::{Door, Material, Move, Stream};

/// How the upstream is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Wire {
    Plain,
    Tls,
    Http2,
}

/// What a kind does.
#[derive(Clone, Copy)]
pub(crate) enum Harm {
    /// To whoever connects to the upstream, as long as it is in force.
    Door(Door),
    /// To every fetch of the step, as long as it is in force.
    Answer(fn(&Material) -> Vec<Move>),
    /// To the next fetch of the step, on a connection that was used before.
    Reused(fn(&Material) -> Vec<Move>),
    /// To streams of the step, over HTTP/2.
    Stream(Stream),
    /// By a caller.
    Caller(Prank),
    /// To the gateway or what surrounds it.
    Deed(Deed),
}

/// What a caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prank {
    LeavesUnanswered,
    ResetsUnanswered,
    LeavesHalfAnswered,
    HalfAHead,
    DripsAHead,
    Silence,
    HalfAPreface,
    ReadsSlowly,
    Pipelines,
    Junk,
    TlsHello,
    TwoLengths,
    HidesARequest,
    LargeHead,
    LongTarget,
    BadId,
    ForeignHost,
    WebPage,
    WrongMethod,
    ResetsStreams,
    Crowd,
    CrowdMeetsFailure,
    CrowdLosesItsFirst,
}

/// What befalls the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Stopped,
    UpstreamRestarts,
    PoolCut,
    Purged,
    PurgedInFlight,
    Scraped,
    SlowScrape,
    Flooded,
    Reloaded,
    ReloadBroken,
    ReloadVanished,
    /// To another host, with other keys, and back.
    ReloadElsewhere,
    SecretSwapped,
    SecretEmptied,
    SecretVanished,
}

/// What a caller may see; more than one may be allowed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expect {
    /// The right body.
    pub(crate) right: bool,
    /// The gateway's own error, with one of these codes.
    pub(crate) codes: &'static [&'static str],
    /// What the upstream said, untouched, unstored.
    pub(crate) passed: bool,
    /// A visible end in the middle.
    pub(crate) cut: bool,
    /// Others with the same credentials may be held off for a moment.
    pub(crate) holds: bool,
}

/// Of the gateway's own errors, those that an upstream's trouble may cause.
pub(crate) const TROUBLE: &[&str] = &[
    "upstream_unreachable",
    "upstream_invalid",
    "upstream_timeout",
    "overloaded",
];

const NOTHING: Expect = Expect {
    right: false,
    codes: &[],
    passed: false,
    cut: false,
    holds: false,
};

/// The fault does not show.
pub(crate) const RIGHT: Expect = Expect {
    right: true,
    ..NOTHING
};
pub(crate) const PASSED: Expect = Expect {
    passed: true,
    ..NOTHING
};
pub(crate) const HELD: Expect = Expect {
    passed: true,
    holds: true,
    ..NOTHING
};
pub(crate) const CUT: Expect = Expect {
    cut: true,
    ..NOTHING
};
pub(crate) const INVALID: Expect = error(&["upstream_invalid"]);
pub(crate) const UNREACHABLE: Expect = error(&["upstream_unreachable"]);
/// Lost in the middle: which of the two it is depends on how far it came.
pub(crate) const BROKEN: Expect = error(&["upstream_unreachable", "upstream_invalid"]);
pub(crate) const TIMEOUT: Expect = error(&["upstream_timeout"]);
/// Read leniently, or not at all.
pub(crate) const LENIENT: Expect = Expect {
    right: true,
    ..INVALID
};

const fn error(codes: &'static [&'static str]) -> Expect {
    Expect { codes, ..NOTHING }
}

#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) word: &'static str,
    pub(crate) wire: Wire,
    pub(crate) harm: Harm,
    pub(crate) expect: Expect,
}

impl Kind {
    pub(crate) const fn plain(word: &'static str, harm: Harm, expect: Expect) -> Self {
        Self {
            word,
            wire: Wire::Plain,
            harm,
            expect,
        }
    }

    pub(crate) const fn tls(word: &'static str, harm: Harm, expect: Expect) -> Self {
        Self {
            wire: Wire::Tls,
            ..Self::plain(word, harm, expect)
        }
    }

    pub(crate) const fn http2(word: &'static str, harm: Harm, expect: Expect) -> Self {
        Self {
            wire: Wire::Http2,
            ..Self::plain(word, harm, expect)
        }
    }

    /// All kinds, by place.
    pub(crate) fn all() -> Vec<Self> {
        [
            kinds::connect::KINDS,
            kinds::head::KINDS,
            kinds::framing::KINDS,
            kinds::body::KINDS,
            kinds::status::KINDS,
            kinds::secret::KINDS,
            kinds::life::KINDS,
            kinds::caller::KINDS,
            kinds::gateway::KINDS,
        ]
        .concat()
    }
}
