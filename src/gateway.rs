//! The story of a request: who asks, for what, is it stored, else ride with a fetch, and answer.
//!
#![doc = include_str!("gateway/http.md")]

mod answer;
mod durations;
mod fleet;
mod flight;
mod forwarding;
mod guard;
mod heading;
mod history;
mod line;
mod metrics;
mod news;
mod outcome;
mod pace;
mod refusal;
mod reload;
mod report;
mod ride;
mod setup;
mod status;
mod tally;
mod trace;
mod wall_clock;
mod wanted;
mod wish;

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use hyper::Request;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use answer::Answer;
pub use guard::Transport;
pub(crate) use guard::admit;
pub(crate) use heading::RequestHeaders;
pub(crate) use metrics::Counted;
pub use outcome::Outcome;
pub(crate) use refusal::GatewayError;
pub use reload::{Prepared, Reload};
pub use report::{Purge, PurgeError};

use crate::cache::redis::SharedTier;
use crate::cache::{Cache, CoalesceKey};
use crate::coalesce::{Coalescer, ConcurrencyLimit, LongPolls};
use crate::config::Config;
use crate::upstream::SetupError;
use answer::{Asked, Hit, Said};
use flight::Flight;
use forwarding::Journey;
use line::Told;
use metrics::Metrics;
use news::News;
use outcome::{Forward, Record};
use ride::Got;
use setup::Setup;
use wanted::Last;
use wish::Wish;

/// Whose requests come over one connection.
#[derive(Debug)]
pub struct ConnectionState {
    door: Transport,
    asked: Last,
    said: Said,
}

impl ConnectionState {
    /// Nothing was asked or said yet.
    pub fn new(door: Transport) -> Self {
        Self {
            door,
            asked: Last::default(),
            said: Said::default(),
        }
    }
}

