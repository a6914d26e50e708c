//! The pipeline of a request, from top to bottom: parse, authenticate, look up, fetch, respond.
//!
//! [`Gateway::handle`] does everything that needs no waiting. A request that needs a fetch goes on in
//! `Gateway::fetch_response`; a request that no rule answers goes on in `Gateway::forward_response`.
//!
#![doc = include_str!("gateway/http.md")]

mod admin;
mod error;
mod fetch;
mod fetched_response;
mod forward;
mod invalidate;
mod long_poll;
mod request;
mod response;
mod runtime_config;
mod telemetry;
mod upstream_hints;
mod validate;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub use admin::PreparedConfig;
pub(crate) use error::GatewayError;
pub use invalidate::{Purge, PurgeError};
pub(crate) use request::RequestHeaders;
pub use runtime_config::Transport;
pub(crate) use telemetry::metrics::GaugeGuard;
pub use telemetry::outcome::Outcome;
pub(crate) use validate::check_request;

use crate::cache::redis::SharedTier;
use crate::cache::{Cache, SharedOptions};
use crate::coalesce::{
    Coalescer, Completion, ConcurrencyLimit, Fetch, FetchOptions, JoinResult, LongPolls, PollEvent,
    PollResult, WaitOptions,
};
use crate::config::Config;
use crate::policy::CoalesceKey;
use crate::upstream::{Body, FetchError, RequestBody, SetupError};
use fetch::{FetchContext, UpstreamFetch};
use fetched_response::{FetchResult, StreamingResponse};
use forward::ForwardRequest;
use request::{FetchRequest, FwdReason, RequestMemo};
use response::{CachedResponse, HeaderCache};
use runtime_config::RuntimeConfig;
use telemetry::history::History;
use telemetry::metrics::Metrics;
use telemetry::request_log::RequestLog;
use telemetry::wall_clock;

/// What the gateway remembers of one client connection.
#[derive(Debug)]
pub struct ConnectionState {
    transport: Transport,
    last_request: RequestMemo,
    header_cache: HeaderCache,
}

impl ConnectionState {
    /// Returns the state of a connection without requests.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            last_request: RequestMemo::default(),
            header_cache: HeaderCache::default(),
        }
    }
}

