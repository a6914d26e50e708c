//! One fetch, from its clearance to its news: fetch, judge, clean, store.
//!
//! It is done once for all passengers, and owns all that it needs: it may outlive whoever caused it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::Gateway;
use super::metrics::Class;
use crate::cache::{Departure, Entry, etag_of};
use crate::fetch::{Berth, Clearance, Fetch, Flown, Landed, Manifest, Probe};
use crate::step::pace::{poll_after, retry_after};
use crate::step::{Key, NotStored, Partition, judge};
use crate::upstream::{Call, FetchError, Fetched, Gathered, Passage, clean_answer};

/// What a fetch is to bring.
#[derive(Debug, Clone)]
pub(super) struct Errand {
    /// Index of the rule.
    pub(super) rule: usize,
    /// Of one resource; none: the rule's list.
    pub(super) ids: Option<Arc<[Box<str>]>>,
    pub(super) partition: Partition,
    /// With whom the fetch is shared; under what its body may be stored.
    pub(super) key: Key,
    /// Every query parameter is known: the body may be stored.
    pub(super) storable: bool,
    pub(super) path: Box<str>,
    pub(super) query: Box<str>,
    /// What goes up, of the caller that opened the departure.
    pub(super) headers: HeaderMap,
}

/// An upstream's answer, whole, cleaned, judged.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Of a 200.
    pub(super) etag: Option<HeaderValue>,
    pub(super) stored: Result<(), NotStored>,
    /// Stored or not: it will never change.
    pub(super) is_final: bool,
    /// The number of its departure.
    pub(super) number: u64,
    pub(super) poll_after: Option<Duration>,
    pub(super) took: Duration,
}

/// What all passengers of a flight hear.
#[derive(Debug, Clone)]
pub(super) enum News {
    Arrived(Arc<Arrived>),
    /// The upstream said so to somebody else, and until then.
    Held(Arc<Arrived>, Instant),
    Failed(Arc<FetchError>),
    /// There was no berth.
    Overloaded,
}

/// An answer too large to be held: it streams to one caller, and keeps its berth until it ends.
#[derive(Debug)]
pub(super) struct Larger {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) passage: Box<Passage>,
    pub(super) stored: NotStored,
    pub(super) took: Duration,
}

type Brought = Landed<News, Larger>;

/// An errand with what it takes to run it.
#[derive(Debug)]
pub(super) struct Flight {
    gateway: Arc<Gateway>,
    errand: Errand,
    /// Held until it has landed, where it goes first after a hold.
    probe: Option<Probe<Partition, Arc<Arrived>>>,
}

impl Flight {
    pub(super) fn new(gateway: &Arc<Gateway>, errand: Errand) -> Self {
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
        match self.gateway.holds.clearance(&self.errand.partition).await {
            Clearance::Go => None,
            Clearance::First(probe) => {
                self.probe = Some(probe);
                None
            }
            Clearance::Held(said, until) => Some(News::Held(said, until)),
        }
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
        async move {
            (
                departure.number(),
                self.fly(departure, manifest, berth).await,
            )
        }
    }
}

