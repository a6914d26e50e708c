//! Is the gateway without HTTP: it looks up, coalesces and waits as `stepgate::gateway` does, with the
//! library's own cache, coalescer, long polls and cacheability check.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use stepgate::cache::{Cache, Entry};
use stepgate::coalesce::{
    Coalescer, Completion, ConcurrencyLimit, Fetch, FetchOptions, Fetched, JoinResult, LongPolls,
    Permit, PollEvent, PollResult, WaitOptions,
};
use stepgate::config;
use stepgate::policy::{CacheKey, NoStoreReason, Partition, Rule, check};
use tokio::time::{Instant, sleep_until};

/// Is the response time of the upstream, as of the demo's sandbox.
pub(super) const LATENCY: Duration = Duration::from_millis(120);

/// Is the poll interval of a long-poll loop if the upstream names none.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

const IDS: [&str; 3] = ["thread_1", "run_1", "step_1"];
const LIVE: &[u8] = br#"{"id":"step_1","object":"thread.run.step","run_id":"run_1","thread_id":"thread_1","status":"in_progress"}"#;
pub(super) const DONE: &[u8] = br#"{"id":"step_1","object":"thread.run.step","run_id":"run_1","thread_id":"thread_1","status":"completed"}"#;

/// Is the upstream: one step that ends at its time.
pub(super) struct Origin {
    ends: Instant,
    starts: Mutex<Vec<Instant>>,
}

impl Origin {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self {
            ends: Instant::now() + lifetime,
            starts: Mutex::default(),
        }
    }

    /// Starts a fetch when it is called. The body is that of the moment when the upstream gets the
    /// request.
    pub(super) fn fetch(&self) -> impl Future<Output = &'static [u8]> + Send + use<> {
        let start = Instant::now();
        self.starts().push(start);
        let body = if start + LATENCY / 2 < self.ends {
            LIVE
        } else {
            DONE
        };
        async move {
            sleep_until(start + LATENCY).await;
            body
        }
    }

    /// Returns when each fetch started.
    pub(super) fn starts(&self) -> MutexGuard<'_, Vec<Instant>> {
        // After a panic the run is over and no figure is read.
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is what all waiters of a fetch receive.
#[derive(Clone, Copy)]
struct Response {
    seq: u64,
    started: Instant,
    is_final: bool,
}

pub(super) struct Gateway {
    pub(super) origin: Origin,
    rule: Rule,
    key: CacheKey,
    cache: Cache,
    limit: ConcurrencyLimit,
    coalescer: Coalescer<CacheKey, UpstreamFetch>,
    long_polls: LongPolls<CacheKey, Response>,
    timeout: Duration,
}

struct UpstreamFetch(Arc<Gateway>, Option<Permit>);

impl Fetch for UpstreamFetch {
    type Output = Response;
    type Stream = Infallible;

    async fn admit(&mut self) -> Result<(), Response> {
        let permit = self.0.limit.acquire().await;
        self.1 = Some(permit.expect("the fetches of one step do not use up the permits"));
        Ok(())
    }

    fn start(self, _: FetchOptions) -> impl Future<Output = Fetched<Self>> + Send + 'static {
        let Self(gateway, permit) = self;
        let ticket = gateway.cache.begin_fetch();
        let (seq, started) = (ticket.seq(), Instant::now());
        let fetch = gateway.origin.fetch();
        async move {
            let body = fetch.await;
            drop(permit);
            let result = check(
                &gateway.rule,
                &IDS,
                StatusCode::OK,
                &HeaderMap::new(),
                body,
                true,
            );
            let response = Response {
                seq,
                started,
                is_final: result.is_ok(),
            };
            if let Err(reason) = result {
                assert_eq!(reason, NoStoreReason::NotFinal);
                return (seq, Completion::Live(response));
            }
            let (entry, options) = (Entry::new(body, None), config::Cache::default());
            let stored =
                gateway
                    .cache
                    .store(&ticket, &gateway.key, entry, &options, Instant::now());
            assert!(matches!(stored, Ok(()) | Err(NoStoreReason::Superseded)));
            (seq, Completion::Final(response))
        }
    }
}

impl Gateway {
    pub(super) fn new(origin: Origin, window: Duration, max_in_flight: usize) -> Arc<Self> {
        let limits = config::Upstream::default();
        Arc::new(Self {
            origin,
            rule: Rule::run_step(),
            key: CacheKey::new(Partition::of(["traffic"]), "run-step", &IDS, ""),
            cache: Cache::new(config::Cache::default().max_bytes),
            limit: ConcurrencyLimit::new(max_in_flight, limits.queue_timeout),
            coalescer: Coalescer::new(window),
            long_polls: LongPolls::default(),
            timeout: limits.timeout,
        })
    }

    /// Serves one request, with `wait` a long poll; returns whether the step has ended.
    pub(super) async fn request(self: &Arc<Self>, wait: Option<Duration>) -> bool {
        let arrived = Instant::now();
        if self.cache.lookup(&self.key, arrived).is_some() {
            return true;
        }
        let response = match wait {
            Some(wait) => self.wait(arrived + wait).await,
            None => self.fetch().await,
        };
        let is_fresh = response.is_final || response.started >= arrived;
        assert!(is_fresh, "a live response is older than its request");
        response.is_final
    }

    async fn fetch(self: &Arc<Self>) -> Response {
        let options = FetchOptions {
            deadline: Instant::now() + self.timeout,
            min_seq: self.cache.min_valid_seq(&self.key),
            may_store: true,
            force_fresh: false,
        };
        let fetch = || UpstreamFetch(Arc::clone(self), None);
        match self.coalescer.fetch(self.key.clone(), options, fetch).await {
            JoinResult::Led(response) | JoinResult::Joined(response) => response,
            JoinResult::Unshareable(stream) => match stream {},
            // With a window of zero, every request fetches on its own.
            JoinResult::FetchAlone => {
                let mut fetch = fetch();
                let Ok(()) = fetch.admit().await else {
                    unreachable!("there are more permits than pollers");
                };
                match fetch.start(options).await.1 {
                    Completion::Final(response) | Completion::Live(response) => response,
                    Completion::Unshareable(stream) => match stream {},
                }
            }
            JoinResult::TimedOut | JoinResult::Abandoned => {
                unreachable!("this upstream always responds in time")
            }
        }
    }

    async fn wait(self: &Arc<Self>, until: Instant) -> Response {
        let options = WaitOptions {
            min_final_seq: self.cache.min_valid_seq(&self.key),
            min_seq: self.cache.next_seq(),
            until,
            deadline: until + self.timeout,
        };
        let poll_loop = || {
            let gateway = Arc::clone(self);
            move || {
                let gateway = Arc::clone(&gateway);
                async move { gateway.poll().await }
            }
        };
        let (key, never) = (self.key.clone(), std::future::pending());
        let response = self.long_polls.wait(key, options, never, poll_loop).await;
        response.expect("this upstream always responds in time")
    }

    /// Polls once for a loop. The next poll follows after a second, less up to a tenth.
    async fn poll(self: &Arc<Self>) -> PollResult<Response> {
        let hash = self.cache.next_seq().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        let early = POLL_INTERVAL / 10 * u32::try_from(hash).expect("eight bits") / 256;
        let result = self.fetch().await;
        let event = if result.is_final {
            PollEvent::Final
        } else {
            PollEvent::Live
        };
        PollResult {
            seq: result.seq,
            event,
            result,
            interval: POLL_INTERVAL - early,
        }
    }
}
