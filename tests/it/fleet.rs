//! A fleet: gateways that share Redis or Valkey (DESIGN section 9, catalogue items 39, 40 and 41a). The
//! servers are real. A gateway runs in this process unless the test measures or kills it.

mod cluster;
mod corruption;
mod encryption;
mod error_messages;
mod failover;
mod forged_values;
mod freshness;
mod hung_server;
mod in_flight;
mod invalidation;
mod load;
mod partitions;
mod purge_log;
mod purge_propagation;
mod race;
mod redis_faults;
mod sharing;
mod split_brain;
mod tls;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::redis::Redis;
use crate::support::{Gateway, Origin, Process, client::Response, step, step_json};

/// The default of `command_timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(50);

/// The time within which a purge reaches every connected gateway.
const PURGE_PROPAGATION: Duration = Duration::from_secs(1);

/// The time within which a circuit closes again. A probe follows after at most ten seconds.
const RECOVERY: Duration = Duration::from_secs(15);

/// The key prefix of most tests.
const PREFIX: &str = "fleet";

/// Returns the configuration of a tier at `url`, which is TOML. Its command timeout is the longest allowed,
/// because most tests check whether something is shared, not how soon.
fn tier_at(url: &str) -> String {
    format!("[cache.redis]\nurl = {url}\nprefix = \"{PREFIX}\"\ncommand_timeout = \"1s\"\n")
}

/// Returns the configuration of a tier on one server.
fn tier(url: &str) -> String {
    tier_at(&format!("\"{url}\""))
}

/// Returns the configuration of a tier with the default command timeout.
fn tier_with_default_timeout(url: &str) -> String {
    format!("[cache.redis]\nurl = \"{url}\"\nprefix = \"{PREFIX}\"\n")
}

/// A server and an origin for the gateways of a test.
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

    /// Starts a gateway and waits until its tier is up.
    async fn gateway(&self) -> Gateway {
        self.gateway_with("").await
    }

    /// Starts a gateway with `rest` after its section `[cache.redis]`.
    async fn gateway_with(&self, rest: &str) -> Gateway {
        let toml = format!("{}{rest}", tier(&self.redis.url()));
        start_gateway(&self.origin, &toml).await
    }

    /// Starts two gateways.
    async fn pair(&self) -> (Gateway, Gateway) {
        (self.gateway().await, self.gateway().await)
    }
}

/// Starts a gateway and waits until its tier is up.
async fn start_gateway(origin: &Origin, toml: &str) -> Gateway {
    let gateway = Gateway::start(origin, toml).await;
    wait_up(&gateway).await;
    gateway
}

/// Starts two gateways with the same configuration.
async fn start_pair(origin: &Origin, toml: &str) -> (Gateway, Gateway) {
    (
        start_gateway(origin, toml).await,
        start_gateway(origin, toml).await,
    )
}

/// Returns the state of the tier in `/status`: `up`, `circuit_open` or `off`.
async fn tier_state(gateway: &Gateway) -> String {
    let status = gateway.admin("GET", "/status").await.json();
    let state = status["shared"]["state"].as_str();
    state
        .unwrap_or_else(|| panic!("no state of the tier: {status}"))
        .to_owned()
}

