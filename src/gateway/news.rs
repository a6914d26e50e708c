//! What a fetch is to bring, and what it brought.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::step::{Key, NotStored, Partition};
use crate::upstream::{FetchError, Passage};

/// What a fetch is to bring.
#[derive(Debug, Clone)]
pub(super) struct Errand {
    /// Index of the rule.
    pub(super) rule: usize,
    /// Of one resource; none: the rule's list.
    pub(super) ids: Option<Arc<[Box<str>]>>,
    pub(super) partition: Partition,
    /// Whose it is, for the log.
    pub(super) client: Option<Arc<str>>,
    /// With whom the fetch is shared; under what its body may be stored.
    pub(super) key: Key,
    /// Every query parameter is known: the body may be stored.
    pub(super) storable: bool,
    pub(super) path: Box<str>,
    pub(super) query: Box<str>,
    /// What goes up, of the caller that opened the departure.
    pub(super) headers: HeaderMap,
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
