//! A fleet: gateways that share Redis or Valkey behind their memories (DESIGN section 7, catalogue
//! 39, 40 and 41a). The servers are real; a gateway is in this process unless it has to be measured
//! or killed.

mod cluster;
mod cut_off;
mod damage;
mod failover;
mod forged;
mod freshness;
mod load;
mod log;
mod partitions;
mod purges;
mod race;
mod sealed;
mod sharing;
mod stopped;
mod taken_back;
mod tls;
mod told;
mod trouble;
mod under_way;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::redis::Redis;
use crate::support::{Gateway, Origin, Process, client::Response, step, step_json};

/// `budget` where the file does not say.
const BUDGET: Duration = Duration::from_millis(50);

/// Within it, a purge has reached every gateway that is connected.
const REACHED: Duration = Duration::from_secs(1);

/// A gateway that rests looks again after ten seconds at most.
const BACK: Duration = Duration::from_secs(15);

/// The prefix of most tests here.
const PREFIX: &str = "fleet";

/// The tier at `url`, in TOML as it stands after `url =`. Its budget is the largest: on a busy
/// machine, too, what matters here is whether something is shared, not how soon.
fn tier_at(url: &str) -> String {
    format!("[cache.redis]\nurl = {url}\nprefix = \"{PREFIX}\"\ncommand_timeout = \"1s\"\n")
}

/// The same on one server.
fn tier(url: &str) -> String {
    tier_at(&format!("\"{url}\""))
}

/// With the budget that holds where the file does not say.
fn brisk_tier(url: &str) -> String {
    format!("[cache.redis]\nurl = \"{url}\"\nprefix = \"{PREFIX}\"\n")
}

/// One server and one origin, for as many gateways as a test starts.
struct Fleet {
    redis: Redis,
    origin: Origin,
}

impl Fleet {
    async fn start() -> Self {
        Self {
            redis: Redis::start().await,
            origin: Origin::start().await,
        }
    }

    /// Another gateway, whose tier is up.
    async fn gateway(&self) -> Gateway {
        self.gateway_with("").await
    }

    /// With this behind `[cache.redis]`.
    async fn gateway_with(&self, rest: &str) -> Gateway {
        let toml = format!("{}{rest}", tier(&self.redis.url()));
        let gateway = Gateway::start(&self.origin, &toml).await;
        is_up(&gateway).await;
        gateway
    }

    /// Two of them.
    async fn pair(&self) -> (Gateway, Gateway) {
        (self.gateway().await, self.gateway().await)
    }
}

/// What `/status` says of the tier: `up`, `resting` or `off`.
async fn state(gateway: &Gateway) -> String {
    let status = gateway.admin("GET", "/status").await.json();
    let state = status["shared"]["state"].as_str();
    state
        .unwrap_or_else(|| panic!("no state of the tier: {status}"))
        .to_owned()
}

