//! A gateway without its HTTP: looks up, rides, waits as `stepgate::gateway` does, with the
//! library's own cache, book, patrols and verdict.

use std::convert::Infallible;
use std::sync::Arc;
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
use tokio::time::Instant;

use super::origin::{IDS, Origin};

/// The gateway's pace where the upstream does not say.
const PACE: Duration = Duration::from_secs(1);

/// What all passengers of a flight hear.
#[derive(Clone, Copy)]
pub(super) struct News {
    number: u64,
    departed: Instant,
    is_final: bool,
}

pub(super) struct Gate {
    origin: Arc<Origin>,
    rule: Rule,
    key: CacheKey,
    cache: Cache,
    limit: ConcurrencyLimit,
    book: Coalescer<CacheKey, Trip>,
    patrols: LongPolls<CacheKey, News>,
    timeout: Duration,
}

pub(super) struct Trip(Arc<Gate>, Option<Permit>);

impl Fetch for Trip {
    type Output = News;
    type Stream = Infallible;

    async fn admit(&mut self) -> Result<(), News> {
        let permit = self.0.limit.acquire().await;
        self.1 = Some(permit.expect("one resource does not use all permits"));
        Ok(())
    }

    fn start(self, _: FetchOptions) -> impl Future<Output = Fetched<Self>> + Send + 'static {
        let Self(gate, permit) = self;
        let departure = gate.cache.begin_fetch();
        let number = departure.seq();
        let departed = Instant::now();
        let flight = gate.origin.fetch();
        async move {
            let body = flight.await;
            drop(permit);
            let headers = HeaderMap::new();
            let verdict = check(&gate.rule, &IDS, StatusCode::OK, &headers, body, true);
            let news = News {
                number,
                departed,
                is_final: verdict.is_ok(),
            };
            if let Err(reason) = verdict {
                assert_eq!(reason, NoStoreReason::NotFinal);
                return (number, Completion::Live(news));
            }
            let entry = Entry::new(body, None);
            let (now, terms) = (Instant::now(), config::Cache::default());
            let stored = gate.cache.store(&departure, &gate.key, entry, &terms, now);
            assert!(matches!(stored, Ok(()) | Err(NoStoreReason::Superseded)));
            (number, Completion::Final(news))
        }
    }
}

impl Gate {
    /// Keeps final bodies, and shares nothing else.
    pub(super) fn cache_alone(origin: &Arc<Origin>) -> Arc<Self> {
        // ConcurrencyLimit without number: it is the cache that is to be measured.
        Self::new(origin, Duration::ZERO, usize::MAX)
    }

    /// With the default limits.
    pub(super) fn with_departures(origin: &Arc<Origin>) -> Arc<Self> {
        let limits = config::Upstream::default();
        Self::new(origin, limits.coalesce_window, limits.max_in_flight)
    }

    fn new(origin: &Arc<Origin>, window: Duration, berths: usize) -> Arc<Self> {
        let limits = config::Upstream::default();
        Arc::new(Self {
            origin: Arc::clone(origin),
            rule: Rule::run_step(),
            key: CacheKey::new(Partition::of(["traffic"]), "run-step", &IDS, ""),
            cache: Cache::new(config::Cache::default().max_bytes),
            limit: ConcurrencyLimit::new(berths, limits.queue_timeout),
            book: Coalescer::new(window),
            patrols: LongPolls::default(),
            timeout: limits.timeout,
        })
    }

    /// One poll, or with `wait` one request that waits for the end. Whether the step has ended.
    pub(super) async fn ask(self: &Arc<Self>, wait: Option<Duration>) -> bool {
        let arrived = Instant::now();
        if self.cache.lookup(&self.key, arrived).is_some() {
            return true;
        }
        let news = match wait {
            Some(wait) => self.await_end(arrived + wait).await,
            None => self.ride().await,
        };
        let fresh = news.is_final || news.departed >= arrived;
        assert!(fresh, "no live answer is older than its question");
        news.is_final
    }

    async fn ride(self: &Arc<Self>) -> News {
        let seat = FetchOptions {
            deadline: Instant::now() + self.timeout,
            min_seq: self.cache.min_valid_seq(&self.key),
            may_store: true,
            force_fresh: false,
        };
        let trip = || Trip(Arc::clone(self), None);
        match self.book.fetch(self.key.clone(), seat, trip).await {
            JoinResult::Led(news) | JoinResult::Joined(news) => news,
            JoinResult::Unshareable(own) => match own {},
            JoinResult::FetchAlone => {
                let mut trip = trip();
                let Ok(()) = trip.admit().await else {
                    unreachable!("there are more permits than pollers");
                };
                match trip.start(seat).await.1 {
                    Completion::Final(news) | Completion::Live(news) => news,
                    Completion::Unshareable(own) => match own {},
                }
            }
            JoinResult::TimedOut | JoinResult::Abandoned => {
                unreachable!("this upstream always answers in time")
            }
        }
    }

    async fn await_end(self: &Arc<Self>, until: Instant) -> News {
        let terms = WaitOptions {
            min_final_seq: self.cache.min_valid_seq(&self.key),
            min_seq: self.cache.next_seq(),
            until,
            deadline: until + self.timeout,
        };
        let poll = || {
            let gate = Arc::clone(self);
            move || {
                let gate = Arc::clone(&gate);
                async move { gate.report().await }
            }
        };
        let key = self.key.clone();
        let never = std::future::pending();
        let news = self.patrols.wait(key, terms, never, poll).await;
        news.expect("this upstream always answers in time")
    }

    /// One poll of a patrol; the next follows after a second, up to a tenth earlier.
    async fn report(self: &Arc<Self>) -> PollResult<News> {
        let mark = self.cache.next_seq();
        let hash = mark.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        let early = PACE / 10 * u32::try_from(hash).expect("eight bits") / 256;
        let news = self.ride().await;
        let heard = if news.is_final {
            PollEvent::Final
        } else {
            PollEvent::Live
        };
        PollResult {
            seq: news.number,
            event: heard,
            result: news,
            interval: PACE - early,
        }
    }
}
