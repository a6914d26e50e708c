//! Generates load: wrk in a closed loop, requests at a fixed rate in an open one, and each of many
//! paths once.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use nix::sys::signal::Signal;
use tokio::runtime;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use crate::Result;
use crate::client::{self, Client};
use crate::process::{Cores, Process};
use crate::run_step;

/// Is how many connections the load has where their number is not what is measured.
pub(crate) const CONNECTIONS: u32 = 64;

/// Describes a run of wrk: each connection sends its next request once it has a response.
pub(crate) struct Wrk {
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
    pub(crate) cores: Cores,
    pub(crate) server: SocketAddr,
    pub(crate) paths: Paths,
}

/// Describes which paths wrk requests.
pub(crate) enum Paths {
    Same(String),
    /// The prefix and 1, 2, 3, ….
    Counted(String),
    /// The prefix and a random number from 1 to `count`.
    Random {
        prefix: String,
        count: u32,
        seed: u32,
    },
}

/// Holds what a run of wrk has measured.
pub(crate) struct WrkResult {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
}

impl Wrk {
    pub(crate) fn run(&self) -> Result<WrkResult> {
        WrkResult::parse(&self.start()?.output()?)
    }

    pub(crate) fn start(&self) -> Result<Process> {
        let (path, arguments) = match &self.paths {
            Paths::Same(path) => (path.as_str(), Vec::new()),
            Paths::Counted(prefix) => ("", vec![prefix.clone()]),
            Paths::Random {
                prefix,
                count,
                seed,
            } => (
                "",
                vec![prefix.clone(), count.to_string(), seed.to_string()],
            ),
        };
        let mut words = self.cores.prefix();
        // A response that takes longer than 30 s is counted as an error.
        words.extend(["wrk", "-t1", "--timeout", "30s"].map(str::to_owned));
        words.push(format!("-c{}", self.connections));
        words.push(format!("-d{}s", self.seconds));
        if !arguments.is_empty() {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/steps.lua");
            words.extend(["-s", script].map(str::to_owned));
        }
        words.extend([format!("http://{}{path}", self.server), "--".to_owned()]);
        words.extend(arguments);
        Process::start("wrk", &words, &[])
    }
}

impl WrkResult {
    /// Reads what wrk prints; fails if there was any error, because errors must not be timed.
    fn parse(text: &str) -> Result<Self> {
        let requests = text
            .lines()
            .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
        let per_second = text
            .lines()
            .find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
        let has_errors = ["Socket errors", "Non-2xx"]
            .iter()
            .any(|word| text.contains(word));
        match (requests, per_second) {
            (Some(requests @ 1..), Some(per_second)) if !has_errors => Ok(Self {
                requests,
                per_second,
            }),
            _ => Err(format!("wrk saw errors\n{text}").into()),
        }
    }
}

/// Ends a run of wrk before its time, and checks what it saw until then.
pub(crate) fn stop(wrk: Process) -> Result<()> {
    wrk.signal(Signal::SIGINT)?;
    WrkResult::parse(&wrk.output()?).map(drop)
}

/// Describes load at a fixed rate.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) seconds: u32,
    /// Is how many requests are sent at once, at the same rate.
    pub(crate) burst: u32,
}

impl Rate {
    /// Sends every request at its time, whatever is outstanding, and returns the latencies from that
    /// time. Coordinated omission is thus accounted for: a server that stalls is charged for all
    /// requests that fall into the stall.
    ///
    /// The runtime polls its sockets without ever sleeping, so that no wake-up is in the latencies.
    pub(crate) fn run(self, server: SocketAddr, path: &str) -> Result<Latencies> {
        let client = Rc::new(Client::new(server));
        let mut runtime = runtime::Builder::new_current_thread();
        client::run_on(runtime.enable_all().event_interval(1), async {
            client.open(CONNECTIONS.try_into()?).await?;
            let begin = Instant::now();
            let mut requests = JoinSet::new();
            for number in 0..self.per_second * self.seconds {
                let first = number - number % self.burst;
                let due = begin + Duration::from_secs(1) * first / self.per_second;
                while Instant::now() < due {
                    yield_now().await;
                }
                let (client, path) = (Rc::clone(&client), path.to_owned());
                requests.spawn_local(async move {
                    client.get_body(&path).await?;
                    Result::Ok(due.elapsed())
                });
            }
            let mut latencies = Vec::new();
            while !requests.is_empty() {
                match requests.try_join_next() {
                    Some(latency) => latencies.push(latency??),
                    None => yield_now().await,
                }
            }
            Ok(Latencies(latencies))
        })
    }
}

