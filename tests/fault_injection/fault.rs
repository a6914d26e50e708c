//! A fault: its name, what it does, and what a client may see of it.

use std::pin::Pin;
use std::time::Duration;

use crate::fixtures::client::Version;
use crate::fixtures::origin::{Action, Connections, Protocol, StreamFault};
use crate::fixtures::random::seeded;
use crate::ledger::Case;
use crate::step::Step;
use crate::testbed::Testbed;
use crate::upstream::Material;
use crate::{client_faults, process_faults, upstream_faults};

/// What a fault does.
#[derive(Clone, Copy)]
pub(crate) enum Effect {
    /// New connections to the upstream meet this.
    Connections(Connections),
    /// The upstream answers every fetch of the step so.
    Response(fn(&Material) -> Vec<Action>),
    /// The upstream answers the next fetch of the step so, on a connection that was used before.
    Reused(fn(&Material) -> Vec<Action>),
    /// This befalls every HTTP/2 stream of the step.
    Stream(StreamFault),
    /// This befalls the next HTTP/2 stream of the step, on a connection that was used before.
    ReusedStream(StreamFault),
    /// Clients, or what surrounds the gateway, do this.
    Run(for<'a> fn(&'a Injection<'a>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>),
}

/// One injection of a fault.
pub(crate) struct Injection<'a> {
    pub(crate) testbed: &'a Testbed,
    pub(crate) case: &'a Case,
    /// The step that the fault strikes.
    pub(crate) step: &'a Step,
    /// A step that it does not strike.
    pub(crate) other: &'a Step,
    /// The version of HTTP that clients speak.
    pub(crate) version: Version,
}

impl Injection<'_> {
    /// Returns a generator of the injection's own.
    pub(crate) fn rng(&self) -> fastrand::Rng {
        let Case { seed, number, name } = self.case;
        seeded(*seed, &[name, &number.to_string(), "effect"])
    }
}

/// What a client may see of a fault. More than one may be allowed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected {
    /// The right body.
    pub(crate) correct: bool,
    /// The gateway's own error, with one of these codes.
    pub(crate) codes: &'static [&'static str],
    /// The upstream's response, untouched and not stored.
    pub(crate) passed: bool,
    /// A body that visibly breaks off.
    pub(crate) truncated: bool,
    /// A 429 for other requests with the same credentials, until a `Retry-After` ends.
    pub(crate) rate_limited: bool,
}

/// The codes of the gateway's own errors that a failing upstream may cause.
pub(crate) const UPSTREAM_CODES: &[&str] = &[
    "upstream_unreachable",
    "upstream_invalid",
    "upstream_timeout",
    "overloaded",
];

const NOTHING: Expected = Expected {
    correct: false,
    codes: &[],
    passed: false,
    truncated: false,
    rate_limited: false,
};

/// The fault does not show.
pub(crate) const CORRECT: Expected = Expected {
    correct: true,
    ..NOTHING
};
pub(crate) const PASSED: Expected = Expected {
    passed: true,
    ..NOTHING
};
pub(crate) const RATE_LIMITED: Expected = Expected {
    rate_limited: true,
    ..PASSED
};
pub(crate) const TRUNCATED: Expected = Expected {
    truncated: true,
    ..NOTHING
};
pub(crate) const INVALID: Expected = error(&["upstream_invalid"]);
pub(crate) const UNREACHABLE: Expected = error(&["upstream_unreachable"]);
/// A connection was lost in the middle. Which code it is depends on how much came before.
pub(crate) const LOST: Expected = error(&["upstream_unreachable", "upstream_invalid"]);
pub(crate) const TIMEOUT: Expected = error(&["upstream_timeout"]);
/// The response is read leniently, or rejected.
pub(crate) const LENIENT: Expected = Expected {
    correct: true,
    ..INVALID
};

const fn error(codes: &'static [&'static str]) -> Expected {
    Expected { codes, ..NOTHING }
}

#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// How the upstream is spoken to.
    pub(crate) protocol: Protocol,
    pub(crate) effect: Effect,
    pub(crate) expected: Expected,
}

/// A pause that is shorter than every deadline.
pub(crate) const SHORT: Duration = Duration::from_millis(60);
/// A pause between bytes that is so long that a deadline comes before the last byte.
pub(crate) const DRIP: Duration = Duration::from_millis(40);
/// A pause that is longer than every deadline.
pub(crate) const LONG: Duration = Duration::from_secs(5);

/// Returns every fault.
pub(crate) fn all() -> Vec<Fault> {
    [
        upstream_faults::CONNECTIONS,
        upstream_faults::RESPONSES,
        upstream_faults::TLS_RESPONSES,
        upstream_faults::REUSED,
        upstream_faults::STREAMS,
        client_faults::FAULTS,
        process_faults::FAULTS,
    ]
    .concat()
}

/// Writes a table of faults, one row for each: its name, what a client may see, and its effect.
macro_rules! faults {
    ($protocol:ident $effect:ident: $($name:literal => $expected:ident, |$m:pat_param| $actions:expr;)*) => {
        &[$(Fault {
            name: $name,
            protocol: Protocol::$protocol,
            effect: Effect::$effect(|$m: &Material| Vec::from($actions)),
            expected: $expected,
        }),*]
    };
    ($($name:literal => $expected:ident, $protocol:ident, $effect:ident $fault:expr;)*) => {
        &[$(Fault {
            name: $name,
            protocol: Protocol::$protocol,
            effect: Effect::$effect($fault),
            expected: $expected,
        }),*]
    };
    (Run: $($name:literal => $function:path;)*) => {
        &[$(Fault {
            name: $name,
            protocol: Protocol::Http1,
            effect: Effect::Run(|injection| Box::pin($function(injection))),
            expected: CORRECT,
        }),*]
    };
}
pub(crate) use faults;
