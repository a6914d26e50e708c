//! The story of a request: who asks, for what, is it stored, else fetch, judge, store, answer.

mod answer;
mod guard;
mod metrics;
mod outcome;
mod refusal;
mod report;
mod setup;

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use tokio::time::Instant;

pub use answer::Answer;
pub use guard::Door;
pub(crate) use guard::admit;
pub(crate) use metrics::Counted;
pub use outcome::Outcome;
pub(crate) use refusal::Refusal;

use crate::cache::{Cache, Departure, Entry};
use crate::config::{Access, Config};
use crate::step::{Conditions, Key, NotStored, Query, Route, judge};
use crate::upstream::{Call, FetchError, Gathered, Landed, SetupError, clean_answer};
use answer::Asked;
use metrics::{Class, Metrics};
use outcome::{Forward, Record};
use setup::{Account, Setup};

/// Everything that a request needs.
#[derive(Debug)]
pub struct Gateway {
    setup: Setup,
    cache: Cache,
    metrics: Metrics,
    access: Access,
    started: Instant,
    max_bytes: u64,
}

/// What a request asks the upstream for.
#[derive(Debug)]
struct Wanted<'p> {
    rule: usize,
    ids: Vec<&'p str>,
    query: Query,
    /// Lists have none: they are never stored.
    key: Option<Key>,
}

