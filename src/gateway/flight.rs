//! One fetch, from its clearance to its news: fetch, judge, clean, store.
//!
//! It is done once for all passengers, and owns all that it needs: it may outlive whoever caused it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use tokio::time::Instant;

use super::line::Ended;
use super::metrics::{Class, RuleCounters};
use super::news::{Arrived, Errand, Larger, News};
use super::pace::{poll_after, retry_after};
use super::tally::Tally;
use super::{Gateway, wall_clock};
use crate::cache::shared::{Token, Write};
use crate::cache::{Departure, Entry, etag_of};
use crate::fetch::{Berth, Clearance, Fetch, Flown, Landed, Manifest, Probe};
use crate::step::{NotStored, Partition, Rule, judge};
use crate::upstream::{Call, FetchError, Fetched, Gathered, Redactor, clean_answer};

type Brought = Landed<News, Larger>;

/// An errand with what it takes to run it.
#[derive(Debug)]
pub(super) struct Flight {
    gateway: Arc<Gateway>,
    errand: Arc<Errand>,
    /// Held until it has landed, where it goes first after a hold.
    probe: Option<Probe<Partition, Arc<Arrived>>>,
}

impl Flight {
    pub(super) fn new(gateway: &Arc<Gateway>, errand: Arc<Errand>) -> Self {
        Self {
            gateway: Arc::clone(gateway),
            errand,
            probe: None,
        }
    }
}

impl Fetch for Flight {
    type Shared = News;
    type Own = Larger;

    async fn clearance(&mut self) -> Option<News> {
        match self
            .errand
            .setup
            .holds
            .clearance(&self.errand.account.partition)
            .await
        {
            Clearance::Go => None,
            Clearance::First(probe) => {
                self.probe = Some(probe);
                None
            }
            Clearance::Held(said, until) => Some(News::Held(said, until)),
        }
    }

    fn recalled(&self) -> Option<News> {
        let holds = &self.errand.setup.holds;
        let held = holds.held(&self.errand.account.partition);
        held.map(|(said, until)| News::Held(said, until))
    }

    fn no_berth(self) -> News {
        News::Overloaded
    }

    fn depart(
        self,
        manifest: Manifest,
        berth: Berth,
    ) -> impl Future<Output = Flown<Self>> + Send + 'static {
        let departure = self.gateway.cache.depart();
        // In this order: a reload first puts its configuration in force and then raises its wall, so
        // what finds its own still in force has a number from before that wall.
        // Read before it departs: what is written with it is refused if a purge came between.
        let token = self.gateway.cache.token(&self.errand.shared);
        let outdated = self.gateway.setup.load().number != self.errand.setup.number;
        let departed = Departed {
            departure,
            manifest,
            outdated,
            token,
        };
        self.fly(departed, berth)
    }
}

/// The moment of a departure.
#[derive(Debug)]
struct Departed {
    departure: Departure,
    manifest: Manifest,
    /// Another configuration was in force by then: what it brings is for those who came under its
    /// own, and stays out of the cache.
    outdated: bool,
    /// With which its body may be written to the shared tier.
    token: Option<Token>,
}

impl Flight {
    fn counters(&self) -> &RuleCounters {
        self.errand.setup.counters(Some(self.errand.rule))
    }

    fn rule(&self) -> &Rule {
        self.errand.rule()
    }

