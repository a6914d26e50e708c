//! The ledger: what was asked and what became of it. Lost, wrong and leaked are printed at once,
//! with what it takes to see them again.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every secret contains this, so that one search finds them all; without its first letter, which
/// some faults escape.
const CANARY: &[u8] = b"anary";

/// At most so many are printed: the first ones tell.
const MOST_PRINTED: u64 = 40;

/// Bytes of an answer that are printed.
const SHOWN: usize = 700;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Complete, its bytes as the upstream made them, and fresh enough.
    Right,
    /// A well-formed error: the gateway's, or the upstream's untouched.
    Error,
    /// Visibly truncated, where the fault is one of a body too large to be held.
    Cut,
    /// Neither, until the deadline.
    Lost(String),
    /// An answer that must not be.
    Wrong(String),
    /// A secret where none may be.
    Leaked(String),
}

/// Where something happened.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    /// Of the injection, or of the request.
    pub(crate) number: u64,
    /// The kind of fault in force, or the kind of traffic.
    pub(crate) kind: String,
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) right: u64,
    pub(crate) error: u64,
    pub(crate) cut: u64,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    pub(crate) leaked: u64,
}

impl Counts {
    pub(crate) fn bad(&self) -> u64 {
        self.lost + self.wrong + self.leaked
    }

    pub(crate) fn all(&self) -> u64 {
        self.right + self.error + self.cut + self.bad()
    }
}

/// Shared by everything that sees an answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    total: Counts,
    by_kind: BTreeMap<String, Counts>,
    printed: u64,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a verdict down; `bytes` is what came.
    pub(crate) fn note(&self, case: &Case, verdict: &Verdict, bytes: &[u8]) {
        let mut book = self.lock();
        let Book { total, by_kind, .. } = &mut *book;
        let kind = by_kind.entry(case.kind.clone()).or_default();
        let (word, why) = match verdict {
            Verdict::Right => return count(total, kind, |c| &mut c.right),
            Verdict::Error => return count(total, kind, |c| &mut c.error),
            Verdict::Cut => return count(total, kind, |c| &mut c.cut),
            Verdict::Lost(why) => {
                count(total, kind, |c| &mut c.lost);
                ("LOST", why)
            }
            Verdict::Wrong(why) => {
                count(total, kind, |c| &mut c.wrong);
                ("WRONG", why)
            }
            Verdict::Leaked(why) => {
                count(total, kind, |c| &mut c.leaked);
                ("LEAKED", why)
            }
        };
        book.printed += 1;
        if book.printed <= MOST_PRINTED {
            let Case { seed, number, kind } = case;
            let shown = &bytes[..bytes.len().min(SHOWN)];
            let more = bytes.len() - shown.len();
            let text = shown.escape_ascii();
            say(&format!(
                "{word}  seed {seed}, {kind} {number}: {why}\n  \
                 {text} ({more} bytes more)"
            ));
        }
    }

    pub(crate) fn total(&self) -> Counts {
        self.lock().total
    }

    pub(crate) fn by_kind(&self) -> Vec<(String, Counts)> {
        let book = self.lock();
        book.by_kind.iter().map(|(k, c)| (k.clone(), *c)).collect()
    }
}

fn count(total: &mut Counts, kind: &mut Counts, which: impl Fn(&mut Counts) -> &mut u64) {
    *which(total) += 1;
    *which(kind) += 1;
}

/// Whether a secret shows in these bytes, in whatever case.
pub(crate) fn shows_secret(bytes: &[u8]) -> bool {
    bytes
        .windows(CANARY.len())
        .any(|window| window.eq_ignore_ascii_case(CANARY))
}

/// A line to standard output.
pub(crate) fn say(text: &str) {
    // A closed pipe is the reader's wish.
    let _ = writeln!(std::io::stdout(), "{text}");
}