impl Flight {
    async fn fly(self, departure: Departure, manifest: Manifest, berth: Berth) -> Brought {
        let gateway = &*self.gateway;
        let departed = Instant::now();
        let call = Call {
            path: &self.errand.path,
            query: &self.errand.query,
            headers: &self.errand.headers,
            deadline: manifest.deadline,
        };
        let fetched = gateway
            .setup
            .upstream
            .fetch(&call, gateway.setup.held)
            .await;
        let took = departed.elapsed();
        let class = fetched
            .as_ref()
            .map_or(Class::Error, |fetched| Class::Status(fetched.status));
        gateway.metrics.fetched(self.errand.rule, class, took);
        match fetched {
            Ok(fetched) => self.arrive(fetched, &departure, manifest, berth, took),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a fetch failed");
                Landed::Live(News::Failed(Arc::new(error)))
            }
        }
    }

    /// Judges what came, before anything of it is dropped; then cleans, stores, and says so.
    fn arrive(
        &self,
        fetched: Fetched,
        departure: &Departure,
        manifest: Manifest,
        berth: Berth,
        took: Duration,
    ) -> Brought {
        let gateway = &*self.gateway;
        let verdict = self.verdict(&fetched);
        let Fetched {
            status,
            mut headers,
            body,
        } = fetched;
        clean_answer(&mut headers, &gateway.setup.redactor);
        if !status.is_success() && gateway.echoes(&body) {
            return Landed::Live(News::Failed(Arc::new(FetchError::EchoedSecret)));
        }
        let body = match body {
            Gathered::Whole(body) => body,
            Gathered::Larger(passage) => {
                let stored = verdict.err().unwrap_or(NotStored::TooLarge);
                gateway.metrics.not_stored(stored);
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
        let stored = verdict.and_then(|()| self.store(departure, manifest, &headers, &body));
        if manifest.fresh {
            self.withdraw(departure, status, verdict);
        }
        if let Err(reason) = stored {
            gateway.metrics.not_stored(reason);
        }
        let arrived = Arc::new(Arrived {
            etag: (status == StatusCode::OK).then(|| etag_of(&body)),
            poll_after: poll_after(&headers),
            number: departure.number(),
            is_final: verdict.is_ok(),
            status,
            headers,
            body,
            stored,
            took,
        });
        self.hold(&arrived);
        let news = News::Arrived(arrived);
        if verdict.is_ok() {
            Landed::Final(news)
        } else {
            Landed::Live(news)
        }
    }

    fn verdict(&self, fetched: &Fetched) -> Result<(), NotStored> {
        let Some(ids) = &self.errand.ids else {
            return Err(NotStored::List);
        };
        let setup = &self.gateway.setup;
        let body = match &fetched.body {
            Gathered::Whole(body) => body,
            Gathered::Larger(_) if fetched.status != StatusCode::OK => {
                return Err(NotStored::BadStatus);
            }
            Gathered::Larger(_) => return Err(NotStored::TooLarge),
        };
        let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
        let rule = &setup.rules[self.errand.rule];
        judge(
            rule,
            &ids,
            fetched.status,
            &fetched.headers,
            body,
            setup.honor_no_store,
        )
    }

    fn store(
        &self,
        departure: &Departure,
        manifest: Manifest,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(), NotStored> {
        if !self.errand.storable {
            return Err(NotStored::UnknownQuery);
        }
        if !manifest.store {
            return Err(NotStored::RequestNoStore);
        }
        let entry = Entry::new(body, headers.get(CONTENT_TYPE).cloned());
        self.gateway
            .cache
            .store(departure, &self.errand.key, entry, Instant::now())
    }

    /// A caller that insisted on a fresh answer may have found that a stored body is no longer true.
    fn withdraw(&self, departure: &Departure, status: StatusCode, verdict: Result<(), NotStored>) {
        let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        let live = status == StatusCode::OK && verdict.is_err();
        if self.errand.ids.is_none() || !(gone || live) {
            return;
        }
        let gateway = &*self.gateway;
        let removed = gateway.cache.withdraw(departure, &self.errand.key);
        if removed && verdict == Err(NotStored::NotFinal) {
            gateway.metrics.regressed(self.errand.rule);
            let rule = gateway.setup.rules[self.errand.rule].name();
            tracing::warn!(rule, "a step that was final is live again: removed");
        }
    }

    /// Where the upstream asks for silence, it gets it, from everybody of this partition.
    fn hold(&self, arrived: &Arc<Arrived>) {
        let gateway = &*self.gateway;
        if arrived.status != StatusCode::TOO_MANY_REQUESTS || gateway.setup.max_hold.is_zero() {
            return;
        }
        if let Some(wait) = retry_after(&arrived.headers) {
            let until = Instant::now() + wait.min(gateway.setup.max_hold);
            gateway
                .holds
                .hold(self.errand.partition, Arc::clone(arrived), until);
        }
    }
}

impl Gateway {
    /// Whether an error body, as far as it was read, echoes an injected secret.
    fn echoes(&self, body: &Gathered) -> bool {
        match body {
            Gathered::Whole(body) => self.setup.redactor.finds_in(body),
            Gathered::Larger(passage) => {
                let front: Vec<u8> = passage.front().flatten().copied().collect();
                self.setup.redactor.finds_in(&front)
            }
        }
    }
}