#[derive(Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn len(&self) -> u32 {
        self.0.len().try_into().unwrap_or(u32::MAX)
    }

    /// Returns quantiles in microseconds, by the nearest rank; `NaN` if there are no latencies.
    pub(crate) fn quantiles<const N: usize>(&self, per_mille: [usize; N]) -> [f64; N] {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        per_mille.map(|per_mille| {
            let rank = (sorted.len() * per_mille).div_ceil(1000);
            let latency = sorted.get(rank.saturating_sub(1));
            latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
        })
    }
}

/// Names where a response came from, as its `Cache-Status` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Memory,
    SharedTier,
    Upstream,
}

impl Source {
    fn of(response: &Response<Bytes>) -> Self {
        let status = response.headers().get("cache-status");
        let status = status
            .and_then(|status| status.to_str().ok())
            .unwrap_or_default();
        match (status.contains("; hit"), status.contains("detail=shared")) {
            (true, true) => Self::SharedTier,
            (true, false) => Self::Memory,
            (false, _) => Self::Upstream,
        }
    }
}

/// Collects the latencies of responses by where they came from.
#[derive(Default)]
pub(crate) struct Responses {
    pub(crate) memory: Latencies,
    pub(crate) shared: Latencies,
    pub(crate) upstream: Latencies,
}

impl Responses {
    pub(crate) fn count(&self) -> u32 {
        self.memory.len() + self.shared.len() + self.upstream.len()
    }

    pub(crate) fn from(&self, source: Source) -> &Latencies {
        match source {
            Source::Memory => &self.memory,
            Source::SharedTier => &self.shared,
            Source::Upstream => &self.upstream,
        }
    }

    fn add(&mut self, source: Source, latency: Duration) {
        let latencies = match source {
            Source::Memory => &mut self.memory,
            Source::SharedTier => &mut self.shared,
            Source::Upstream => &mut self.upstream,
        };
        latencies.0.push(latency);
    }
}

/// Sends a request, counts its response, and returns the body of a 200.
pub(crate) async fn fetch(client: &Client, path: &str, to: &RefCell<Responses>) -> Result<Bytes> {
    let sent = Instant::now();
    let response = client.get(path).await?;
    to.borrow_mut().add(Source::of(&response), sent.elapsed());
    if response.status() != StatusCode::OK {
        return Err(format!("status {} for {path}", response.status()).into());
    }
    Ok(response.into_body())
}

/// Requests every path once, so many at a time; fails if a body is not the path's.
pub(crate) fn fetch_each(
    server: SocketAddr,
    paths: impl Iterator<Item = String> + 'static,
    concurrency: u32,
) -> Result<Responses> {
    let client = Rc::new(Client::new(server));
    let (paths, responses) = (Rc::new(RefCell::new(paths)), Rc::default());
    client::run(async {
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            let (client, paths) = (Rc::clone(&client), Rc::clone(&paths));
            let responses = Rc::clone(&responses);
            workers.spawn_local(async move {
                loop {
                    let Some(path) = paths.borrow_mut().next() else {
                        return Result::Ok(());
                    };
                    let body = fetch(&client, &path, &responses).await?;
                    if run_step::body_of(&path).is_none_or(|right| right != body) {
                        return Err(format!("a wrong body for {path}").into());
                    }
                }
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        Ok(responses.take())
    })
}