/// How a request is answered.
pub enum Handled {
    /// At once: from memory, or with an error.
    Ready(Response<Body>),
    /// By a fetch.
    Fetch(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
    /// By the upstream, which reads the request's body.
    Forward(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
}

/// Where a request goes after the look-up.
enum Lookup {
    Hit(CachedResponse),
    Miss(Arc<FetchRequest>, Option<LongPollWait>),
    Forward(ForwardRequest),
}

/// The seconds of `Prefer: wait`, with the permit to wait.
type LongPollWait = (u64, OwnedSemaphorePermit);

/// How many requests may wait for fetches, even if fewer connections are allowed.
const MIN_WAITING_REQUESTS: usize = 1000;

/// How many requests may be forwarded at once. Each may have a connection of its own, and some hundred KiB
/// in its buffers.
pub(crate) const MAX_FORWARDED: usize = 1024;

/// Everything that a request needs.
#[derive(Debug)]
pub struct Gateway {
    /// The configuration, the cache and the metrics, which fetches use, too.
    context: Arc<FetchContext>,
    coalescer: Coalescer<Arc<CoalesceKey>, UpstreamFetch>,
    /// Permits for requests that wait because of `Prefer: wait`.
    long_poll_permits: Arc<Semaphore>,
    max_long_polls: usize,
    /// Permits for requests that wait for a fetch. Over HTTP/1.1 there are as many as connections. Over
    /// HTTP/2 one connection carries many requests, and each costs memory while it waits.
    wait_permits: Semaphore,
    /// Permits for forwarded requests, each kept until the end of the response.
    forward_permits: Arc<Semaphore>,
    draining: CancellationToken,
    closing: CancellationToken,
    history: History,
    last_reload: Mutex<Option<admin::Reload>>,
    started: Instant,
    max_bytes: u64,
}

impl Gateway {
    /// Prepares everything; connects to nothing.
    ///
    /// # Errors
    /// [`SetupError`] if the upstream's TLS cannot be prepared.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let upstream = &config.upstream;
        let metrics = Metrics::new();
        metrics.set_secrets_loaded(wall_clock::unix_seconds());
        let mut cache = Cache::new(config.cache.max_bytes);
        if let Some(redis) = &config.cache.redis {
            let tier = SharedTier::new(redis, metrics.shared.clone()).map_err(SetupError::Redis)?;
            cache = cache.with_tier(Arc::new(tier));
        }
        let max_long_polls = config.server.max_long_polls.min(Semaphore::MAX_PERMITS);
        let max_waiting = config.server.max_connections.max(MIN_WAITING_REQUESTS);
        let context = FetchContext {
            config: ArcSwap::from_pointee(RuntimeConfig::new(config, &metrics, 0)?),
            cache,
            limit: ConcurrencyLimit::new(upstream.max_in_flight, upstream.queue_timeout),
            long_polls: LongPolls::default(),
            metrics,
        };
        Ok(Self {
            context: Arc::new(context),
            coalescer: Coalescer::new(upstream.coalesce_window),
            long_poll_permits: Arc::new(Semaphore::new(max_long_polls)),
            max_long_polls,
            wait_permits: Semaphore::new(max_waiting.min(Semaphore::MAX_PERMITS)),
            forward_permits: Arc::new(Semaphore::new(MAX_FORWARDED)),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            history: History::default(),
            last_reload: Mutex::default(),
            started: Instant::now(),
            max_bytes: config.cache.max_bytes,
        })
    }

    /// Answers a request that arrived then. It never fails: an error becomes a response, a metric and a
    /// log line.
    pub fn handle(
        self: &Arc<Self>,
        request: Request<Incoming>,
        connection: &mut ConnectionState,
        arrived: Instant,
    ) -> Handled {
        let config = self.context.config.load();
        // Only forwarded requests read the request body. For all others it is dropped; hyper then closes
        // an HTTP/1.1 connection.
        let (head, body) = request.into_parts();
        let mut log = RequestLog::new(arrived);
        match self.route_and_lookup(&config, &head, connection, arrived, &mut log) {
            Ok(Lookup::Hit(cached)) => {
                self.log(&log, &config, &head, Outcome::Hit, cached.status());
                Handled::Ready(cached.into_response(head, &mut connection.header_cache))
            }
            Ok(Lookup::Miss(request, wait)) => {
                let gateway = Arc::clone(self);
                Handled::Fetch(Box::pin(gateway.fetch_response(head, request, wait, log)))
            }
            Ok(Lookup::Forward(request)) => {
                let gateway = Arc::clone(self);
                Handled::Forward(Box::pin(gateway.forward_response(head, body, request, log)))
            }
            Err(error) => Handled::Ready(self.error_response(&config, &head, &error, &log)),
        }
    }

    /// Validates, authenticates, routes, and looks into memory: everything that needs no waiting.
    fn route_and_lookup(
        &self,
        config: &Arc<RuntimeConfig>,
        head: &Parts,
        connection: &mut ConnectionState,
        arrived: Instant,
        log: &mut RequestLog,
    ) -> Result<Lookup, GatewayError> {
        let headers = RequestHeaders::of(&head.headers);
        config.check_transport(connection.transport)?;
        check_request(head, &headers, connection.transport, config.open_to())?;
        let client = config.authenticate(&head.headers)?;
        log.client.clone_from(&client.name);

        let memo = &mut connection.last_request;
        let Some(parsed) = memo.route(config, head, client, log)? else {
            let permit = Arc::clone(&self.forward_permits).try_acquire_owned();
            let permit = permit.map_err(|_| GatewayError::Overloaded)?;
            let request = ForwardRequest::new(config, client, head, permit)?;
            return Ok(Lookup::Forward(request));
        };

        let directives = headers.cache_directives();
        let mut fwd_reason = FwdReason::UriMiss;
        if directives.no_cache {
            fwd_reason = FwdReason::Request;
        } else if let Some(hit) = self.context.cache.lookup(parsed.key(), arrived) {
            if directives.accepts_age(hit.age().as_secs()) {
                return Ok(Lookup::Hit(CachedResponse::new(hit, &headers, false)));
            }
            fwd_reason = FwdReason::Request;
        }
        if directives.only_if_cached {
            return Err(GatewayError::NotCached);
        }
        // A request never gets a result from before a purge. One that demands a fresh response gets none
        // from before its own arrival.
        let min_seq = match fwd_reason {
            FwdReason::UriMiss => self.context.cache.min_valid_seq(parsed.key()),
            FwdReason::Request => self.context.cache.next_seq(),
        };
        let request = FetchRequest::new(
            parsed, head, config, client, arrived, directives, min_seq, fwd_reason,
        )?;
        let wait = self.long_poll_wait(&request, &headers);
        Ok(Lookup::Miss(Arc::new(request), wait))
    }

    /// Returns how long the request waits (`Prefer: wait`). `None` if it does not ask to wait, or if
    /// `max_long_polls` requests wait already; then it is answered as if it had not asked.
    fn long_poll_wait(
        &self,
        request: &FetchRequest,
        headers: &RequestHeaders<'_>,
    ) -> Option<LongPollWait> {
        let seconds = headers.wait().filter(|_| !request.is_list)?;
        let permit = Arc::clone(&self.long_poll_permits).try_acquire_owned();
        Some((seconds, permit.ok()?))
    }

    /// Answers a miss: from the shared tier, else by a fetch.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would store its arguments twice"
    )]
    fn fetch_response(
        self: Arc<Self>,
        head: Parts,
        request: Arc<FetchRequest>,
        wait: Option<LongPollWait>,
        mut log: RequestLog,
    ) -> impl Future<Output = Response<Body>> + Send {
        async move {
            if let Some(cached) = self.shared_lookup(&request, &head).await {
                let status = cached.status();
                self.log(&log, &request.config, &head, Outcome::SharedHit, status);
                return cached.into_response(head, &mut HeaderCache::default());
            }
            let answered = tokio::select! {
                biased;
                answered = self.fetch(&request, wait, &head, &mut log) => answered,
                () = self.closing.cancelled() => Err(GatewayError::Draining),
            };
            match answered {
                Ok((response, outcome)) => {
                    let status = response.status();
                    self.log(&log, &request.config, &head, outcome, status);
                    response
                }
                Err(error) => self.error_response(&request.config, &head, &error, &log),
            }
        }
    }

    /// Looks into the shared tier, if there is one.
    async fn shared_lookup(&self, request: &FetchRequest, head: &Parts) -> Option<CachedResponse> {
        let cache = &self.context.cache;
        cache.tier()?;
        if request.is_list || !request.query.is_known() {
            return None;
        }
        let options = SharedOptions {
            may_read: !request.options.force_fresh,
            may_store: request.options.may_store,
        };
        let is_final = |body: &_| request.accepts_as_final(body);
        let settings = &request.config.cache;
        // Boxed, because it is rare and larger than everything else.
        let lookup = Box::pin(cache.shared_lookup(&request.key, options, settings, is_final));
        let hit = lookup.await?;
        let headers = RequestHeaders::of(&head.headers);
        let is_young_enough = request.directives.accepts_age(hit.age().as_secs());
        is_young_enough.then(|| CachedResponse::new(hit, &headers, true))
    }

    /// Fetches, alone or with others, or waits for the resource to become final; then builds the
    /// response.
    async fn fetch(
        self: &Arc<Self>,
        request: &Arc<FetchRequest>,
        wait: Option<LongPollWait>,
        head: &Parts,
        log: &mut RequestLog,
    ) -> Result<(Response<Body>, Outcome), GatewayError> {
        let (result, waited) = match &wait {
            Some((seconds, _permit)) => {
                // Boxed, because it is rare and as large as a fetch.
                let waiting = Box::pin(self.fetch_when_final(request, *seconds));
                let (result, waited) = waiting.await?;
                (result, waited.then_some(*seconds))
            }
            None => {
                let permit = self.wait_permits.try_acquire();
                let _permit = permit.map_err(|_| GatewayError::Overloaded)?;
                (self.fetch_coalesced(request, request.options).await, None)
            }
        };
        let (mut response, outcome) = build_response(result, request, head, log)?;
        if let Some(seconds) = waited {
            response::add_preference_applied(response.headers_mut(), seconds);
            return Ok((response, Outcome::LongPoll));
        }
        Ok((response, outcome))
    }

    /// Returns the result of a fetch that starts after this call, or a final one.
    async fn fetch_coalesced(
        &self,
        request: &Arc<FetchRequest>,
        options: FetchOptions,
    ) -> JoinResult<FetchResult, StreamingResponse> {
        // While a 429 blocks fetches, no batch needs to gather.
        if let Some(blocked) = fetch::rate_limited(request) {
            return JoinResult::Led(blocked);
        }
        let new_fetch = || UpstreamFetch::new(&self.context, request);
        let key = Arc::clone(&request.key);
        match self.coalescer.fetch(key, options, new_fetch).await {
            JoinResult::FetchAlone => Box::pin(fetch_alone(new_fetch(), options)).await,
            result @ (JoinResult::Led(_)
            | JoinResult::Joined(_)
            | JoinResult::Unshareable(_)
            | JoinResult::TimedOut
            | JoinResult::Abandoned) => result,
        }
    }

    /// Waits for the resource to become final, for at most `seconds`, together with all requests that wait
    /// for it. Returns whether it waited: a resource whose responses are too large to share is not waited
    /// for.
    ///
    /// # Errors
    /// [`GatewayError::Draining`] if the gateway drains before there is a result.
    async fn fetch_when_final(
        self: &Arc<Self>,
        request: &Arc<FetchRequest>,
        seconds: u64,
    ) -> Result<(JoinResult<FetchResult, StreamingResponse>, bool), GatewayError> {
        let options = request.options;
        let min_seq = self.context.cache.next_seq();
        let mut first = None;
        if options.force_fresh {
            // Its own fetch comes first, because it replaces or removes what is stored.
            let result = self.fetch_coalesced(request, options).await;
            match long_poll::poll_event(&result) {
                PollEvent::Live | PollEvent::Transient => first = Some(result),
                PollEvent::Final
                | PollEvent::Terminal
                | PollEvent::NoUpdate
                | PollEvent::Unshareable => return Ok((result, true)),
            }
        }
        let until = request.arrived + Duration::from_secs(seconds);
        let wait = WaitOptions {
            min_final_seq: options.min_seq,
            min_seq,
            until,
            deadline: if first.is_some() {
                until
            } else {
                until.max(options.deadline)
            },
        };
        let poll = || {
            let (gateway, request) = (Arc::clone(self), Arc::clone(request));
            move || {
                let (gateway, request) = (Arc::clone(&gateway), Arc::clone(&request));
                async move { gateway.poll(&request).await }
            }
        };
        let key = (Arc::clone(&request.key), options.may_store);
        let drained = self.draining.cancelled();
        let long_polls = &self.context.long_polls;
        match (long_polls.wait(key, wait, drained, poll).await, first) {
            (Some(result), _) => Ok((JoinResult::Joined(result), true)),
            (None, Some(first)) => Ok((first, true)),
            (None, None) if self.draining.is_cancelled() => Err(GatewayError::Draining),
            (None, None) => Ok((self.fetch_coalesced(request, options).await, false)),
        }
    }

    /// Polls once, for all requests that wait.
    async fn poll(&self, request: &Arc<FetchRequest>) -> PollResult<FetchResult> {
        let next_seq = self.context.cache.next_seq();
        let options = FetchOptions {
            deadline: Instant::now() + request.config.timeout,
            min_seq: self.context.cache.min_valid_seq(request.cache_key()),
            may_store: request.options.may_store,
            force_fresh: false,
        };
        let result = self.fetch_coalesced(request, options).await;
        let event = long_poll::poll_event(&result);
        let result = match result {
            JoinResult::Led(result) | JoinResult::Joined(result) => result,
            JoinResult::TimedOut => FetchResult::failed(FetchError::DeadlineExceeded),
            // An unshareable response answers no request that waits: see `poll_event`.
            JoinResult::Abandoned | JoinResult::Unshareable(_) | JoinResult::FetchAlone => {
                FetchResult::failed(FetchError::TaskFailed)
            }
        };
        let (seq, poll_after) = match &result {
            FetchResult::Response(response) => (response.seq, response.poll_after),
            FetchResult::RateLimited(..) | FetchResult::Failed(_) => (next_seq, None),
        };
        PollResult {
            seq,
            event,
            result,
            interval: long_poll::next_interval(poll_after, next_seq),
        }
    }

    /// Answers a request that no rule answers, by the upstream's response.
    async fn forward_response(
        self: Arc<Self>,
        head: Parts,
        body: Incoming,
        request: ForwardRequest,
        mut log: RequestLog,
    ) -> Response<Body> {
        let config = Arc::clone(&request.config);
        let body = RequestBody::new(body, config.stream_idle_timeout);
        let progress = body.progress();
        let answered = tokio::select! {
            biased;
            answered = request.send(&self.context, &head, body, &mut log) => answered,
            () = self.closing.cancelled() => Err(GatewayError::Draining),
        };
        match answered {
            Ok(response) => {
                let status = response.status();
                self.log(&log, &config, &head, Outcome::Bypass, status);
                response
            }
            Err(error) => {
                let mut response = self.error_response(&config, &head, &error, &log);
                let is_unread = progress.is_some_and(|progress| !progress.is_complete());
                if is_unread && head.version < Version::HTTP_2 {
                    // The rest of the body must not be taken for the next request.
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                response
            }
        }
    }

    /// Returns the response of an error, and logs it.
    fn error_response(
        &self,
        config: &RuntimeConfig,
        head: &Parts,
        error: &GatewayError,
        log: &RequestLog,
    ) -> Response<Body> {
        let response = response::finish(error.response(), &head.method);
        let (metrics, status) = (&self.context.metrics, response.status());
        log.finish(metrics, config, head, error.outcome(), status, Some(error));
        response
    }

    /// Counts and logs a request that was answered.
    fn log(
        &self,
        log: &RequestLog,
        config: &RuntimeConfig,
        head: &Parts,
        outcome: Outcome,
        status: StatusCode,
    ) {
        log.finish(&self.context.metrics, config, head, outcome, status, None);
    }

    /// Returns how many requests wait because of `Prefer: wait`.
    fn long_polls(&self) -> usize {
        self.max_long_polls - self.long_poll_permits.available_permits()
    }

    /// Ends all long polls; new ones are answered at once.
    pub(crate) fn begin_drain(&self) {
        self.draining.cancel();
    }

    /// Answers every request that still waits for a fetch with an error.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }
}