/// How a request is answered.
pub enum Handled {
    /// At once: from memory, or with a refusal.
    Now(Answer),
    /// By a fetch.
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
    /// By the upstream, which reads the request's body.
    Through(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

/// What a look at the rules and at memory brought.
enum Found {
    Stored(Hit),
    Wanted(Wish),
    Through(Journey),
}

/// However few connections there may be, so many requests may wait for fetches.
const FEWEST_PASSENGERS: usize = 1000;

/// Forwarded requests at once: each may have a connection of its own, and some hundred KiB on their way.
pub(crate) const JOURNEYS: usize = 1024;

/// Everything that a request needs.
#[derive(Debug)]
pub struct Gateway {
    /// What the configuration in force means. A request takes it once, when it arrives, and so sees
    /// one configuration from start to end.
    setup: ArcSwap<Setup>,
    cache: Cache,
    book: Coalescer<Arc<CoalesceKey>, Flight>,
    /// By step, and by whether what they bring may be stored.
    patrols: LongPolls<(Arc<CoalesceKey>, bool), News>,
    /// Places for requests that are held by their wait preference.
    waiters: Arc<Semaphore>,
    max_long_polls: usize,
    /// Places for requests that want a fetch. HTTP/1.1 has as many as connections; over HTTP/2 one
    /// connection brings many, and each that waits costs memory.
    passengers: Semaphore,
    /// Places for what is forwarded, to the end of its answer.
    journeys: Arc<Semaphore>,
    draining: CancellationToken,
    closing: CancellationToken,
    metrics: Metrics,
    last_reload: Mutex<Option<Reload>>,
    started: Instant,
    max_bytes: u64,
}

impl Gateway {
    /// Prepares everything; connects to nothing.
    ///
    /// # Errors
    /// [`SetupError`] where the upstream's TLS cannot be prepared.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let upstream = &config.upstream;
        let berths = ConcurrencyLimit::new(upstream.max_in_flight, upstream.queue_timeout);
        let metrics = Metrics::new();
        metrics.secrets_loaded(wall_clock::seconds_since_1970());
        let max_long_polls = config.server.max_long_polls.min(Semaphore::MAX_PERMITS);
        let passengers = config.server.max_connections.max(FEWEST_PASSENGERS);
        let mut cache = Cache::new(config.cache.max_bytes);
        if let Some(redis) = &config.cache.redis {
            let tier = SharedTier::new(redis, metrics.shared.clone()).map_err(SetupError::Redis)?;
            cache = cache.shared_by(Arc::new(tier));
        }
        Ok(Self {
            setup: ArcSwap::from_pointee(Setup::new(config, &metrics, 0)?),
            cache,
            book: Coalescer::new(upstream.coalesce_window, berths),
            patrols: LongPolls::default(),
            waiters: Arc::new(Semaphore::new(max_long_polls)),
            max_long_polls,
            passengers: Semaphore::new(passengers.min(Semaphore::MAX_PERMITS)),
            journeys: Arc::new(Semaphore::new(JOURNEYS)),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            metrics,
            last_reload: Mutex::default(),
            started: Instant::now(),
            max_bytes: config.cache.max_bytes,
        })
    }

    /// Answers a request that came at `arrived`. Never fails: what goes wrong becomes an answer, a
    /// metric and a log line.
    pub fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        caller: &mut ConnectionState,
        arrived: Instant,
    ) -> Handled {
        let setup = self.setup.load();
        // The body, if there is one, is nobody's, but of what is forwarded: dropped unread, it ends the
        // connection.
        let (head, body) = request.into_parts();
        let mut record = Record::default();
        match self.look_up(&setup, &head, caller, arrived, &mut record) {
            Ok(Found::Stored(hit)) => {
                let told = Told::of(Outcome::Hit, hit.status(), arrived);
                self.note(&setup, &head, &record, &told);
                Handled::Now(hit.answer(head, &mut caller.said))
            }
            Ok(Found::Wanted(wish)) => {
                let fetched = Arc::clone(self).fetch(head, wish, record);
                Handled::Later(Box::pin(fetched))
            }
            Ok(Found::Through(journey)) => {
                let forwarded = Arc::clone(self).forward(head, body, journey, record);
                Handled::Through(Box::pin(forwarded))
            }
            Err(refusal) => Handled::Now(self.refuse(&setup, &head, &refusal, arrived, &record)),
        }
    }

    /// All that needs no waiting: who asks, for what, and whether it is stored.
    fn look_up(
        &self,
        setup: &Arc<Setup>,
        head: &Parts,
        caller: &mut ConnectionState,
        arrived: Instant,
        record: &mut Record,
    ) -> Result<Found, GatewayError> {
        let heading = RequestHeaders::of(&head.headers);
        setup.knows(caller.door)?;
        admit(head, &heading, caller.door, setup.open_to())?;
        let account = setup.authorise(&head.headers)?;
        record.client.clone_from(&account.name);
        let wanted = match caller.asked.read(setup, head, account, record) {
            Err(GatewayError::RouteNotFound | GatewayError::MethodNotAllowed)
                if Self::lets_through(setup, head) =>
            {
                record.rule = None;
                let journey = self.journey(setup, account, head, arrived)?;
                return Ok(Found::Through(journey));
            }
            wanted => wanted?,
        };
        let conditions = heading.conditions();

        let mut forward = Forward::UriMiss;
        if conditions.no_cache {
            forward = Forward::Request;
        } else if let Some(found) = self.cache.lookup(wanted.key(), arrived) {
            if conditions.accepts_age(found.age().as_secs()) {
                return Ok(Found::Stored(Hit::new(found, &heading)));
            }
            forward = Forward::Request;
        }
        if conditions.only_if_cached {
            return Err(GatewayError::NotCached);
        }
        let errand = wanted.errand(head, setup, account);
        let wish = self.wish(errand, forward, conditions, &heading, arrived);
        Ok(Found::Wanted(wish))
    }

