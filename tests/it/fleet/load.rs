//! A constant load of requests, and the latency of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::support::client::head;
use crate::support::{RawClient, step, step_json, within};

/// The number of steps that are requested repeatedly and served from memory.
const KNOWN: usize = 10;

/// A complete and correct response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    sent: Instant,
    latency: Duration,
    new: bool,
}

/// The clients of a load, each of which sends 20 requests a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mix {
    /// Clients that request known steps.
    pub(super) known: usize,
    /// Clients that request a new step every time.
    pub(super) new: usize,
}

/// 1,000 requests a second, 200 of which are fetches.
pub(super) const THOUSAND: Mix = Mix { known: 40, new: 10 };

/// 200 requests a second, half of which are fetches.
pub(super) const LIGHT: Mix = Mix { known: 5, new: 5 };

const PERIOD: Duration = Duration::from_millis(50);

pub(super) struct Load {
    is_over: Arc<AtomicBool>,
    clients: JoinSet<Vec<Sample>>,
}

impl Load {
    /// Starts a load. `name` keeps its steps apart from those of another load.
    pub(super) async fn start(address: SocketAddr, mix: Mix, name: &'static str) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let steps = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        let start = Instant::now();
        let size = u32::try_from(mix.known + mix.new).unwrap();
        for nth in 0..size {
            let client = Client {
                raw: RawClient::connect(address).await,
                new: nth % size < u32::try_from(mix.new).unwrap(),
                name,
                next: start + PERIOD * nth / size,
                steps: Arc::clone(&steps),
            };
            clients.spawn(client.run(Arc::clone(&is_over)));
        }
        Self { is_over, clients }
    }

    /// Ends the load and returns its samples. Fails if a response was wrong.
    pub(super) async fn finish(mut self) -> Vec<Sample> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        while let Some(client) = within("the clients", self.clients.join_next()).await {
            samples.extend(client.unwrap());
        }
        samples
    }
}

struct Client {
    raw: RawClient,
    new: bool,
    name: &'static str,
    next: Instant,
    steps: Arc<AtomicUsize>,
}

impl Client {
    async fn run(mut self, is_over: Arc<AtomicBool>) -> Vec<Sample> {
        let mut samples = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            sleep_until(self.next).await;
            let id = if self.new {
                let nth = self.steps.fetch_add(1, Ordering::Relaxed);
                format!("{}_new_{nth}", self.name)
            } else {
                format!("{}_{}", self.name, samples.len() % KNOWN)
            };
            let request = head("GET", &step(&id), "127.0.0.1", &[]);
            let sent = Instant::now();
            self.raw.send(request).await;
            let answer = self.raw.response().await;
            let latency = sent.elapsed();
            assert_eq!(answer.status, 200, "{id}: {}", answer.text());
            let expected = step_json("thread_1", "run_1", &id, "completed");
            assert_eq!(answer.body, expected, "{id}");
            samples.push(Sample {
                sent,
                latency,
                new: self.new,
            });
            // A late client skips the periods that it missed.
            self.next = (self.next + PERIOD).max(Instant::now());
        }
        samples
    }
}

/// The sorted latencies of the fetches that were requested between two moments.
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(super) fn of(samples: &[Sample], from: Instant, to: Instant) -> Self {
        let between = samples
            .iter()
            .filter(|s| s.new && from <= s.sent && s.sent < to);
        let mut latencies: Vec<Duration> = between.map(|s| s.latency).collect();
        latencies.sort();
        assert!(latencies.len() >= 20, "only {} fetches", latencies.len());
        Self(latencies)
    }

    pub(super) fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    pub(super) fn p99(&self) -> Duration {
        self.0[self.0.len() * 99 / 100]
    }
}

/// Returns the requests per second between two moments.
pub(super) fn rate(samples: &[Sample], from: Instant, to: Instant) -> f64 {
    let between = samples.iter().filter(|s| from <= s.sent && s.sent < to);
    between.count() as f64 / (to - from).as_secs_f64()
}
