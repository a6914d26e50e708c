//! Callers that ask all the time, and remember how long each answer took.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::support::client::head;
use crate::support::{RawClient, step, step_json, within};

/// Steps that are asked for again and again, to be had from memory.
const KNOWN: usize = 10;

/// One answer, whole and right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    asked: Instant,
    took: Duration,
    new: bool,
}

/// How much is asked, each caller 20 times a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mix {
    /// Callers that ask for what is known.
    pub(super) known: usize,
    /// Callers that ask for a step that nobody has asked for, every time.
    pub(super) new: usize,
}

/// 1,000 requests a second, 200 of which are fetches.
pub(super) const THOUSAND: Mix = Mix { known: 40, new: 10 };

/// 200 requests a second, half of which are fetches.
pub(super) const LIGHT: Mix = Mix { known: 5, new: 5 };

const PERIOD: Duration = Duration::from_millis(50);

pub(super) struct Load {
    over: Arc<AtomicBool>,
    callers: JoinSet<Vec<Sample>>,
}

impl Load {
    /// On these steps, in the order of asking; `name` tells them from another load's.
    pub(super) async fn start(address: SocketAddr, mix: Mix, name: &'static str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let steps = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        let start = Instant::now();
        let size = u32::try_from(mix.known + mix.new).unwrap();
        for nth in 0..size {
            let caller = Caller {
                raw: RawClient::connect(address).await,
                new: nth % size < u32::try_from(mix.new).unwrap(),
                name,
                next: start + PERIOD * nth / size,
                steps: Arc::clone(&steps),
            };
            callers.spawn(caller.ask_until(Arc::clone(&over)));
        }
        Self { over, callers }
    }

    /// All samples; what was wrong with an answer fails here.
    pub(super) async fn finish(mut self) -> Vec<Sample> {
        self.over.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        while let Some(caller) = within("the callers", self.callers.join_next()).await {
            samples.extend(caller.unwrap());
        }
        samples
    }
}

struct Caller {
    raw: RawClient,
    new: bool,
    name: &'static str,
    next: Instant,
    steps: Arc<AtomicUsize>,
}

impl Caller {
    async fn ask_until(mut self, over: Arc<AtomicBool>) -> Vec<Sample> {
        let mut samples = Vec::new();
        while !over.load(Ordering::Relaxed) {
            sleep_until(self.next).await;
            let id = if self.new {
                let nth = self.steps.fetch_add(1, Ordering::Relaxed);
                format!("{}_new_{nth}", self.name)
            } else {
                format!("{}_{}", self.name, samples.len() % KNOWN)
            };
            let question = head("GET", &step(&id), "127.0.0.1", &[]);
            let asked = Instant::now();
            self.raw.send(question).await;
            let answer = self.raw.response().await;
            let took = asked.elapsed();
            assert_eq!(answer.status, 200, "{id}: {}", answer.text());
            let right = step_json("thread_1", "run_1", &id, "completed");
            assert_eq!(answer.body, right, "{id}");
            samples.push(Sample {
                asked,
                took,
                new: self.new,
            });
            // Who is late leaves out what it has missed.
            self.next = (self.next + PERIOD).max(Instant::now());
        }
        samples
    }
}

/// How long fetches took that were asked for between two moments.
pub(super) struct Spread(Vec<Duration>);

impl Spread {
    pub(super) fn of(samples: &[Sample], from: Instant, to: Instant) -> Self {
        let between = samples
            .iter()
            .filter(|s| s.new && from <= s.asked && s.asked < to);
        let mut took: Vec<Duration> = between.map(|s| s.took).collect();
        took.sort();
        assert!(took.len() >= 20, "only {} fetches to judge by", took.len());
        Self(took)
    }

    pub(super) fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    pub(super) fn p99(&self) -> Duration {
        self.0[self.0.len() * 99 / 100]
    }
}

/// Requests a second over all that time.
pub(super) fn rate(samples: &[Sample], from: Instant, to: Instant) -> f64 {
    let between = samples.iter().filter(|s| from <= s.asked && s.asked < to);
    between.count() as f64 / (to - from).as_secs_f64()
}