/// Runs a fetch whose response cannot be shared.
async fn fetch_alone(
    mut fetch: UpstreamFetch,
    options: FetchOptions,
) -> JoinResult<FetchResult, StreamingResponse> {
    let run = async {
        if let Err(result) = fetch.admit().await {
            return JoinResult::Led(result);
        }
        match fetch.start(options).await.1 {
            Completion::Final(result) | Completion::Live(result) => JoinResult::Led(result),
            Completion::Unshareable(response) => JoinResult::Unshareable(response),
        }
    };
    let result = timeout_at(options.deadline, run).await;
    result.unwrap_or(JoinResult::TimedOut)
}

/// Turns the result of a fetch into a response.
fn build_response(
    result: JoinResult<FetchResult, StreamingResponse>,
    request: &FetchRequest,
    head: &Parts,
    log: &mut RequestLog,
) -> Result<(Response<Body>, Outcome), GatewayError> {
    let fwd_reason = request.fwd_reason;
    let collapsed = matches!(result, JoinResult::Joined(_));
    let failed = |error| Err(GatewayError::Fetch(Arc::new(error)));
    match result {
        JoinResult::Led(FetchResult::Response(fetched))
        | JoinResult::Joined(FetchResult::Response(fetched)) => {
            log.not_stored = fetched.stored.err();
            log.fetch_time = Some(fetched.fetch_time);
            let outcome = if collapsed {
                Outcome::Coalesced
            } else {
                Outcome::Miss
            };
            let response = response::from_fetch(fetched, fwd_reason, collapsed, head);
            Ok((response, outcome))
        }
        JoinResult::Led(FetchResult::RateLimited(fetched, until))
        | JoinResult::Joined(FetchResult::RateLimited(fetched, until)) => {
            let response = response::rate_limited(&fetched, until, head);
            Ok((response, Outcome::RateLimited))
        }
        JoinResult::Led(FetchResult::Failed(error))
        | JoinResult::Joined(FetchResult::Failed(error)) => Err(error),
        JoinResult::Unshareable(fetched) => {
            log.not_stored = Some(fetched.not_stored);
            log.fetch_time = Some(fetched.fetch_time);
            let response = response::streaming(fetched, fwd_reason, head);
            Ok((response, Outcome::Miss))
        }
        JoinResult::TimedOut => failed(FetchError::DeadlineExceeded),
        JoinResult::FetchAlone | JoinResult::Abandoned => failed(FetchError::TaskFailed),
    }
}
