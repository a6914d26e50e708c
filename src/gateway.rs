//! The story of a request: who asks, for what, is it stored, else ride with a fetch, and answer.

mod answer;
mod flight;
mod guard;
mod metrics;
mod news;
mod outcome;
mod pace;
mod refusal;
mod report;
mod ride;
mod setup;
mod wall_clock;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use answer::Answer;
pub use guard::Door;
pub(crate) use guard::admit;
pub(crate) use metrics::Counted;
pub use outcome::Outcome;
pub(crate) use refusal::Refusal;
pub use report::PurgeError;

use crate::cache::Cache;
use crate::config::{Access, Config};
use crate::fetch::{Berths, Book, Holds, Patrols, Seat};
use crate::step::rule::API_PREFIX;
use crate::step::{Conditions, Key, Partition, Query, Route, wait_preference};
use crate::upstream::SetupError;
use answer::Asked;
use flight::Flight;
use metrics::Metrics;
use news::{Arrived, Errand, News};
use outcome::{Forward, Record};
use ride::Got;
use setup::{Account, Setup};

/// Path and query, as they go up, in bytes. Beside it a target of 64 KiB, the longest that the `http`
/// crate takes, has room for what the configuration may add.
const LONGEST_TARGET: usize = 32 * 1024;

/// Everything that a request needs.
#[derive(Debug)]
pub struct Gateway {
    setup: Setup,
    cache: Cache,
    book: Book<Key, Flight>,
    holds: Holds<Partition, Arc<Arrived>>,
    /// By step, and by whether what they bring may be stored.
    patrols: Patrols<(Key, bool), News>,
    /// Places for requests that are held by their wait preference.
    waiters: Arc<Semaphore>,
    max_waiters: usize,
    draining: CancellationToken,
    closing: CancellationToken,
    metrics: Metrics,
    access: Access,
    started: Instant,
    max_bytes: u64,
}

/// What a request asks for.
#[derive(Debug)]
struct Wanted<'p> {
    rule: usize,
    ids: Vec<&'p str>,
    is_list: bool,
    query: Query,
    key: Key,
}

impl Wanted<'_> {
    /// What a fetch needs to know of it, to go its own way.
    fn errand(self, head: &Parts, account: &Account) -> Errand {
        Errand {
            rule: self.rule,
            ids: (!self.is_list).then(|| self.ids.into_iter().map(Box::from).collect()),
            partition: account.partition,
            client: account.name.clone(),
            key: self.key,
            storable: self.query.is_known(),
            path: head.uri.path()[API_PREFIX.len()..].into(),
            query: self.query.as_str().into(),
            headers: account.injection.upward(&head.headers),
        }
    }
}

