//! Generates load: wrk in a closed loop, requests at a fixed rate in an open one, and each of many
//! paths once.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use nix::sys::signal::Signal;
use tokio::runtime;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use crate::Result;
use crate::http::{self, Client};
use crate::process::{Process, split};
use crate::run_step;

/// Is how many connections the load has where their number is not what is measured.
pub(crate) const CONNECTIONS: u32 = 64;

/// Describes a run of wrk: each connection sends its next request once it has a response.
pub(crate) struct Wrk {
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
    pub(crate) cores: &'static str,
    pub(crate) server: SocketAddr,
    /// Is the path of all requests; empty if `others` is not.
    pub(crate) path: String,
    /// Is the prefix of counted paths, or "PREFIX COUNT SEED" for random ones, for `steps.lua`.
    pub(crate) others: String,
}

impl Wrk {
    /// Returns the number of requests, and how many there were in a second.
    pub(crate) fn run(&self) -> Result<(u64, f64)> {
        parse(&self.start()?.output()?)
    }

    pub(crate) fn start(&self) -> Result<Process> {
        // Cargo runs benches in the package's folder. A response that takes longer than 30 s is an error.
        let (connections, seconds, path) = (self.connections, self.seconds, &self.path);
        let mut words = format!("{} wrk -t1 --timeout 30s", self.cores);
        words += &format!(" -c{connections} -d{seconds}s http://{}{path}", self.server);
        if !self.others.is_empty() {
            words += &format!(" -s benches/peers/steps.lua -- {}", self.others);
        }
        Process::start("wrk", &split(&words))
    }
}

/// Reads what wrk prints; fails if there was any error, because errors must not be timed.
fn parse(text: &str) -> Result<(u64, f64)> {
    let mut lines = text.lines().map(str::trim);
    let requests = lines.find_map(|line| line.split_once(" requests in ")?.0.parse().ok());
    let per_second = lines.find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    match (requests, per_second) {
        (Some(requests @ 1..), Some(per_second))
            if !text.contains("Socket errors") && !text.contains("Non-2xx") =>
        {
            Ok((requests, per_second))
        }
        _ => Err(format!("wrk saw errors\n{text}").into()),
    }
}

/// Ends a run of wrk before its time, and checks what it saw until then.
pub(crate) fn stop(wrk: Process) -> Result<()> {
    wrk.signal(Signal::SIGINT)?;
    parse(&wrk.output()?).map(drop)
}

/// Describes load at a fixed rate: requests per second, seconds, and how many are sent at once.
#[derive(Clone, Copy)]
pub(crate) struct Rate(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Rate {
    /// Sends every request at its time, whatever is outstanding, and returns the latencies from that
    /// time. Coordinated omission is thus accounted for: a server that stalls is charged for all
    /// requests that fall into the stall.
    ///
    /// The runtime polls its sockets without ever sleeping, so that no wake-up is in the latencies.
    pub(crate) fn run(self, server: SocketAddr, path: &str) -> Result<Vec<Duration>> {
        let Self(per_second, seconds, burst) = self;
        let client = Rc::new(Client::new(server));
        let mut runtime = runtime::Builder::new_current_thread();
        http::run_on(runtime.enable_all().event_interval(1), async {
            client.open(CONNECTIONS.try_into()?).await?;
            let begin = Instant::now();
            let mut requests = JoinSet::new();
            for number in 0..per_second * seconds {
                let due = begin + Duration::from_secs(1) * (number - number % burst) / per_second;
                while Instant::now() < due {
                    yield_now().await;
                }
                let (client, path) = (Rc::clone(&client), path.to_owned());
                requests.spawn_local(async move {
                    match client.get(&path).await?.status() {
                        StatusCode::OK => Ok(due.elapsed()),
                        status => Err(format!("status {status} for {path}").into()),
                    }
                });
            }
            requests.join_all().await.into_iter().collect()
        })
    }
}

/// Returns quantiles in microseconds, by the nearest rank; `NaN` if there are no latencies.
pub(crate) fn quantiles<const N: usize>(
    mut latencies: Vec<Duration>,
    per_mille: [usize; N],
) -> [f64; N] {
    latencies.sort_unstable();
    per_mille.map(|per_mille| {
        let rank = (latencies.len() * per_mille).div_ceil(1000);
        let latency = latencies.get(rank.saturating_sub(1));
        latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    })
}

/// Names where a response came from, as its `Cache-Status` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Memory,
    SharedTier,
    Upstream,
}

/// Collects where responses came from, and their latencies.
#[derive(Default)]
pub(crate) struct Responses(Vec<(Source, Duration)>);

impl Responses {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn latencies(&self, source: Source) -> Vec<Duration> {
        let responses = self.0.iter().filter(|response| response.0 == source);
        responses.map(|(_, latency)| *latency).collect()
    }
}

/// Sends a request, counts its response, and returns the body of a 200.
pub(crate) async fn fetch(client: &Client, path: &str, to: &RefCell<Responses>) -> Result<Bytes> {
    let sent = Instant::now();
    let response = client.get(path).await?;
    let latency = sent.elapsed();
    let status = response.headers().get("cache-status");
    let status = status.map_or("", |status| status.to_str().unwrap_or_default());
    let source = match (status.contains("; hit"), status.contains("detail=shared")) {
        (true, true) => Source::SharedTier,
        (true, false) => Source::Memory,
        (false, _) => Source::Upstream,
    };
    to.borrow_mut().0.push((source, latency));
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
    http::run(async {
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            let (client, paths) = (Rc::clone(&client), Rc::clone(&paths));
            let responses = Rc::clone(&responses);
            workers.spawn_local(async move {
                let next = || paths.borrow_mut().next();
                while let Some(path) = next() {
                    let body = fetch(&client, &path, &responses).await?;
                    if run_step::body_of(&path).is_none_or(|right| right != body) {
                        return Err(format!("a wrong body for {path}").into());
                    }
                }
                Ok(())
            });
        }
        let results = workers.join_all().await;
        results.into_iter().collect::<Result<()>>()?;
        Ok(responses.take())
    })
}
