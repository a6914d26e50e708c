//! The sandbox's listener, and the way from a request to its answer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{self, Ids};
use super::step_store::Book;
use super::wire::{self, Query, Refusal, Route};
use super::{Head, Settings, schema};
use crate::demo::seeded_rng::SeededRng;

/// Request heads remembered: more than a test sends, little enough for a day.
const MAX_HEADS: usize = 10_000;

pub(super) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tracker: TaskTracker,
    token: CancellationToken,
) {
    while let Some(accepted) = token.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let (shared, token) = (Arc::clone(&shared), token.clone());
                tracker.spawn(async move {
                    token.run_until_cancelled(serve(stream, shared)).await;
                });
            }
            // Mostly: no file descriptors left. Some will be soon.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Without it a keep-alive connection waits 40 ms for an acknowledgement now and then.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(request).await) }
    });
    // How a connection ends is its client's business: the sandbox has nobody to tell.
    drop(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

/// A list of a run's steps, in the wire's order of members.
#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<schema::Step<'a>>,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    has_more: bool,
}

/// What all connections see.
pub(super) struct Shared {
    settings: Settings,
    book: Mutex<Book>,
    heads: Mutex<VecDeque<Head>>,
    fetches: AtomicU64,
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            book: Mutex::new(Book::new(settings.lifetime.clone())),
            heads: Mutex::default(),
            fetches: AtomicU64::new(0),
            settings,
        }
    }

    /// The step stands where it stood halfway through the latency, as on a real way there and back.
    async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let number = self.fetches.fetch_add(1, Ordering::Relaxed) + 1;
        let (head, _) = request.into_parts();
        if self.settings.record {
            self.record(Head {
                method: head.method.clone(),
                uri: head.uri.clone(),
                headers: head.headers.clone(),
            });
        }
        let route = Route::of(head.uri.path());
        let asked = if !wire::is_authorized(&head.headers) {
            Err(Refusal::Unauthorized)
        } else if matches!(route, Route::Unknown) {
            Err(Refusal::UnknownUrl)
        } else if head.method != Method::GET {
            Err(Refusal::Method)
        } else {
            Query::of(&head.uri)
        };
        if let (Route::Step(ids), Ok(_)) = (&route, &asked) {
            self.book().polled(*ids, Instant::now());
        }
        let latency = self.latency(number);
        let half = latency / 2;
        pause(half).await;
        let mut response = match (route, asked) {
            (Route::Step(ids), Ok(query)) => Response::new(self.body(ids, query.include).into()),
            (Route::List { thread, run }, Ok(query)) => {
                Response::new(self.list(thread, run, &query).into())
            }
            (Route::Unknown, Ok(_)) => Refusal::UnknownUrl.response(),
            (Route::Step(_) | Route::List { .. } | Route::Unknown, Err(refusal)) => {
                refusal.response()
            }
        };
        wire::dress(&mut response, number, latency.as_millis());
        pause(half).await;
        response
    }

    pub(super) fn body(&self, ids: Ids<'_>, include: bool) -> Bytes {
        let status = self.book().status(ids.step, Instant::now());
        body::written(&body::step(ids, status, include))
    }

    fn list(&self, thread: &str, run: &str, query: &Query) -> Bytes {
        let (book, now) = (self.book(), Instant::now());
        let mut steps: Vec<&str> = book.of_run(thread, run).collect();
        if !query.oldest_first {
            steps.reverse();
        }
        let after = query.after.as_deref();
        let start = after.and_then(|after| steps.iter().position(|step| *step == after));
        let rest = &steps[start.map_or(0, |index| index + 1)..];
        let page = &rest[..rest.len().min(query.limit)];
        let data = page.iter().map(|step| {
            let ids = Ids { thread, run, step };
            body::step(ids, book.status(step, now), query.include)
        });
        body::written(&List {
            object: "list",
            data: data.collect(),
            first_id: page.first().copied(),
            last_id: page.last().copied(),
            has_more: page.len() < rest.len(),
        })
    }

    /// Mostly within a fifth of the median; one answer in 25 is late, as on a real network.
    fn latency(&self, number: u64) -> Duration {
        let mut dice = SeededRng::of(&["latency", &number.to_string()]);
        let factor = match dice.below(25) {
            0 => 2.5,
            1.. => 0.8 + 0.4 * dice.share(),
        };
        self.settings.latency.mul_f64(factor)
    }

    fn record(&self, head: Head) {
        let mut heads = self.heads();
        if heads.len() == MAX_HEADS {
            heads.pop_front();
        }
        heads.push_back(head);
    }

    pub(super) fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics with the book open")
    }

    pub(super) fn heads(&self) -> MutexGuard<'_, VecDeque<Head>> {
        self.heads
            .lock()
            .expect("nothing panics while a head is recorded")
    }
}

async fn pause(time: Duration) {
    // Even an empty sleep waits for the timer's next millisecond.
    if !time.is_zero() {
        sleep(time).await;
    }
}
