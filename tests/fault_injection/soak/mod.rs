//! The soak: mixed traffic at a fixed rate, whatever comes back, with random faults, outages and
//! reloads; and what the gateway weighs meanwhile.

mod chaos_schedule;
mod clients;
mod errand;
mod figures;
mod health;
mod redis;
mod traffic;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};

use crate::caller::Got;
use crate::dice::Dice;
use crate::gateway::Gateway;
use crate::kind::Wire;
use crate::ledger::{Case, Ledger, Verdict, say, shows_secret};
use crate::origin::{Accounts, Authority, Lives, Origin, Setting};
use crate::world::{World, configuration};
use chaos_schedule::Weather;
use clients::{BASE_KEY, CLIENTS};
use health::Health;
use redis::Redis;
use traffic::Traffic;

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    /// Requests a second.
    pub(crate) rate: u32,
}

/// The first API key; the following ones differ in their number.
pub(crate) const FIRST_KEY: &str = "canary-api-key-0";

/// The longest that a step lives.
const LIFE: Duration = Duration::from_secs(8);

/// Of the untouched requests, so many must be answered well.
const WELL: f64 = 0.999;

/// Runs it, prints the table, and says whether it is as promised.
pub(crate) async fn run(orders: &Orders) -> Result<bool, Box<dyn Error>> {
    let Orders {
        seed,
        duration,
        rate,
    } = *orders;
    say(&format!(
        "soak: {} at {rate} requests/s, seed {seed}",
        humantime::format_duration(duration)
    ));
    let ledger = Ledger::default();
    let authority = Arc::new(Authority::new()?);
    let redis = Redis::start(seed).await?.map(Arc::new);
    if redis.is_none() {
        say("redis-server is not on PATH: a soak without the shared tier");
    }
    let redis = redis.as_ref();
    let world = Arc::new(start(seed, &authority, &ledger, redis).await?);
    let case = Case {
        seed,
        number: 0,
        kind: "soak".to_owned(),
    };
    world.origin.set_case(&case);
    let mut health = Health::new(&world.gateway, duration);
    let weather = Arc::new(Weather::new(duration));
    let mut company = JoinSet::new();
    let (world_, weather_) = (Arc::clone(&world), Arc::clone(&weather));
    let text = text(&world_.origin, &authority, redis);
    company.spawn(async move { weather_.blow(&world_, &text).await });
    if let Some(redis) = redis {
        let (redis, weather) = (Arc::clone(redis), Arc::clone(&weather));
        company.spawn(async move { weather.blow_on(&redis).await });
    }

    let traffic = Arc::new(Traffic::new(&world, &weather, seed));
    let started = Instant::now();
    let mut samples = interval(health::pace(duration));
    let mut requests = JoinSet::new();
    let mut number = 0;
    let mut next = started;
    while next < started + duration {
        tokio::select! {
            () = sleep_until(next) => {
                let traffic = Arc::clone(&traffic);
                requests.spawn(async move { traffic.one(number).await });
                number += 1;
                next += pause(seed, number, rate);
            }
            Some(done) = requests.join_next() => done?,
            _ = samples.tick() => health.sample(&world.gateway),
        }
    }
    // The last samples are of a gateway at work.
    health.sample(&world.gateway);
    while let Some(done) = requests.join_next().await {
        done?;
    }
    company.shutdown().await;
    let figures = traffic.figures();
    drop(traffic);
    let fetches = world.origin.shared.fetches.load(Ordering::Relaxed);
    let shared = match redis {
        Some(redis) => look_through(redis, &world, &case).await,
        None => String::new(),
    };
    let world = Arc::into_inner(world).ok_or("the soak is still at work")?;
    world.end(&case).await;

    let well = figures.well();
    let total = ledger.total();
    let (grown, weight) = health.report();
    say(&format!(
        "\n| soak, {}, {rate} requests/s, seed {seed} | |\n|---|---:|\n\
         | requests | {} |\n| upstream fetches | {fetches} |\n\
         | touched by a fault, an outage or a hold | {} |\n\
         | untouched | {} |\n| answered well, of the untouched | {:.3} % |\n\
         | lost, wrong, leaked | {}, {}, {} |\n{}{shared}{weight}",
        humantime::format_duration(duration),
        figures.requests,
        figures.touched,
        figures.untouched(),
        well * 100.0,
        total.lost,
        total.wrong,
        total.leaked,
        weather.report(),
    ));
    for (kind, counts) in ledger.by_kind() {
        say(&format!(
            "{kind}: {} right, {} errors, {} cut",
            counts.right, counts.error, counts.cut
        ));
    }
    Ok(total.bad() == 0 && well >= WELL && !grown)
}

