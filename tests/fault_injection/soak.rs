//! The soak: mixed traffic at a fixed rate, whatever comes back, with random faults, outages and
//! reloads; and the memory and descriptors that the gateway uses meanwhile.

mod chaos_schedule;
mod health;
mod traffic;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};

use crate::fixtures::certificates::Authority;
use crate::fixtures::origin::Protocol;
use crate::fixtures::random::seeded;
use crate::fixtures::redis::Redis;
use crate::ledger::{Case, Ledger, Verdict, print, shows_secret};
use crate::testbed::{KEY_FILE, Testbed, VIRTUAL_KEY, configuration};
use crate::upstream::{Lifetime, Settings, Upstream};
use chaos_schedule::ChaosSchedule;
use health::Health;
use traffic::{CLIENTS, Client, Traffic};

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    /// Requests a second.
    pub(crate) rate: u32,
}

/// The first API key. The following ones have another number.
const FIRST_KEY: &str = "canary-api-key-0";

/// The longest time for which a step is live.
const LIFETIME: Duration = Duration::from_secs(8);

/// The share of the untouched requests that must be answered correctly.
const MIN_CORRECT: f64 = 0.999;

const REDIS_PASSWORD: &str = "canary-redis-password";

/// The environment that the gateway needs to reach Redis, and to encrypt what is in it.
const REDIS_URL: &str = "FAULTS_REDIS_URL";
const ENCRYPTION_KEY: (&str, &str) = ("FAULTS_ENCRYPTION_KEY", "canary-redis-encryption-key");

/// Runs the soak, prints its table, and returns whether it passed.
pub(crate) async fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let Options {
        seed,
        duration,
        rate,
    } = *options;
    let time = humantime::format_duration(duration);
    print(&format!("soak: {time} at {rate} requests/s, seed {seed}"));
    let ledger = Ledger::default();
    let authority = Authority::new();
    let redis = if Redis::is_installed().await {
        let redis = Redis::start_with_password(REDIS_PASSWORD).await;
        Some(Arc::new(Mutex::new(redis)))
    } else {
        print("redis-server is not on PATH: a soak without the shared tier");
        None
    };
    let (testbed, text) = start(seed, &authority, &ledger, redis.as_deref()).await?;
    let testbed = Arc::new(testbed);
    let case = Case::new(seed, 0, "soak");
    testbed.upstream.set_case(&case);
    let mut health = Health::new(&testbed.gateway, duration);
    let schedule = Arc::new(ChaosSchedule::new(duration));
    let mut chaos = JoinSet::new();
    {
        let (testbed, schedule) = (Arc::clone(&testbed), Arc::clone(&schedule));
        chaos.spawn(async move { schedule.strike_upstream(&testbed, &text).await });
    }
    if let Some(redis) = redis.clone() {
        let schedule = Arc::clone(&schedule);
        chaos.spawn(async move { schedule.strike_redis(&redis).await });
    }

    let traffic = Arc::new(Traffic::new(&testbed, &schedule, seed));
    let mut samples = interval(health::sample_interval(duration));
    let mut requests = JoinSet::new();
    let mut number = 0;
    let started = Instant::now();
    let mut next = started;
    while next < started + duration {
        tokio::select! {
            () = sleep_until(next) => {
                let traffic = Arc::clone(&traffic);
                requests.spawn(async move { traffic.send(number).await });
                number += 1;
                next += pause(seed, number, rate);
            }
            Some(done) = requests.join_next() => done?,
            _ = samples.tick() => health.sample(&testbed.gateway),
        }
    }
    // The last sample is taken while requests are still under way.
    health.sample(&testbed.gateway);
    while let Some(done) = requests.join_next().await {
        done?;
    }
    chaos.shutdown().await;
    let totals = traffic.totals();
    drop(traffic);
    let fetches = testbed.upstream.all_fetches();
    let shared = match &redis {
        Some(redis) => check_redis(&*redis.lock().await, &testbed, &case).await,
        None => String::new(),
    };
    let testbed = Arc::into_inner(testbed).ok_or("the soak is still at work")?;
    testbed.end(&case).await;

    let correct = totals.correct_share();
    let total = ledger.total();
    let (has_grown, usage) = health.report();
    print(&format!(
        "\n| soak, {time}, {rate} requests/s, seed {seed} | |\n|---|---:|\n\
         | requests | {} |\n| upstream fetches | {fetches} |\n\
         | touched by a fault, an outage or a rate limit | {} |\n\
         | untouched | {} |\n| answered correctly, of the untouched | {:.3} % |\n\
         | lost, wrong, leaked | {}, {}, {} |\n{}{shared}{usage}",
        totals.requests,
        totals.touched,
        totals.untouched(),
        correct * 100.0,
        total.lost,
        total.wrong,
        total.leaked,
        schedule.report(),
    ));
    for (name, counts) in ledger.by_name() {
        print(&format!(
            "{name}: {} correct, {} errors, {} truncated",
            counts.correct, counts.error, counts.truncated
        ));
    }
    Ok(total.bad() == 0 && correct >= MIN_CORRECT && !has_grown)
}