/// Waits until the tier is in a state.
async fn wait_state(gateway: &Gateway, wanted: &str) {
    let start = Instant::now();
    while tier_state(gateway).await != wanted {
        let waited = start.elapsed();
        assert!(waited < RECOVERY, "not {wanted} within {waited:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_up(gateway: &Gateway) {
    wait_state(gateway, "up").await;
}

async fn wait_circuit_open(gateway: &Gateway) {
    wait_state(gateway, "circuit_open").await;
}

/// Waits until the tier of a process is in a state.
async fn wait_process_state(process: &Process, wanted: &str) {
    let start = Instant::now();
    loop {
        let status = process.status().await;
        if status["shared"]["state"] == wanted {
            return;
        }
        let waited = start.elapsed();
        assert!(
            waited < RECOVERY,
            "not {wanted} within {waited:?}: {status}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

fn counter(metric: &str, result: &str) -> String {
    format!("stepgate_shared_{metric}_total{{result=\"{result}\"}}")
}

/// Returns the number of look-ups or writes (`metric`) with that result.
async fn counted(gateway: &Gateway, metric: &str, result: &str) -> f64 {
    gateway.metric(&counter(metric, result)).await
}

/// Returns how many look-ups and writes failed.
async fn errors(gateway: &Gateway) -> f64 {
    counted(gateway, "lookups", "error").await + counted(gateway, "writes", "error").await
}

/// Returns the number of look-ups that the tier answered.
async fn lookups(gateway: &Gateway) -> f64 {
    counted(gateway, "lookups", "hit").await + counted(gateway, "lookups", "miss").await
}

/// Waits until a gateway has written `entries` in all, since it writes after its response.
async fn wait_written(gateway: &Gateway, entries: f64) {
    let start = Instant::now();
    loop {
        let stored = counted(gateway, "writes", "stored").await;
        if stored >= entries {
            return;
        }
        let waited = start.elapsed();
        assert!(waited < RECOVERY, "{stored} of {entries} after {waited:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Has `gateway` fetch final steps, and waits until it has written them to the tier.
async fn store_in_tier(gateway: &Gateway, paths: &[&str]) {
    let before = counted(gateway, "writes", "stored").await;
    for path in paths {
        let fetched = gateway.get(path).await;
        assert!(fetched.is_stored(), "{path}: {}", fetched.cache_status());
    }
    wait_written(gateway, before + paths.len() as f64).await;
}

/// Returns whether a response is a hit of the shared tier.
fn is_shared_hit(answer: &Response) -> bool {
    answer.is_hit() && answer.cache_status().contains("detail=shared")
}

/// Returns whether a response is a hit of the gateway's memory.
fn is_memory_hit(answer: &Response) -> bool {
    answer.is_hit() && !is_shared_hit(answer)
}

/// Returns whether a response is a fetch.
fn is_fetched(answer: &Response) -> bool {
    answer.status == 200 && answer.cache_status().contains("fwd=")
}

/// Requests `path` and asserts that the response is a hit of the shared tier.
async fn expect_shared_hit(gateway: &Gateway, path: &str) -> Response {
    let answer = gateway.get(path).await;
    assert!(is_shared_hit(&answer), "{path}: {}", answer.cache_status());
    answer
}

/// Requests `path` and asserts that the response is a hit of the gateway's memory.
async fn expect_memory_hit(gateway: &Gateway, path: &str) -> Response {
    let answer = gateway.get(path).await;
    assert!(is_memory_hit(&answer), "{path}: {}", answer.cache_status());
    answer
}

/// Requests `path` and asserts that the gateway fetched it.
async fn expect_fetched(gateway: &Gateway, path: &str) -> Response {
    let answer = gateway.get(path).await;
    assert!(is_fetched(&answer), "{path}: {}", answer.cache_status());
    answer
}

/// Purges the steps below `below`, and returns how many bodies the gateway had in memory.
async fn purge(gateway: &Gateway, below: &str) -> u64 {
    let answer = gateway.admin("DELETE", &format!("/cache/{below}")).await;
    assert_eq!(answer.status, 200, "{below}: {}", answer.text());
    answer.json()["purged"].as_u64().expect("a count")
}

/// Waits until a purge must have reached every gateway.
async fn wait_purge_propagated() {
    sleep(PURGE_PROPAGATION).await;
}

fn age(answer: &Response) -> u64 {
    answer.header("age").expect("an age").parse().unwrap()
}

fn ttl(answer: &Response) -> u64 {
    let status = answer.cache_status();
    let rest = status.strip_prefix("stepgate; hit; ttl=").expect("a hit");
    rest.split(';').next().unwrap().parse().unwrap()
}

/// Returns the path of a step of `thread`.
fn step_of_thread(thread: &str) -> String {
    format!("/v1/threads/{thread}/runs/run_1/steps/step_1")
}

/// Returns the first final body of the origin for a step of `run_1`.
fn completed(thread: &str, id: &str) -> String {
    String::from_utf8(step_json(thread, "run_1", id, "completed")).unwrap()
}

/// Asserts promise 5: new steps are answered correctly, and then from memory.
async fn assert_serves(gateway: &Gateway, name: &str) {
    for nth in 0..5 {
        let id = format!("{name}_{nth}");
        let expected = completed("thread_1", &id);
        let fetched = gateway.get(&step(&id)).await;
        assert_eq!(
            (fetched.status, fetched.text()),
            (200, expected.clone()),
            "{id}"
        );
        let hit = gateway.get(&step(&id)).await;
        assert_eq!((hit.status, hit.text()), (200, expected), "{id}");
        assert!(hit.is_hit(), "{id}: {}", hit.cache_status());
    }
}

/// Asserts that `other` gets from the tier what `one` fetched, and loses what `one` purges. It tries
/// repeatedly, because a tier may need time to recover from a fault.
async fn assert_shares(origin: &Origin, one: &Gateway, other: &Gateway, name: &str) {
    let start = Instant::now();
    for nth in 0.. {
        let thread = format!("{name}_{nth}");
        let path = step_of_thread(&thread);
        let fetched = one.get(&path).await;
        assert_eq!(fetched.status, 200);
        sleep(Duration::from_millis(50)).await;
        let answer = other.get(&path).await;
        assert_eq!(answer.text(), fetched.text());
        if is_shared_hit(&answer) {
            let requests = origin.requests();
            let fetches = requests.iter().filter(|r| r.target() == path).count();
            assert_eq!(fetches, 1, "{path}");
            purge(one, &format!("run-step/{thread}")).await;
            wait_purge_propagated().await;
            assert!(is_fetched(&other.get(&path).await), "it was purged");
            return;
        }
        let waited = start.elapsed();
        assert!(waited < RECOVERY, "no step was shared within {waited:?}");
    }
}