/// Waits until the tier is in that state.
async fn is(gateway: &Gateway, wanted: &str) {
    let start = Instant::now();
    while state(gateway).await != wanted {
        let waited = start.elapsed();
        assert!(waited < BACK, "not {wanted} within {waited:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn is_up(gateway: &Gateway) {
    is(gateway, "up").await;
}

async fn is_resting(gateway: &Gateway) {
    is(gateway, "circuit_open").await;
}

/// The same of a process.
async fn process_is(process: &Process, wanted: &str) {
    let start = Instant::now();
    loop {
        let status = process.status().await;
        if status["shared"]["state"] == wanted {
            return;
        }
        let waited = start.elapsed();
        assert!(waited < BACK, "not {wanted} within {waited:?}: {status}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn counter(result: &str) -> String {
    format!("stepgate_shared_requests_total{{result=\"{result}\"}}")
}

/// How often the tier was asked or written with that result.
async fn counted(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&counter(result)).await
}

/// How often the tier was asked, and answered.
async fn lookups(gateway: &Gateway) -> f64 {
    counted(gateway, "hit").await + counted(gateway, "miss").await
}

/// Waits until it has written so much in all: that comes behind the answer.
async fn has_written(gateway: &Gateway, entries: f64) {
    let start = Instant::now();
    loop {
        let stored = counted(gateway, "stored").await;
        if stored >= entries {
            return;
        }
        let waited = start.elapsed();
        assert!(waited < BACK, "{stored} of {entries} after {waited:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Has `gateway` fetch these final steps and write them to the tier.
async fn spread(gateway: &Gateway, paths: &[&str]) {
    let before = counted(gateway, "stored").await;
    for path in paths {
        let fetched = gateway.get(path).await;
        assert!(fetched.is_stored(), "{path}: {}", fetched.cache_status());
    }
    has_written(gateway, before + paths.len() as f64).await;
}

/// From the tier, and no fetch.
fn is_shared(answer: &Response) -> bool {
    answer.is_hit() && answer.cache_status().contains("detail=shared")
}

/// From this gateway's memory.
fn is_own(answer: &Response) -> bool {
    answer.is_hit() && !is_shared(answer)
}

/// From upstream.
fn is_fetched(answer: &Response) -> bool {
    answer.status == 200 && answer.cache_status().contains("fwd=")
}

/// Purges what lies below, and gives how much of it was in that gateway's memory.
async fn purge(gateway: &Gateway, below: &str) -> u64 {
    let answer = gateway.admin("DELETE", &format!("/cache/{below}")).await;
    assert_eq!(answer.status, 200, "{below}: {}", answer.text());
    answer.json()["purged"].as_u64().expect("a count")
}

/// Waits until no gateway may serve what a purge took.
async fn reached() {
    sleep(REACHED).await;
}

fn age(answer: &Response) -> u64 {
    answer.header("age").expect("an age").parse().unwrap()
}

fn ttl(answer: &Response) -> u64 {
    let status = answer.cache_status();
    let rest = status.strip_prefix("stepgate; hit; ttl=").expect("a hit");
    rest.split(';').next().unwrap().parse().unwrap()
}

/// A step of another thread than the others' `thread_1`.
fn elsewhere(thread: &str) -> String {
    format!("/v1/threads/{thread}/runs/run_1/steps/step_1")
}

/// The end that the origin gives at first, of a step of `run_1`.
fn completed(thread: &str, id: &str) -> String {
    String::from_utf8(step_json(thread, "run_1", id, "completed")).unwrap()
}

/// Promise 5: steps that nobody has asked for, answered right, then from memory.
async fn assert_serves(gateway: &Gateway, name: &str) {
    for nth in 0..5 {
        let id = format!("{name}_{nth}");
        let right = completed("thread_1", &id);
        let fetched = gateway.get(&step(&id)).await;
        assert_eq!(
            (fetched.status, fetched.text()),
            (200, right.clone()),
            "{id}"
        );
        let hit = gateway.get(&step(&id)).await;
        assert_eq!((hit.status, hit.text()), (200, right), "{id}");
        assert!(hit.is_hit(), "{id}: {}", hit.cache_status());
    }
}

/// What one has fetched, the other has from the tier; what it purges, the other loses.
///
/// Soon, if not the first time: a tier that was in trouble may need a moment.
async fn assert_shares(origin: &Origin, one: &Gateway, other: &Gateway, name: &str) {
    let start = Instant::now();
    for nth in 0.. {
        let thread = format!("{name}_{nth}");
        let path = elsewhere(&thread);
        let fetched = one.get(&path).await;
        assert_eq!(fetched.status, 200);
        sleep(Duration::from_millis(50)).await;
        let answer = other.get(&path).await;
        assert_eq!(answer.text(), fetched.text());
        if is_shared(&answer) {
            let requests = origin.requests();
            let fetches = requests.iter().filter(|r| r.target() == path).count();
            assert_eq!(fetches, 1, "{path}");
            purge(one, &format!("run-step/{thread}")).await;
            reached().await;
            assert!(is_fetched(&other.get(&path).await), "purged, and served");
            return;
        }
        let waited = start.elapsed();
        assert!(waited < BACK, "nothing is shared after {waited:?}");
    }
}
