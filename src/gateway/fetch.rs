//! One upstream fetch, from its admission to its result: fetch, check, filter, store.
//!
//! A fetch serves a whole batch of requests, so it owns everything that it needs and may outlive the
//! request that started it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use tokio::time::Instant;

use super::error::GatewayError;
use super::fetched_response::{FetchResult, FetchedResponse, StreamingResponse};
use super::request::FetchRequest;
use super::runtime_config::RuntimeConfig;
use super::telemetry::fetch_timer::FetchTimer;
use super::telemetry::metrics::{FetchClass, Metrics};
use super::telemetry::request_log::FetchEnd;
use super::telemetry::wall_clock;
use super::upstream_hints::{poll_after, retry_after};
use crate::cache::redis::{WriteJob, WriteToken};
use crate::cache::{Cache, Entry, FetchTicket, etag_of};
use crate::coalesce::{
    Admission, Completion, ConcurrencyLimit, Fetch, FetchOptions, Fetched, LongPolls, Permit, Probe,
};
use crate::policy::{CoalesceKey, NoStoreReason, Partition, check};
use crate::upstream::{
    BufferedBody, FetchCall, FetchError, SecretScanner, UpstreamResponse, filter_response_headers,
};

/// What every fetch uses of the gateway.
#[derive(Debug)]
pub(super) struct FetchContext {
    /// The configuration in force. A request takes it once, when it arrives.
    pub(super) config: ArcSwap<RuntimeConfig>,
    pub(super) cache: Cache,
    pub(super) limit: ConcurrencyLimit,
    /// By resource, and by whether the results may be stored.
    pub(super) long_polls: LongPolls<(Arc<CoalesceKey>, bool), FetchResult>,
    pub(super) metrics: Metrics,
}

/// A fetch for a request and all who join it.
#[derive(Debug)]
pub(super) struct UpstreamFetch {
    context: Arc<FetchContext>,
    request: Arc<FetchRequest>,
    permit: Option<Permit>,
    /// Set if this is the first fetch after a block by a 429.
    probe: Option<Probe<Partition, Arc<FetchedResponse>>>,
}

impl UpstreamFetch {
    pub(super) fn new(context: &Arc<FetchContext>, request: &Arc<FetchRequest>) -> Self {
        Self {
            context: Arc::clone(context),
            request: Arc::clone(request),
            permit: None,
            probe: None,
        }
    }
}

/// Returns the 429 that blocks fetches of the request's partition, if there is one.
pub(super) fn rate_limited(request: &FetchRequest) -> Option<FetchResult> {
    let gate = &request.config.retry_after_gate;
    let blocked = gate.blocked(&request.client.partition);
    blocked.map(|(response, until)| FetchResult::RateLimited(response, until))
}

impl Fetch for UpstreamFetch {
    type Output = FetchResult;
    type Stream = StreamingResponse;

    /// Passes the Retry-After gate, takes a permit, and looks at the gate again: another fetch may have
    /// got a 429 while this one waited for its permit.
    async fn admit(&mut self) -> Result<(), FetchResult> {
        let gate = &self.request.config.retry_after_gate;
        match gate.admit(&self.request.client.partition).await {
            Admission::Allow => {}
            Admission::Probe(probe) => self.probe = Some(probe),
            Admission::Blocked(response, until) => {
                return Err(FetchResult::RateLimited(response, until));
            }
        }
        let permit = self.context.limit.acquire().await;
        self.permit = Some(permit.map_err(|_| FetchResult::Failed(GatewayError::Overloaded))?);
        rate_limited(&self.request).map_or(Ok(()), Err)
    }

    fn start(self, options: FetchOptions) -> impl Future<Output = Fetched<Self>> + Send + 'static {
        // Order matters. A reload swaps the configuration, then raises a barrier. The ticket is taken
        // first: if the configuration is still ours, the ticket is older than that barrier, and the
        // store will be refused. The write token is read before the fetch starts, so that a purge in
        // between invalidates it.
        let ticket = self.context.cache.begin_fetch();
        let token = self.context.cache.write_token(&self.request.key);
        let outdated = self.context.config.load().version != self.request.config.version;
        let started = StartedFetch {
            ticket,
            token,
            options,
            outdated,
        };
        self.run(started)
    }
}