/// Returns the time to the next request: on average what the rate says, at most twice that.
fn pause(seed: u64, number: u64, rate: u32) -> Duration {
    let mut rng = seeded(seed, &["pause", &number.to_string()]);
    Duration::from_secs(1) / rate.max(1) * rng.u32(..2000) / 1000
}

/// Starts the gateway of the soak, and returns its configuration, too.
async fn start(
    seed: u64,
    authority: &Authority,
    ledger: &Ledger,
    redis: Option<&Mutex<Redis>>,
) -> io::Result<(Testbed, String)> {
    let accounts = CLIENTS.each_ref().map(|c| (c.virtual_key(), c.account));
    let upstream = Upstream::start(Settings {
        protocol: Protocol::Http1,
        authority,
        lifetime: Lifetime::UpTo(LIFETIME),
        key: FIRST_KEY,
        accounts: &accounts,
        chance: Some(chaos_schedule::chance(seed)),
        ledger,
    })?;
    let mut more: String = CLIENTS.iter().map(Client::toml).collect();
    let mut env = vec![(VIRTUAL_KEY, traffic::COMMON_KEY), ENCRYPTION_KEY];
    env.extend(CLIENTS.iter().map(|client| client.token));
    env.extend(CLIENTS.iter().filter_map(|client| client.own_key));
    let (mut url, mut max_bytes) = (String::new(), "4MiB");
    if let Some(redis) = redis {
        let address = redis.lock().await.address();
        url = format!("redis://:{REDIS_PASSWORD}@{address}");
        // So little that many repeated requests are answered from Redis alone.
        max_bytes = "1MiB";
        // Longer than the default, so that a busy machine is no failure.
        more = format!(
            "\n[cache.redis]\nurl = {{ env = \"{REDIS_URL}\" }}\nprefix = \"soak\"\n\
             encryption_key = {{ env = \"{}\" }}\ncommand_timeout = \"200ms\"\n{more}",
            ENCRYPTION_KEY.0
        );
    }
    env.push((REDIS_URL, &url));
    let text = configuration(&upstream.base_url(), authority, &more)
        .replace(
            "max_bytes = \"4MiB\"",
            &format!("max_bytes = \"{max_bytes}\""),
        )
        .replace("max_connections = 48", "max_connections = 4000")
        .replace("idle_timeout = \"2s\"", "idle_timeout = \"60s\"")
        .replace("max_in_flight = 8", "max_in_flight = 128")
        .replace("coalesce_window = \"20ms\"", "coalesce_window = \"100ms\"");
    let files = [(KEY_FILE, FIRST_KEY)];
    let testbed = Testbed::around(upstream, authority, ledger, &text, &files, &env).await;
    Ok((testbed, text))
}

/// Checks that no secret is in Redis, and returns lines of the table.
async fn check_redis(redis: &Redis, testbed: &Testbed, case: &Case) -> String {
    if redis
        .everything()
        .await
        .iter()
        .any(|text| shows_secret(text))
    {
        let leaked = Verdict::Leaked("a secret in Redis".to_owned());
        testbed.note(case, &leaked, b"");
    }
    let metrics = testbed.admin("GET", "/metrics").await.unwrap_or_default();
    let lookups = |result: &str| format!("stepgate_shared_lookups_total{{result=\"{result}\"}}");
    let writes = |result: &str| format!("stepgate_shared_writes_total{{result=\"{result}\"}}");
    format!(
        "| answers from Redis, writes, failed commands | {}, {}, {} |\n",
        metrics.sample(&lookups("hit")),
        metrics.sample(&writes("stored")),
        metrics.sample(&lookups("error")) + metrics.sample(&writes("error")),
    )
}
