//! What a fetch brings: for all who share it, or for one request alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::error::GatewayError;
use crate::policy::NoStoreReason;
use crate::upstream::{FetchError, StreamingBody};

/// The result of a fetch, which all requests of the batch get.
#[derive(Debug, Clone)]
pub(super) enum FetchResult {
    Response(Arc<FetchedResponse>),
    /// The upstream had answered another request with 429, and fetches are blocked until then.
    RateLimited(Arc<FetchedResponse>, Instant),
    Failed(GatewayError),
}

impl FetchResult {
    pub(super) fn failed(error: FetchError) -> Self {
        Self::Failed(GatewayError::Fetch(Arc::new(error)))
    }
}

/// A whole response of the upstream's, with its headers filtered and its cacheability checked.
#[derive(Debug)]
pub(super) struct FetchedResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// `None` if the status is not 200.
    pub(super) etag: Option<HeaderValue>,
    pub(super) stored: Result<(), NoStoreReason>,
    /// Whether the response was found final and cacheable, also if it is not stored.
    pub(super) is_final: bool,
    /// The sequence number of the fetch.
    pub(super) seq: u64,
    /// When the upstream wants to be polled again.
    pub(super) poll_after: Option<Duration>,
    pub(super) fetch_time: Duration,
}

/// A response whose body is too large to buffer. It streams to one request, and keeps the fetch's permit
/// until it ends.
#[derive(Debug)]
pub(super) struct StreamingResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Box<StreamingBody>,
    pub(super) not_stored: NoStoreReason,
    pub(super) fetch_time: Duration,
}