/// What is fixed when a fetch starts.
#[derive(Debug)]
struct StartedFetch {
    ticket: FetchTicket,
    /// Permits to write the body to the shared tier. `None` without a shared tier.
    token: Option<WriteToken>,
    options: FetchOptions,
    /// Whether another configuration was in force by then. The response is for requests that came under
    /// the fetch's own configuration, and is not stored.
    outdated: bool,
}

impl UpstreamFetch {
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would store its arguments twice"
    )]
    fn run(mut self, started: StartedFetch) -> impl Future<Output = Fetched<Self>> + Send {
        async move {
            let (request, context) = (&*self.request, &*self.context);
            let config = &*request.config;
            let deadline = started.options.deadline;
            let timer = FetchTimer::start(Some(deadline), |class, end, took| {
                if let Some(end) = end {
                    request.log(&end, took);
                }
                let counters = config.counters(Some(request.rule_index));
                context.metrics.record_fetch(counters, class, took);
            });
            let call = FetchCall {
                target: &request.target(),
                header_policy: &request.client.headers,
                client_headers: &request.headers,
                deadline,
            };
            let permit = self.permit.take();
            let completion = match config.upstream.fetch(&call, config.buffer_limit).await {
                Ok(fetched) => {
                    let took = timer.stop(FetchClass::Status(fetched.status));
                    self.process(fetched, &started, permit, took)
                }
                Err(error) => {
                    let took = timer.stop(FetchClass::Error);
                    self.fail(error, took)
                }
            };
            if let Some(probe) = self.probe.take() {
                probe.completed();
            }
            (started.ticket.seq(), completion)
        }
    }

    fn fail(
        &self,
        error: FetchError,
        took: Duration,
    ) -> Completion<FetchResult, StreamingResponse> {
        self.request.log(&FetchEnd::Failed(&error), took);
        Completion::Live(FetchResult::failed(error))
    }

    /// Checks the response before any part of it is removed; then filters its headers, stores it, and
    /// publishes it.
    fn process(
        &self,
        fetched: UpstreamResponse,
        started: &StartedFetch,
        permit: Option<Permit>,
        took: Duration,
    ) -> Completion<FetchResult, StreamingResponse> {
        let (request, context) = (&*self.request, &*self.context);
        let secrets = &request.config.secrets;
        let seq = started.ticket.seq();
        let cacheability = cacheability(request, &fetched);
        let UpstreamResponse {
            status,
            mut headers,
            body,
        } = fetched;
        filter_response_headers(&mut headers, secrets);
        if !status.is_success() && contains_secret(&body, secrets) {
            return self.fail(FetchError::EchoedSecret, took);
        }
        if started.options.force_fresh && !started.outdated {
            self.invalidate_stale(&started.ticket, status, cacheability);
        }
        let log = |stored: Result<(), NoStoreReason>| {
            if let Err(reason) = stored {
                context.metrics.record_not_stored(reason);
            }
            request.log(&FetchEnd::Response(status, stored), took);
        };
        let mut response = FetchedResponse {
            status,
            headers,
            body: Bytes::new(),
            etag: None,
            stored: Err(NoStoreReason::BadStatus),
            is_final: cacheability.is_ok(),
            seq,
            poll_after: None,
            fetch_time: took,
        };
        let body = match body {
            BufferedBody::Complete(body) => body,
            BufferedBody::TooLarge(body) => {
                let not_stored = cacheability.err().unwrap_or(NoStoreReason::TooLarge);
                log(Err(not_stored));
                let streaming = StreamingResponse {
                    status,
                    headers: response.headers.clone(),
                    body: Box::new(body.holding(permit)),
                    not_stored,
                    fetch_time: took,
                };
                // A 429 that is too large to be retried to every request: they get its head.
                for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LENGTH] {
                    response.headers.remove(name);
                }
                self.apply_retry_after(&Arc::new(response));
                return Completion::Unshareable(streaming);
            }
        };
        response.stored = cacheability.and_then(|()| self.store(started, &response.headers, &body));
        log(response.stored);
        response.etag = (status == StatusCode::OK).then(|| etag_of(&body));
        response.poll_after = poll_after(&response.headers);
        response.body = body;
        let response = Arc::new(response);
        self.apply_retry_after(&response);
        let result = FetchResult::Response(response);
        if cacheability.is_err() {
            return Completion::Live(result);
        }
        for may_store in [true, false] {
            let key = (Arc::clone(&request.key), may_store);
            context.long_polls.publish_final(&key, seq, &result);
        }
        Completion::Final(result)
    }

    fn store(
        &self,
        started: &StartedFetch,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(), NoStoreReason> {
        let request = &self.request;
        if !request.query.is_known() {
            return Err(NoStoreReason::UnknownQuery);
        }
        if !started.options.may_store {
            return Err(NoStoreReason::RequestNoStore);
        }
        if started.outdated {
            return Err(NoStoreReason::Purged);
        }
        let content_type = headers.get(CONTENT_TYPE);
        let (cache, settings) = (&self.context.cache, &request.config.cache);
        cache.store(
            &started.ticket,
            request.cache_key(),
            Entry::new(body, content_type),
            settings,
            Instant::now(),
        )?;
        // A body that echoes an injected secret reaches the client, but never the shared tier.
        let may_share = || !request.config.secrets.finds_in(body);
        if let Some(token) = started.token.as_ref().filter(|_| may_share()) {
            cache.share(WriteJob {
                token: token.clone(),
                key: Arc::clone(&request.key),
                body: body.clone(),
                content_type: content_type.cloned(),
                ttl: settings.ttl,
            });
        }
        Ok(())
    }

    /// Removes what is stored if a fetch that a request forced finds the resource live or gone.
    fn invalidate_stale(
        &self,
        ticket: &FetchTicket,
        status: StatusCode,
        cacheability: Result<(), NoStoreReason>,
    ) {
        let request = &self.request;
        let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        let live = status == StatusCode::OK && cacheability.is_err();
        if request.is_list || !(gone || live) {
            return;
        }
        let cache = &self.context.cache;
        let removed = cache.invalidate_older(ticket, request.cache_key());
        cache.invalidate_shared(request.cache_key(), removed);
        if removed && cacheability == Err(NoStoreReason::NotFinal) {
            let counters = request.config.counters(Some(request.rule_index));
            counters.record_regression();
            let rule = request.rule().name();
            tracing::warn!(rule, "a resource that was final is live again: removed");
        }
    }

    /// Blocks further fetches of the partition if the response is a 429 with a delay.
    fn apply_retry_after(&self, response: &Arc<FetchedResponse>) {
        let config = &self.request.config;
        let longest = config.max_retry_after;
        if response.status != StatusCode::TOO_MANY_REQUESTS || longest.is_zero() {
            return;
        }
        if let Some(delay) = retry_after(&response.headers, wall_clock::now()) {
            let until = Instant::now() + delay.min(longest);
            let partition = self.request.client.partition;
            let response = Arc::clone(response);
            config.retry_after_gate.block(partition, response, until);
        }
    }
}

/// Returns whether a response may be stored.
fn cacheability(request: &FetchRequest, fetched: &UpstreamResponse) -> Result<(), NoStoreReason> {
    if request.is_list {
        return Err(NoStoreReason::List);
    }
    let body = match &fetched.body {
        BufferedBody::Complete(body) => body,
        BufferedBody::TooLarge(_) if fetched.status != StatusCode::OK => {
            return Err(NoStoreReason::BadStatus);
        }
        BufferedBody::TooLarge(_) => return Err(NoStoreReason::TooLarge),
    };
    check(
        request.rule(),
        &request.ids(),
        fetched.status,
        &fetched.headers,
        body,
        request.config.cache.honor_no_store,
    )
}

/// Returns whether an error body, as far as it is buffered, contains an injected secret.
pub(super) fn contains_secret(body: &BufferedBody, secrets: &SecretScanner) -> bool {
    match body {
        BufferedBody::Complete(body) => secrets.finds_in(body),
        BufferedBody::TooLarge(body) => {
            let front: Vec<u8> = body.buffered().flatten().copied().collect();
            secrets.finds_in(&front)
        }
    }
}