/// The time to the next request: on average what the rate says, at most twice that.
fn pause(seed: u64, number: u64, rate: u32) -> Duration {
    let mut dice = Dice::of(seed, &["pause", &number.to_string()]);
    let share = u32::try_from(dice.below(2000)).unwrap_or(0);
    Duration::from_secs(1) / rate.max(1) * share / 1000
}

/// What Redis holds has no secret in it; and lines of a table.
async fn look_through(redis: &Redis, world: &World, case: &Case) -> String {
    match redis.everything().await {
        Ok(held) if shows_secret(&held) => {
            let why = "a secret in Redis".to_owned();
            world.note(case, &Verdict::Leaked(why), &[]);
        }
        Ok(_) => {}
        // At the end it is calm.
        Err(error) => {
            let why = format!("Redis is not what it was: {error}");
            world.note(case, &Verdict::Lost(why), &[]);
        }
    }
    let metrics = match world.gateway.admin("GET", "/metrics").await {
        Got::Whole(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
        Got::Cut(_) | Got::Closed(_) | Got::Late(_) | Got::Garbled(..) => String::new(),
    };
    let count = |result: &str| {
        let name = format!("stepgate_shared_requests_total{{result=\"{result}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or("?").to_owned()
    };
    let [hit, stored, error] = ["hit", "stored", "error"].map(count);
    format!("| answers from Redis, written there, commands in vain | {hit}, {stored}, {error} |\n")
}

fn text(origin: &Origin, authority: &Authority, redis: Option<&Arc<Redis>>) -> String {
    let clients = CLIENTS
        .iter()
        .map(|client| client.toml())
        .collect::<String>();
    let (shared, memory) = match redis {
        // So little that much of what is asked for again is in Redis alone.
        Some(_) => (Redis::toml(), "1MiB"),
        None => (String::new(), "4MiB"),
    };
    configuration(&origin.base_url(), authority, &(shared + &clients))
        .replace("max_bytes = \"4MiB\"", &format!("max_bytes = \"{memory}\""))
        .replace("max_connections = 48", "max_connections = 4000")
        .replace("idle_timeout = \"2s\"", "idle_timeout = \"60s\"")
        .replace("max_in_flight = 8", "max_in_flight = 128")
        .replace("coalesce_window = \"20ms\"", "coalesce_window = \"100ms\"")
}

async fn start(
    seed: u64,
    authority: &Arc<Authority>,
    ledger: &Ledger,
    redis: Option<&Arc<Redis>>,
) -> Result<World, Box<dyn Error>> {
    let names: Vec<(&str, &str)> = CLIENTS
        .iter()
        .map(|c| (c.virtual_key(), c.account))
        .collect();
    let origin = Origin::start(Setting {
        wire: Wire::Plain,
        authority: Arc::clone(authority),
        lives: Lives::Time(LIFE),
        accounts: Accounts::new(FIRST_KEY, &names),
        chance: Some(chaos_schedule::chance(seed)),
        ledger: ledger.clone(),
    })?;
    let mut env = vec![("RIG_VIRTUAL_KEY", BASE_KEY)];
    env.extend(
        CLIENTS
            .iter()
            .map(|client| (client.token_name, client.token)),
    );
    env.extend(CLIENTS.iter().filter_map(|client| client.own_key));
    let url = redis.map(|redis| redis.url());
    env.extend(url.as_deref().map(|url| (redis::URL, url)));
    env.push(redis::SEAL);
    let files = [("api.key", FIRST_KEY)];
    let text = text(&origin, authority, redis);
    let gateway = Gateway::start(&text, &files, &env, ledger).await?;
    Ok(World::of(authority, origin, gateway, ledger))
}