impl Gateway {
    /// Prepares everything; connects to nothing.
    ///
    /// # Errors
    /// [`SetupError`] where the upstream's TLS cannot be prepared.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        Ok(Self {
            setup: Setup::new(config)?,
            cache: Cache::new(&config.cache),
            metrics: Metrics::new(&config.rules),
            access: config.log.access,
            started: Instant::now(),
            max_bytes: config.cache.max_bytes,
        })
    }

    /// Answers a request. Never fails: what goes wrong becomes an answer, a metric and a log line.
    pub async fn answer(&self, request: Request<Incoming>, door: Door) -> Answer {
        let arrived = Instant::now();
        // The body, if there is one, is nobody's: dropped unread, it ends the connection.
        let (head, _) = request.into_parts();
        let mut record = Record::default();
        match self.respond(&head, door, arrived, &mut record).await {
            Ok(answer) => {
                let outcome = if record.hit {
                    Outcome::Hit
                } else {
                    Outcome::Fetched
                };
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
        &self,
        head: &Parts,
        door: Door,
        arrived: Instant,
        record: &mut Record,
    ) -> Result<Answer, Refusal> {
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
        } else if let Some(found) = wanted
            .key
            .as_ref()
            .and_then(|key| self.cache.look_up(key, arrived))
        {
            let entry = found.entry();
            if conditions.accept_age(entry.age(arrived).as_secs()) {
                record.hit = true;
                return Ok(answer::hit(entry, asked, arrived));
            }
            forward = Forward::Request;
        }
        if conditions.only_if_cached {
            return Err(Refusal::NotCached);
        }

        let (departure, mut landed) = self.fly(&wanted, account, head, arrived, record).await?;
        let verdict = self.verdict(&wanted, &landed);
        clean_answer(&mut landed.headers, &self.setup.redactor);
        self.refuse_echo(&landed)?;
        let stored = match verdict {
            Ok(()) if conditions.no_store => Err(NotStored::RequestNoStore),
            Ok(()) => self.store(&departure, &wanted, &landed),
            Err(reason) => Err(reason),
        };
        if forward == Forward::Request {
            self.withdraw(&departure, &wanted, landed.status, verdict);
        }
        if let Err(reason) = stored {
            record.not_stored = Some(reason);
            self.metrics.not_stored(reason);
        }
        let Landed {
            status,
            headers,
            body,
        } = landed;
        Ok(answer::fetched(
            status, headers, body, forward, stored, asked,
        ))
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
        let wanted = match Route::of(&self.setup.rules, head.uri.path()) {
            Route::Resource { rule, ids } => {
                let about = &self.setup.rules[rule];
                let query = Query::of_resource(about, raw, ours);
                let key = query.is_known().then(|| {
                    let variant = self.variant(&query, head);
                    Key::new(account.partition, about.name(), &ids, &variant)
                });
                Wanted {
                    rule,
                    ids,
                    query,
                    key,
                }
            }
            Route::List { rule, ids } => Wanted {
                rule,
                ids,
                query: Query::of_list(raw, ours),
                key: None,
            },
            Route::Invalid(why) => return Err(Refusal::InvalidPath(why)),
            Route::Other if head.method == Method::CONNECT => {
                return Err(Refusal::MethodNotAllowed);
            }
            Route::Other => return Err(Refusal::RouteNotFound),
        };
        record.rule = Some(wanted.rule);
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Err(Refusal::MethodNotAllowed);
        }
        Ok(wanted)
    }

    /// Canonical query and forwarded headers: all that can change the body of one path.
    fn variant(&self, query: &Query, head: &Parts) -> String {
        let mut variant = query.as_str().to_owned();
        for name in &self.setup.forward_headers {
            for value in head.headers.get_all(name) {
                variant.push('\n');
                variant.push_str(name.as_str());
                variant.push('=');
                variant.push_str(&String::from_utf8_lossy(value.as_bytes()));
            }
        }
        variant
    }

    /// Waits for a place, departs, and brings back what the upstream says.
    async fn fly(
        &self,
        wanted: &Wanted<'_>,
        account: &Account,
        head: &Parts,
        arrived: Instant,
        record: &mut Record,
    ) -> Result<(Departure, Landed), Refusal> {
        let deadline = arrived + self.setup.timeout;
        let berth = self
            .setup
            .berths
            .take(deadline)
            .await
            .map_err(|_| Refusal::Overloaded)?;
        let departure = self.cache.depart();
        let departed = Instant::now();
        let call = Call {
            path: &head.uri.path()[crate::step::rule::API_PREFIX.len()..],
            query: wanted.query.as_str(),
            caller: &head.headers,
            injection: &account.injection,
            deadline,
        };
        let landed = self.setup.upstream.fetch(&call, self.setup.held).await;
        let took = departed.elapsed();
        drop(berth);
        record.fetch = Some(took);
        let class = landed
            .as_ref()
            .map_or(Class::Error, |landed| Class::Status(landed.status));
        self.metrics.fetched(wanted.rule, class, took);
        Ok((departure, landed?))
    }

    fn verdict(&self, wanted: &Wanted<'_>, landed: &Landed) -> Result<(), NotStored> {
        if wanted.ids.len() != self.setup.rules[wanted.rule].path().parameters().count() {
            return Err(NotStored::List);
        }
        if landed.status != StatusCode::OK {
            return Err(NotStored::BadStatus);
        }
        let Gathered::Whole(body) = &landed.body else {
            return Err(NotStored::TooLarge);
        };
        let rule = &self.setup.rules[wanted.rule];
        let honor = self.setup.honor_no_store;
        judge(
            rule,
            &wanted.ids,
            landed.status,
            &landed.headers,
            body,
            honor,
        )
    }

    /// An error body in which the upstream echoes an injected secret goes no further.
    fn refuse_echo(&self, landed: &Landed) -> Result<(), Refusal> {
        if landed.status.is_success() {
            return Ok(());
        }
        let echoes = match &landed.body {
            Gathered::Whole(body) => self.setup.redactor.finds_in(body),
            Gathered::Larger(passage) => {
                let front: Vec<u8> = passage.front().flatten().copied().collect();
                self.setup.redactor.finds_in(&front)
            }
        };
        if echoes {
            Err(FetchError::EchoedSecret.into())
        } else {
            Ok(())
        }
    }

    fn store(
        &self,
        departure: &Departure,
        wanted: &Wanted<'_>,
        landed: &Landed,
    ) -> Result<(), NotStored> {
        let Some(key) = &wanted.key else {
            return Err(NotStored::UnknownQuery);
        };
        let Gathered::Whole(body) = &landed.body else {
            return Err(NotStored::TooLarge);
        };
        if body.len() > self.setup.stored {
            return Err(NotStored::TooLarge);
        }
        let content_type = landed.headers.get(hyper::header::CONTENT_TYPE).cloned();
        self.cache.store(
            departure,
            key,
            Entry::new(body, content_type),
            Instant::now(),
        )
    }

    /// A caller that insisted on a fresh answer may have found that a stored body is no longer true.
    fn withdraw(
        &self,
        departure: &Departure,
        wanted: &Wanted<'_>,
        status: StatusCode,
        verdict: Result<(), NotStored>,
    ) {
        let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        let live = status == StatusCode::OK && verdict.is_err();
        let Some(key) = wanted.key.as_ref().filter(|_| gone || live) else {
            return;
        };
        if self.cache.withdraw(departure, key) && verdict == Err(NotStored::NotFinal) {
            self.metrics.regressed(wanted.rule);
            tracing::warn!(
                rule = self.setup.rules[wanted.rule].name(),
                "a step that was final is live again: removed"
            );
        }
    }
}
