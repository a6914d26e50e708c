//! The ledger: every request and its verdict. What is lost, wrong or leaked is printed at once, with
//! what it takes to see it again.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A part of every secret, so that one search finds them all. The first letter is left out, since
/// some faults escape it.
const CANARY: &[u8] = b"anary";

/// The number of verdicts that are printed at most, since the first ones tell the cause.
const MAX_PRINTED: u64 = 40;

/// The number of a response's bytes that are printed.
const MAX_SHOWN: usize = 700;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The response is whole, fresh, and byte for byte as the upstream made it.
    Correct,
    /// The response is a well-formed error: the gateway's own, or the upstream's untouched.
    Error,
    /// The body is visibly truncated, and the fault is in a body too large to be buffered.
    Truncated,
    /// There was no response before the deadline.
    Lost(String),
    /// The response is one that must not be.
    Wrong(String),
    /// A secret is where none may be.
    Leaked(String),
}

impl Verdict {
    /// Puts `what` in front of the reason.
    pub(crate) fn of(self, what: &str) -> Self {
        match self {
            Self::Lost(why) => Self::Lost(format!("{what}: {why}")),
            Self::Wrong(why) => Self::Wrong(format!("{what}: {why}")),
            Self::Leaked(why) => Self::Leaked(format!("{what}: {why}")),
            good @ (Self::Correct | Self::Error | Self::Truncated) => good,
        }
    }
}

/// Identifies an injection, or a request of the soak.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) number: u64,
    /// The name of the fault, or of the traffic.
    pub(crate) name: String,
}

impl Case {
    pub(crate) fn new(seed: u64, number: u64, name: &str) -> Self {
        let name = name.to_owned();
        Self { seed, number, name }
    }
}

/// The number of verdicts of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) correct: u64,
    pub(crate) error: u64,
    pub(crate) truncated: u64,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    pub(crate) leaked: u64,
}

impl Counts {
    pub(crate) fn bad(&self) -> u64 {
        self.lost + self.wrong + self.leaked
    }

    pub(crate) fn all(&self) -> u64 {
        self.correct + self.error + self.truncated + self.bad()
    }

    fn add(&mut self, verdict: &Verdict) {
        *match verdict {
            Verdict::Correct => &mut self.correct,
            Verdict::Error => &mut self.error,
            Verdict::Truncated => &mut self.truncated,
            Verdict::Lost(_) => &mut self.lost,
            Verdict::Wrong(_) => &mut self.wrong,
            Verdict::Leaked(_) => &mut self.leaked,
        } += 1;
    }
}

/// Counts verdicts. Clones share their counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    total: Counts,
    by_name: BTreeMap<String, Counts>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a verdict, and prints it with these bytes if it is bad.
    pub(crate) fn note(&self, case: &Case, verdict: &Verdict, bytes: &[u8]) {
        let mut state = self.lock();
        let Case { seed, number, name } = case;
        state.total.add(verdict);
        state.by_name.entry(name.clone()).or_default().add(verdict);
        let (word, why) = match verdict {
            Verdict::Correct | Verdict::Error | Verdict::Truncated => return,
            Verdict::Lost(why) => ("LOST", why),
            Verdict::Wrong(why) => ("WRONG", why),
            Verdict::Leaked(why) => ("LEAKED", why),
        };
        if state.total.bad() <= MAX_PRINTED {
            let shown = &bytes[..bytes.len().min(MAX_SHOWN)];
            let more = bytes.len() - shown.len();
            let text = shown.escape_ascii();
            print(&format!(
                "{word}  seed {seed}, {name} {number}: {why}\n  {text} ({more} bytes more)"
            ));
        }
    }

    pub(crate) fn total(&self) -> Counts {
        self.lock().total
    }

    pub(crate) fn by_name(&self) -> BTreeMap<String, Counts> {
        self.lock().by_name.clone()
    }
}

/// Returns whether a secret shows in these bytes, in upper or lower case.
pub(crate) fn shows_secret(bytes: &[u8]) -> bool {
    bytes
        .windows(CANARY.len())
        .any(|window| window.eq_ignore_ascii_case(CANARY))
}

/// Prints a line to standard output.
pub(crate) fn print(text: &str) {
    // If the reader has closed the pipe, it does not want the line.
    let _ = writeln!(std::io::stdout(), "{text}");
}