impl Gateway {
    /// Prepares everything; connects to nothing.
    ///
    /// # Errors
    /// [`SetupError`] where the upstream's TLS cannot be prepared.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let upstream = &config.upstream;
        let berths = Berths::new(upstream.max_in_flight, upstream.queue_timeout);
        let max_waiters = config.server.max_waiters.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            setup: Setup::new(config)?,
            cache: Cache::new(&config.cache),
            book: Book::new(upstream.coalesce_window, berths),
            holds: Holds::default(),
            patrols: Patrols::default(),
            waiters: Arc::new(Semaphore::new(max_waiters)),
            max_waiters,
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            metrics: Metrics::new(&config.rules),
            access: config.log.access,
            started: Instant::now(),
            max_bytes: config.cache.max_bytes,
        })
    }

    /// Answers a request. Never fails: what goes wrong becomes an answer, a metric and a log line.
    pub async fn answer(self: &Arc<Self>, request: Request<Incoming>, door: Door) -> Answer {
        let arrived = Instant::now();
        // The body, if there is one, is nobody's: dropped unread, it ends the connection.
        let (head, _) = request.into_parts();
        let mut record = Record::default();
        let response = tokio::select! {
            biased;
            response = self.respond(&head, door, arrived, &mut record) => response,
            () = self.closing.cancelled() => Err(Refusal::Draining),
        };
        match response {
            Ok((answer, outcome)) => {
                self.note(&head, &record, outcome, answer.status(), arrived, None);
                answer
            }
            Err(refusal) => {
                let answer = answer::finish(refusal.answer(), &head.method);
                let outcome = refusal.outcome();
                self.note(
                    &head,
                    &record,
                    outcome,
                    answer.status(),
                    arrived,
                    Some(&refusal),
                );
                answer
            }
        }
    }

    async fn respond(
        self: &Arc<Self>,
        head: &Parts,
        door: Door,
        arrived: Instant,
        record: &mut Record,
    ) -> Result<(Answer, Outcome), Refusal> {
        admit(head, door, self.setup.open_to())?;
        let account = self.setup.authorise(&head.headers)?;
        record.client.clone_from(&account.name);
        let wanted = self.wanted(head, account, record)?;
        let conditions = Conditions::of(&head.headers);
        let asked = Asked {
            method: &head.method,
            headers: &head.headers,
        };

        let mut forward = Forward::UriMiss;
        if conditions.no_cache {
            forward = Forward::Request;
        } else if let Some(found) = self.cache.look_up(&wanted.key, arrived) {
            let entry = found.entry();
            if conditions.accept_age(entry.age(arrived).as_secs()) {
                return Ok((answer::hit(entry, asked, arrived), Outcome::Hit));
            }
            forward = Forward::Request;
        }
        if conditions.only_if_cached {
            return Err(Refusal::NotCached);
        }

        let seat = self.seat(&wanted.key, forward, conditions, arrived);
        let errand = wanted.errand(head, account);
        let wait = self.wait(&errand, head);
        let (got, waited) = match &wait {
            Some((seconds, _)) => self.await_end(&errand, seat, arrived, *seconds).await?,
            None => (self.ride(&errand, seat).await, false),
        };
        let (mut answer, outcome) = self.tell(got, forward, asked, record)?;
        if let Some((seconds, _)) = wait.filter(|_| waited) {
            answer::say_waited(&mut answer, seconds);
            return Ok((answer, Outcome::Waited));
        }
        Ok((answer, outcome))
    }

    /// How many seconds a request is to be held, and its place among those that are. Where all are
    /// taken it is answered as if it had not asked.
    fn wait(&self, errand: &Errand, head: &Parts) -> Option<(u64, OwnedSemaphorePermit)> {
        let seconds = wait_preference(&head.headers).filter(|_| errand.ids.is_some())?;
        let place = Arc::clone(&self.waiters).try_acquire_owned().ok()?;
        Some((seconds, place))
    }

    /// Reads path and query; the key is made of what the caller sent, before anything is rewritten.
    fn wanted<'p>(
        &self,
        head: &'p Parts,
        account: &Account,
        record: &mut Record,
    ) -> Result<Wanted<'p>, Refusal> {
        let ours = &self.setup.upstream_query;
        let raw = head.uri.query();
        let (rule, ids, query, is_list) = match Route::of(&self.setup.rules, head.uri.path()) {
            Route::Resource { rule, ids } => {
                let query = Query::of_resource(&self.setup.rules[rule], raw, ours);
                (rule, ids, query, false)
            }
            Route::List { rule, ids } => (rule, ids, Query::of_list(raw, ours), true),
            Route::Invalid(why) => return Err(Refusal::InvalidPath(why)),
            Route::Other if head.method == Method::CONNECT => {
                return Err(Refusal::MethodNotAllowed);
            }
            Route::Other => return Err(Refusal::RouteNotFound),
        };
        record.rule = Some(rule);
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Err(Refusal::MethodNotAllowed);
        }
        if head.uri.path().len() + query.as_str().len() > LONGEST_TARGET {
            return Err(Refusal::InvalidRequest(
                "The path and the query are too long.",
            ));
        }
        let name = self.setup.rules[rule].name();
        let variant = Self::variant(&query, head, account);
        let key = if is_list {
            Key::of_list(account.partition, name, &ids, &variant)
        } else {
            Key::new(account.partition, name, &ids, &variant)
        };
        Ok(Wanted {
            rule,
            ids,
            is_list,
            query,
            key,
        })
    }

    /// Query and forwarded headers, as they go up: all that can change the body of one path. An
    /// unknown query is kept apart from a canonical one of the same spelling.
    fn variant(query: &Query, head: &Parts, account: &Account) -> String {
        let mut variant = if query.is_known() {
            String::new()
        } else {
            "?".to_owned()
        };
        variant.push_str(query.as_str());
        for (name, value) in account.injection.keyed(&head.headers) {
            variant.push('\n');
            variant.push_str(name.as_str());
            variant.push('=');
            // A character for each byte, so that no two values are spelled alike.
            variant.extend(value.as_bytes().iter().map(|byte| char::from(*byte)));
        }
        variant
    }

    /// The terms on which a request rides: nothing from before a purge, and nothing from before
    /// itself if it insists on a fresh answer.
    fn seat(&self, key: &Key, forward: Forward, conditions: Conditions, arrived: Instant) -> Seat {
        let fresh = forward == Forward::Request;
        Seat {
            deadline: arrived + self.setup.timeout,
            after: if fresh {
                self.cache.next_number()
            } else {
                self.cache.believable(key)
            },
            store: !conditions.no_store,
            fresh,
        }
    }

    fn tell(
        &self,
        got: Got,
        forward: Forward,
        asked: Asked<'_>,
        record: &mut Record,
    ) -> Result<(Answer, Outcome), Refusal> {
        match got {
            Got::News {
                news: News::Arrived(arrived),
                joined,
            } => {
                record.not_stored = arrived.stored.err();
                record.fetch = Some(arrived.took);
                let outcome = if joined {
                    Outcome::Joined
                } else {
                    Outcome::Fetched
                };
                Ok((answer::arrived(&arrived, forward, joined, asked), outcome))
            }
            Got::News {
                news: News::Held(said, until),
                ..
            } => Ok((answer::held(&said, until, asked), Outcome::Held)),
            Got::News {
                news: News::Failed(error),
                ..
            } => Err(Refusal::Fetch(error)),
            Got::News {
                news: News::Overloaded,
                ..
            } => Err(Refusal::Overloaded),
            Got::Larger(larger) => {
                record.not_stored = Some(larger.stored);
                record.fetch = Some(larger.took);
                Ok((answer::larger(larger, forward, asked), Outcome::Fetched))
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
