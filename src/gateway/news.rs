//! What a fetch is to bring, and what it brought.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::uri::PathAndQuery;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::setup::{Account, Setup};
use crate::cache::CoalesceKey;
use crate::policy::route::Ids;
use crate::policy::{CacheKey, NoStoreReason, Query, Rule, check};
use crate::upstream::{FetchError, StreamingBody};

/// What a fetch is to bring.
#[derive(Debug)]
pub(super) struct Errand {
    /// The configuration that it goes by, whichever is in force when it departs.
    pub(super) setup: Arc<Setup>,
    /// Whose it is.
    pub(super) account: Arc<Account>,
    /// Index of the rule in it.
    pub(super) rule: usize,
    /// With whom it may be shared; the key is the one under which its body may be stored.
    pub(super) shared: Arc<CoalesceKey>,
    /// Of the rule's list, of which nothing is stored.
    pub(super) is_list: bool,
    /// Where in the path the ids stand.
    pub(super) ids: SmallVec<[Range<usize>; 4]>,
    /// What the caller asked for.
    pub(super) asked: PathAndQuery,
    pub(super) query: Query,
    /// What of the caller that opened the departure goes up with it.
    pub(super) passing: HeaderMap,
}

impl Errand {
    pub(super) fn key(&self) -> &CacheKey {
        &self.shared.key
    }

    pub(super) fn rule(&self) -> &Rule {
        &self.setup.rules[self.rule]
    }

    /// What goes up.
    pub(super) fn target(&self) -> PathAndQuery {
        self.setup.upstream.target(&self.asked, self.query.as_str())
    }

    /// Whether a body that is not from upstream is what a final one would have to be.
    pub(super) fn is_final(&self, body: &Bytes) -> bool {
        let headers = HeaderMap::new();
        check(
            self.rule(),
            &self.ids(),
            StatusCode::OK,
            &headers,
            body,
            self.setup.cache.honor_no_store,
        )
        .is_ok()
    }

    pub(super) fn ids(&self) -> Ids<'_> {
        let path = self.asked.path();
        self.ids.iter().map(|id| &path[id.clone()]).collect()
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
    pub(super) stored: Result<(), NoStoreReason>,
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
    pub(super) passage: Box<StreamingBody>,
    pub(super) stored: NoStoreReason,
    pub(super) took: Duration,
}