    #[expect(
        clippy::manual_async_fn,
        reason = "async functions hold their arguments twice"
    )]
    fn fly(mut self, departed: Departed, berth: Berth) -> impl Future<Output = Flown<Self>> + Send {
        async move {
            let setup = &*self.errand.setup;
            let deadline = departed.manifest.deadline;
            let tally = Tally::new(Some(deadline), |class, left, took| {
                if let Some(left) = left {
                    self.errand.note(&left, took);
                }
                self.gateway.metrics.fetched(self.counters(), class, took);
            });
            let call = Call {
                target: &self.errand.target(),
                injection: &self.errand.account.injection,
                passing: &self.errand.passing,
                deadline,
            };
            let fetched = setup.upstream.fetch(&call, setup.held).await;
            let brought = match fetched {
                Ok(fetched) => {
                    let took = tally.ended(Class::Status(fetched.status));
                    self.arrive(fetched, &departed, berth, took)
                }
                // Whoever waits for it says so.
                Err(error) => {
                    let took = tally.ended(Class::Error);
                    self.errand.note(&Ended::Failed(&error), took);
                    Landed::Live(News::Failed(Arc::new(error)))
                }
            };
            if let Some(probe) = self.probe.take() {
                probe.landed();
            }
            (departed.departure.number(), brought)
        }
    }

    /// Judges what came, before anything of it is dropped; then cleans, stores, and says so.
    fn arrive(
        &self,
        fetched: Fetched,
        departed: &Departed,
        berth: Berth,
        took: Duration,
    ) -> Brought {
        let redactor = &self.errand.setup.redactor;
        let number = departed.departure.number();
        let verdict = self.verdict(&fetched);
        let Fetched {
            status,
            mut headers,
            body,
        } = fetched;
        clean_answer(&mut headers, redactor);
        if !status.is_success() && echoes(&body, redactor) {
            let error = FetchError::EchoedSecret;
            self.errand.note(&Ended::Failed(&error), took);
            return Landed::Live(News::Failed(Arc::new(error)));
        }
        if departed.manifest.fresh && !departed.outdated {
            self.withdraw(departed, status, verdict);
        }
        let body = match body {
            Gathered::Whole(body) => body,
            Gathered::Larger(passage) => {
                self.hold_larger(number, status, &headers);
                let stored = verdict.err().unwrap_or(NotStored::TooLarge);
                self.note(status, Err(stored), took);
                let passage = Box::new(passage.with(berth));
                return Landed::Own(Larger {
                    status,
                    headers,
                    passage,
                    stored,
                    took,
                });
            }
        };
        let stored = verdict.and_then(|()| self.store(departed, &headers, &body));
        self.note(status, stored, took);
        let arrived = Arc::new(Arrived {
            etag: (status == StatusCode::OK).then(|| etag_of(&body)),
            poll_after: poll_after(&headers),
            number,
            is_final: verdict.is_ok(),
            status,
            headers,
            body,
            stored,
            took,
        });
        self.hold(&arrived);
        let news = News::Arrived(arrived);
        if verdict.is_err() {
            return Landed::Live(news);
        }
        self.gateway.tell_end(&self.errand.shared, number, &news);
        Landed::Final(news)
    }

    /// Counts and logs a fetch that was answered.
    fn note(&self, status: StatusCode, stored: Result<(), NotStored>, took: Duration) {
        if let Err(reason) = stored {
            self.gateway.metrics.not_stored(reason);
        }
        self.errand.note(&Ended::Answered(status, stored), took);
    }

    fn verdict(&self, fetched: &Fetched) -> Result<(), NotStored> {
        if self.errand.is_list {
            return Err(NotStored::List);
        }
        let body = match &fetched.body {
            Gathered::Whole(body) => body,
            Gathered::Larger(_) if fetched.status != StatusCode::OK => {
                return Err(NotStored::BadStatus);
            }
            Gathered::Larger(_) => return Err(NotStored::TooLarge),
        };
        judge(
            self.rule(),
            &self.errand.ids(),
            fetched.status,
            &fetched.headers,
            body,
            self.errand.setup.cache.honor_no_store,
        )
    }

    fn store(
        &self,
        departed: &Departed,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(), NotStored> {
        if !self.errand.query.is_known() {
            return Err(NotStored::UnknownQuery);
        }
        if !departed.manifest.store {
            return Err(NotStored::RequestNoStore);
        }
        if departed.outdated {
            return Err(NotStored::Purged);
        }
        let content_type = headers.get(CONTENT_TYPE);
        let (cache, terms) = (&self.gateway.cache, &self.errand.setup.cache);
        cache.store(
            &departed.departure,
            self.errand.key(),
            Entry::new(body, content_type),
            terms,
            Instant::now(),
        )?;
        // What echoes an injected secret is the caller's to see, and nobody's to keep elsewhere.
        let may_leave = |body: &Bytes| !self.errand.setup.redactor.finds_in(body);
        if let Some(token) = departed.token.as_ref().filter(|_| may_leave(body)) {
            cache.share(Write {
                token: token.clone(),
                question: Arc::clone(&self.errand.shared),
                body: body.clone(),
                content_type: content_type.cloned(),
                ttl: terms.ttl,
            });
        }
        Ok(())
    }

    /// A caller that insisted on a fresh answer may have found that a stored body is no longer true.
    fn withdraw(&self, departed: &Departed, status: StatusCode, verdict: Result<(), NotStored>) {
        let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        let live = status == StatusCode::OK && verdict.is_err();
        if self.errand.is_list || !(gone || live) {
            return;
        }
        let cache = &self.gateway.cache;
        let removed = cache.withdraw(&departed.departure, self.errand.key());
        cache.take_back(self.errand.key(), removed);
        if removed && verdict == Err(NotStored::NotFinal) {
            self.counters().regressed();
            let rule = self.rule().name();
            tracing::warn!(rule, "a step that was final is live again: removed");
        }
    }

    /// Where the upstream asks for silence, it gets it, from everybody of this partition.
    fn hold(&self, arrived: &Arc<Arrived>) {
        let max_hold = self.errand.setup.max_hold;
        if arrived.status != StatusCode::TOO_MANY_REQUESTS || max_hold.is_zero() {
            return;
        }
        if let Some(wait) = retry_after(&arrived.headers, wall_clock::now()) {
            let until = Instant::now() + wait.min(max_hold);
            let held = Arc::clone(arrived);
            let setup = &self.errand.setup;
            setup.holds.hold(self.errand.account.partition, held, until);
        }
    }

    /// The same for a refusal too large to be repeated to everybody: they get its head.
    fn hold_larger(&self, number: u64, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LENGTH] {
            headers.remove(name);
        }
        self.hold(&Arc::new(Arrived {
            status,
            headers,
            body: Bytes::new(),
            etag: None,
            stored: Err(NotStored::BadStatus),
            is_final: false,
            number,
            poll_after: None,
            took: Duration::ZERO,
        }));
    }
}

/// Whether an error body, as far as it was read, echoes an injected secret.
pub(super) fn echoes(body: &Gathered, redactor: &Redactor) -> bool {
    match body {
        Gathered::Whole(body) => redactor.finds_in(body),
        Gathered::Larger(passage) => {
            let front: Vec<u8> = passage.front().flatten().copied().collect();
            redactor.finds_in(&front)
        }
    }
}
