//! One fetch, from its clearance to its news: fetch, check, clean, store.
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
use crate::cache::redis::{WriteJob, WriteToken};
use crate::cache::{Entry, FetchTicket, etag_of};
use crate::coalesce::{
    Admission, BatchOptions, Completion, Fetch, NumberedCompletion, Permit, Probe,
};
use crate::policy::{NoStoreReason, Partition, Rule, check};
use crate::upstream::{
    BufferedBody, FetchCall, FetchError, SecretScanner, UpstreamResponse, filter_response_headers,
};

type Brought = Completion<News, Larger>;

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
            Admission::Go => None,
            Admission::First(probe) => {
                self.probe = Some(probe);
                None
            }
            Admission::Held(said, until) => Some(News::Held(said, until)),
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
        manifest: BatchOptions,
        berth: Permit,
    ) -> impl Future<Output = NumberedCompletion<Self>> + Send + 'static {
        let departure = self.gateway.cache.begin_fetch();
        // In this order: a reload first puts its configuration in force and then raises its wall, so
        // what finds its own still in force has a number from before that wall.
        // Read before it departs: what is written with it is refused if a purge came between.
        let token = self.gateway.cache.write_token(&self.errand.shared);
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
    departure: FetchTicket,
    manifest: BatchOptions,
    /// Another configuration was in force by then: what it brings is for those who came under its
    /// own, and stays out of the cache.
    outdated: bool,
    /// With which its body may be written to the shared tier.
    token: Option<WriteToken>,
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
    fn fly(
        mut self,
        departed: Departed,
        berth: Permit,
    ) -> impl Future<Output = NumberedCompletion<Self>> + Send {
        async move {
            let setup = &*self.errand.setup;
            let deadline = departed.manifest.deadline;
            let tally = Tally::new(Some(deadline), |class, left, took| {
                if let Some(left) = left {
                    self.errand.note(&left, took);
                }
                self.gateway.metrics.fetched(self.counters(), class, took);
            });
            let call = FetchCall {
                target: &self.errand.target(),
                header_policy: &self.errand.account.header_policy,
                client_headers: &self.errand.passing,
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
                    Completion::Live(News::Failed(Arc::new(error)))
                }
            };
            if let Some(probe) = self.probe.take() {
                probe.landed();
            }
            (departed.departure.seq(), brought)
        }
    }

    /// Judges what came, before anything of it is dropped; then cleans, stores, and says so.
    fn arrive(
        &self,
        fetched: UpstreamResponse,
        departed: &Departed,
        berth: Permit,
        took: Duration,
    ) -> Brought {
        let redactor = &self.errand.setup.redactor;
        let number = departed.departure.seq();
        let verdict = self.verdict(&fetched);
        let UpstreamResponse {
            status,
            mut headers,
            body,
        } = fetched;
        filter_response_headers(&mut headers, redactor);
        if !status.is_success() && echoes(&body, redactor) {
            let error = FetchError::EchoedSecret;
            self.errand.note(&Ended::Failed(&error), took);
            return Completion::Live(News::Failed(Arc::new(error)));
        }
        if departed.manifest.fresh && !departed.outdated {
            self.withdraw(departed, status, verdict);
        }
        let body = match body {
            BufferedBody::Complete(body) => body,
            BufferedBody::TooLarge(passage) => {
                self.hold_larger(number, status, &headers);
                let stored = verdict.err().unwrap_or(NoStoreReason::TooLarge);
                self.note(status, Err(stored), took);
                let passage = Box::new(passage.holding(berth));
                return Completion::Own(Larger {
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
            return Completion::Live(news);
        }
        self.gateway.tell_end(&self.errand.shared, number, &news);
        Completion::Final(news)
    }

    /// Counts and logs a fetch that was answered.
    fn note(&self, status: StatusCode, stored: Result<(), NoStoreReason>, took: Duration) {
        if let Err(reason) = stored {
            self.gateway.metrics.not_stored(reason);
        }
        self.errand.note(&Ended::Answered(status, stored), took);
    }

    fn verdict(&self, fetched: &UpstreamResponse) -> Result<(), NoStoreReason> {
        if self.errand.is_list {
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
    ) -> Result<(), NoStoreReason> {
        if !self.errand.query.is_known() {
            return Err(NoStoreReason::UnknownQuery);
        }
        if !departed.manifest.store {
            return Err(NoStoreReason::RequestNoStore);
        }
        if departed.outdated {
            return Err(NoStoreReason::Purged);
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
            cache.share(WriteJob {
                token: token.clone(),
                key: Arc::clone(&self.errand.shared),
                body: body.clone(),
                content_type: content_type.cloned(),
                ttl: terms.ttl,
            });
        }
        Ok(())
    }

    /// A caller that insisted on a fresh answer may have found that a stored body is no longer true.
    fn withdraw(
        &self,
        departed: &Departed,
        status: StatusCode,
        verdict: Result<(), NoStoreReason>,
    ) {
        let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        let live = status == StatusCode::OK && verdict.is_err();
        if self.errand.is_list || !(gone || live) {
            return;
        }
        let cache = &self.gateway.cache;
        let removed = cache.invalidate_older(&departed.departure, self.errand.key());
        cache.invalidate_shared(self.errand.key(), removed);
        if removed && verdict == Err(NoStoreReason::NotFinal) {
            self.counters().regressed();
            let rule = self.rule().name();
            tracing::warn!(rule, "a step that was final is live again: removed");
        }
    }

    /// Where the upstream asks for silence, it gets it, from everybody of this partition.
    fn hold(&self, arrived: &Arc<Arrived>) {
        let max_retry_after = self.errand.setup.max_retry_after;
        if arrived.status != StatusCode::TOO_MANY_REQUESTS || max_retry_after.is_zero() {
            return;
        }
        if let Some(wait) = retry_after(&arrived.headers, wall_clock::now()) {
            let until = Instant::now() + wait.min(max_retry_after);
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
            stored: Err(NoStoreReason::BadStatus),
            is_final: false,
            number,
            poll_after: None,
            took: Duration::ZERO,
        }));
    }
}

/// Whether an error body, as far as it was read, echoes an injected secret.
pub(super) fn echoes(body: &BufferedBody, redactor: &SecretScanner) -> bool {
    match body {
        BufferedBody::Complete(body) => redactor.finds_in(body),
        BufferedBody::TooLarge(passage) => {
            let front: Vec<u8> = passage.buffered().flatten().copied().collect();
            redactor.finds_in(&front)
        }
    }
}