    /// Answers by a fetch, or says why there is none.
    #[expect(
        clippy::manual_async_fn,
        reason = "async functions hold their arguments twice"
    )]
    fn fetch(
        self: Arc<Self>,
        head: Parts,
        wish: Wish,
        mut record: Record,
    ) -> impl Future<Output = Answer> + Send {
        async move {
            if let Some(hit) = self.ask_the_fleet(&wish, &head).await {
                let told = Told::of(Outcome::SharedHit, hit.status(), wish.arrived);
                self.note(&wish.errand.setup, &head, &record, &told);
                return hit.answer(head, &mut Said::default());
            }
            let response = tokio::select! {
                biased;
                response = self.respond(&wish, &head, &mut record) => response,
                () = self.closing.cancelled() => Err(GatewayError::Draining),
            };
            let setup = &wish.errand.setup;
            match response {
                Ok((answer, outcome)) => {
                    let told = Told::of(outcome, answer.status(), wish.arrived);
                    self.note(setup, &head, &record, &told);
                    answer
                }
                Err(refusal) => self.refuse(setup, &head, &refusal, wish.arrived, &record),
            }
        }
    }

    async fn respond(
        self: &Arc<Self>,
        wish: &Wish,
        head: &Parts,
        record: &mut Record,
    ) -> Result<(Answer, Outcome), GatewayError> {
        let (errand, seat) = (&wish.errand, wish.seat);
        let (got, waited) = match &wish.wait {
            Some((seconds, _)) => {
                // In a box, as all that is rare: a fetch is as large as what it may hold.
                let wait = Box::pin(self.await_end(errand, seat, wish.arrived, *seconds));
                let (got, waited) = wait.await?;
                (got, waited.then_some(*seconds))
            }
            None => {
                let place = self.passengers.try_acquire();
                let _place = place.map_err(|_| GatewayError::Overloaded)?;
                (self.ride(errand, seat).await, None)
            }
        };
        let asked = Asked {
            method: &head.method,
            headers: &head.headers,
        };
        let (mut answer, outcome) = self.tell(got, wish.forward, asked, record)?;
        if let Some(seconds) = waited {
            answer::say_waited(&mut answer, seconds);
            return Ok((answer, Outcome::LongPoll));
        }
        Ok((answer, outcome))
    }

    /// Says no, and notes why.
    fn refuse(
        &self,
        setup: &Setup,
        head: &Parts,
        refusal: &GatewayError,
        arrived: Instant,
        record: &Record,
    ) -> Answer {
        let answer = answer::finish(refusal.answer(), &head.method);
        let told = Told {
            outcome: refusal.outcome(),
            status: answer.status(),
            refusal: Some(refusal),
            took: arrived.elapsed(),
        };
        self.note(setup, head, record, &told);
        answer
    }

    fn tell(
        &self,
        got: Got,
        forward: Forward,
        asked: Asked<'_>,
        record: &mut Record,
    ) -> Result<(Answer, Outcome), GatewayError> {
        match got {
            Got::News {
                news: News::Arrived(arrived),
                joined,
            } => {
                record.not_stored = arrived.stored.err();
                record.fetch = Some(arrived.took);
                let outcome = if joined {
                    Outcome::Coalesced
                } else {
                    Outcome::Miss
                };
                Ok((answer::arrived(arrived, forward, joined, asked), outcome))
            }
            Got::News {
                news: News::Held(said, until),
                ..
            } => Ok((answer::held(&said, until, asked), Outcome::RateLimited)),
            Got::News {
                news: News::Failed(error),
                ..
            } => Err(GatewayError::Fetch(error)),
            Got::News {
                news: News::Overloaded,
                ..
            } => Err(GatewayError::Overloaded),
            Got::Larger(larger) => {
                record.not_stored = Some(larger.stored);
                record.fetch = Some(larger.took);
                Ok((answer::larger(larger, forward, asked), Outcome::Miss))
            }
        }
    }

    /// From now on nobody is made to wait for a step to end.
    pub(crate) fn begin_drain(&self) {
        self.draining.cancel();
    }

    /// From now on nobody is made to wait for anything.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }
}
