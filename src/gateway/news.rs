//! What a fetch is to bring, and what it brought.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::setup::Setup;
use crate::step::{Key, NotStored, Partition};
use crate::upstream::{FetchError, Passage};

/// Who may share a fetch: those who came under the same configuration (by its number) with the same
/// question.
pub(super) type Shared = (u64, Key);

/// What a fetch is to bring.
#[derive(Debug)]
pub(super) struct Errand {
    /// The configuration that it goes by, whichever is in force when it departs.
    pub(super) setup: Arc<Setup>,
    /// Index of the rule in it.
    pub(super) rule: usize,
    /// Of one resource; none: the rule's list.
    pub(super) ids: Option<Arc<[Box<str>]>>,
    pub(super) partition: Partition,
    /// Whose it is, for the log.
    pub(super) client: Option<Arc<str>>,
    /// Under what its body may be stored.
    pub(super) key: Key,
    /// Every query parameter is known: the body may be stored.
    pub(super) storable: bool,
    pub(super) path: Box<str>,
    pub(super) query: Box<str>,
    /// What goes up, of the caller that opened the departure.
    pub(super) headers: HeaderMap,
}

impl Errand {
    pub(super) fn shared(&self) -> Shared {
        (self.setup.number, self.key.clone())
    }
}

/// An upstream's answer, whole, cleaned, judged.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Of a 200.
    pub(super) etag: Option<HeaderValue>,
    pub(super) stored: Result<(), NotStored>,
    /// Stored or not: it will never change.
    pub(super) is_final: bool,
    /// The number of its departure.
    pub(super) number: u64,
    pub(super) poll_after: Option<Duration>,
    pub(super) took: Duration,
}

/// What all passengers of a flight hear.
#[derive(Debug, Clone)]
pub(super) enum News {
    Arrived(Arc<Arrived>),
    /// The upstream said so to somebody else, and until then.
    Held(Arc<Arrived>, Instant),
    Failed(Arc<FetchError>),
    /// There was no berth.
    Overloaded,
}

/// An answer too large to be held: it streams to one caller, and keeps its berth until it ends.
#[derive(Debug)]
pub(super) struct Larger {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) passage: Box<Passage>,
    pub(super) stored: NotStored,
    pub(super) took: Duration,
}
