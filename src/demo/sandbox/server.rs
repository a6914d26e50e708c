//! Accepts connections and answers requests.

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
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{self, Ids};
use super::http::{self, ApiError, Query, Route};
use super::step_store::StepStore;
use super::{RecordedRequest, Settings};
use crate::demo::seeded_rng::SeededRng;

/// How many requests are recorded: more than a test sends, and a bound for a long demo.
const MAX_RECORDED: usize = 10_000;

pub(super) async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    tracker: TaskTracker,
    token: CancellationToken,
) {
    while let Some(accepted) = token.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let (state, token) = (Arc::clone(&state), token.clone());
                tracker.spawn(async move {
                    token.run_until_cancelled(serve(stream, state)).await;
                });
            }
            // Usually the process is out of file descriptors, and others are closed soon.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    // With Nagle's algorithm, a keep-alive connection sometimes waits 40 ms for an acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(state.respond(request).await) }
    });
    // An error means that the client closed the connection.
    drop(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

/// Is shared by all connections.
pub(super) struct State {
    settings: Settings,
    steps: Mutex<StepStore>,
    recorded: Mutex<VecDeque<RecordedRequest>>,
    request_count: AtomicU64,
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            steps: Mutex::new(StepStore::new(settings.lifetime.clone())),
            recorded: Mutex::default(),
            request_count: AtomicU64::new(0),
            settings,
        }
    }

    /// Responds after the latency. The status is read after half of it, as on a real round trip.
    async fn respond<B>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let number = self.request_count.fetch_add(1, Ordering::Relaxed) + 1;
        let (head, _) = request.into_parts();
        if self.settings.record_requests {
            self.record(RecordedRequest {
                method: head.method.clone(),
                uri: head.uri.clone(),
                headers: head.headers.clone(),
            });
        }
        let route = Route::of(head.uri.path());
        let query = if !http::is_authorized(&head.headers) {
            Err(ApiError::Unauthorized)
        } else if matches!(route, Route::Unknown) {
            Err(ApiError::UnknownUrl)
        } else if head.method != Method::GET {
            Err(ApiError::Method)
        } else {
            Query::of(&head.uri)
        };
        if let (Route::Step(ids), Ok(_)) = (&route, &query) {
            self.steps().record_poll(*ids, Instant::now());
        }
        let latency = self.latency(number);
        let half = latency / 2;
        pause(half).await;
        let mut response = match (route, query) {
            (Route::Step(ids), Ok(query)) => Response::new(self.body(ids, query.include).into()),
            (Route::List { thread, run }, Ok(query)) => {
                Response::new(self.list(thread, run, &query).into())
            }
            (Route::Unknown, Ok(_)) => ApiError::UnknownUrl.response(),
            (Route::Step(_) | Route::List { .. } | Route::Unknown, Err(error)) => error.response(),
        };
        http::add_headers(&mut response, number, latency.as_millis());
        pause(half).await;
        response
    }

    pub(super) fn body(&self, ids: Ids<'_>, include: bool) -> Bytes {
        let status = self.steps().status(ids.step, Instant::now());
        body::to_json(&body::step(ids, status, include))
    }

    fn list(&self, thread: &str, run: &str, query: &Query) -> Bytes {
        let (store, now) = (self.steps(), Instant::now());
        let mut steps: Vec<&str> = store.of_run(thread, run).collect();
        if !query.oldest_first {
            steps.reverse();
        }
        let after = query.after.as_deref();
        let start = after.and_then(|after| steps.iter().position(|step| *step == after));
        let rest = &steps[start.map_or(0, |index| index + 1)..];
        let page = &rest[..rest.len().min(query.limit)];
        let data = page.iter().map(|step| {
            let ids = Ids { thread, run, step };
            body::step(ids, store.status(step, now), query.include)
        });
        body::to_json(&body::List {
            object: "list",
            data: data.collect(),
            first_id: page.first().copied(),
            last_id: page.last().copied(),
            has_more: page.len() < rest.len(),
        })
    }

    /// Returns a latency within 20 % of the median. One response in 25 is late, as on a real network.
    fn latency(&self, number: u64) -> Duration {
        let mut rng = SeededRng::of(&["latency", &number.to_string()]);
        let factor = match rng.below(25) {
            0 => 2.5,
            1.. => 0.8 + 0.4 * rng.share(),
        };
        self.settings.latency.mul_f64(factor)
    }

    fn record(&self, request: RecordedRequest) {
        let mut recorded = self.recorded();
        if recorded.len() == MAX_RECORDED {
            recorded.pop_front();
        }
        recorded.push_back(request);
    }

    pub(super) fn request_count(&self) -> u64 {
        self.request_count.load(Ordering::Relaxed)
    }

    pub(super) fn steps(&self) -> MutexGuard<'_, StepStore> {
        self.steps
            .lock()
            .expect("nothing panics while the steps are locked")
    }

    pub(super) fn recorded(&self) -> MutexGuard<'_, VecDeque<RecordedRequest>> {
        self.recorded
            .lock()
            .expect("nothing panics while a request is recorded")
    }
}

async fn pause(time: Duration) {
    // A sleep of zero waits until the timer's next millisecond.
    if !time.is_zero() {
        sleep(time).await;
    }
}
