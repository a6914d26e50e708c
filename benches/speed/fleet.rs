//! Measures what the shared tier saves a fleet, and what it costs the gateways and Redis.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::http::{self, Client};
use crate::load::{Responses, Source, fetch, fetch_each, quantiles};
use crate::origin::Origin;
use crate::process::{ON_LOAD_CORE, ON_SERVER_CORE, Process, free_address, pause, split};
use crate::report::{Figure, Table};
use crate::run_step::{NEARBY, RunStep, SMALL, path_in};
use crate::server::{STEPGATE, Server, Stage};
use crate::suite::{Effort, Measured, Part};

/// Is how many steps end while they are polled.
const STEPS: u32 = 200;

/// Is how long a step is live after the first poll, in milliseconds.
const LIFETIME: u32 = 1000;

/// Is the pause between a response and the next poll, in milliseconds.
const PAUSE: Range<u64> = 100..250;

/// Is how many steps a restart and the commands are measured with.
const FINAL_STEPS: u32 = 10_000;

/// Lets gateways write to Redis what they have stored.
const WRITTEN: Duration = Duration::from_millis(100);

pub(crate) fn parts() -> Vec<Part> {
    vec![
        Part {
            name: "together",
            title: "Steps polled through every gateway from the beginning",
            method: "200 steps of 790 B, each in a thread of its own, begin over three times `--seconds`; \
                     each ends 1,000 ms after its first poll. The upstream responds after 20 ms. A poller \
                     polls again 100 to 250 ms after a response. Each gateway has a poller for each step, \
                     which polls until the step is final and then twice more.",
            run: Box::new(|stage, effort| polled(&[1, 2, 4, 8, 16], false, stage, effort)),
        },
        Part {
            name: "later",
            title: "Steps that come to the other gateways when they are final",
            method: "The same steps. One gateway has a poller for a step, in turn, which polls until it is \
                     final and then twice more; then each of the others is polled three times.",
            run: Box::new(|stage, effort| polled(&[2, 4, 8, 16], true, stage, effort)),
        },
        Part {
            name: "restart",
            title: "A warm restart",
            method: "10,000 final steps of 790 B, each in a thread of its own, each requested once: from a \
                     gateway without a tier; from the first gateway of a fleet; from a new one with the \
                     same Redis; from this one again. The upstream responds at once; a connection requests \
                     the next step as soon as it has a response. CPU is the gateway's.",
            run: Box::new(restart),
        },
        Part {
            name: "commands",
            title: "What a command costs Redis",
            method: "Bytes of RESP, without those of TCP. Kept is the growth of used_memory with 10,000 \
                     steps of 790 B, each in a thread of its own: a lookup leaves the thread's hash and \
                     token, and a write adds its entry. 16 connections; the purge log is watched while \
                     nothing is requested.",
            run: Box::new(commands),
        },
    ]
}

/// Starts a gateway that shares `redis`, if there is one.
fn start(stage: &Stage, origin: &Origin, redis: Option<&Redis>) -> Result<Server> {
    let redis = redis.map(|redis| redis.address);
    stage.start(STEPGATE, origin, ON_SERVER_CORE, redis)
}

/// Measures steps that end while they are polled, by number of gateways, without and with the tier.
///
/// If `is_later`, one gateway has a poller for a step, and the others get one when that has seen it end.
fn polled(counts: &[u32], is_later: bool, stage: &Stage, effort: Effort) -> Measured {
    let origin = Origin::start(None)?;
    let rows = counts
        .iter()
        .flat_map(|count| [(*count, false), (*count, true)]);
    let rows: Vec<_> = rows.collect();
    // Sixteen gateways that poll all steps then leave both cores some room.
    let span = Duration::from_secs(u64::from(3 * effort.seconds));
    let figures = effort.measure(&rows, |&(count, has_tier), round| {
        // A new fleet each time: no gateway has anything in memory.
        let redis = has_tier.then(Redis::start).transpose()?;
        let gateways = (0..count).map(|_| start(stage, &origin, redis.as_ref()));
        let gateways = gateways.collect::<Result<Vec<_>>>()?;
        let cpu = || -> Result<f64> {
            let gateways = gateways.iter();
            gateways.map(|gateway| gateway.process.cpu_micros()).sum()
        };
        let word = format!("{round}_{count}_{has_tier}_{is_later}");
        let (fetches, finals, cpu_before) = (origin.requests(), origin.finals(), cpu()?);
        let begin = Instant::now();
        let poll = || {
            let responses = poll_all(&gateways, is_later, &word, span)?;
            pause(WRITTEN);
            Ok(responses)
        };
        let (responses, [commands, bytes_in, bytes_out]) = match &redis {
            None => (poll()?, [f64::NAN; 3]),
            Some(redis) => {
                let (responses, usage) = redis.usage_during(poll)?;
                (responses, [usage.commands, usage.bytes_in, usage.bytes_out])
            }
        };
        let seconds = begin.elapsed().as_secs_f64();
        let cpu = cpu()? - cpu_before;
        let polls = responses.count() as f64;
        let fetches = (origin.requests() - fetches) as f64 / f64::from(STEPS);
        let finals = (origin.finals() - finals) as f64 / f64::from(STEPS);
        let shared = responses.latencies(Source::SharedTier);
        let shared_hits = shared.len() as f64;
        let [memory_p50, memory_p99] = quantiles(responses.latencies(Source::Memory), [500, 990]);
        let [shared_p50, shared_p99] = quantiles(shared, [500, 990]);
        Ok(vec![
            Figure::new("fetches per step", fetches),
            Figure::new("per step and gateway", fetches / f64::from(count)),
            Figure::new("final ones per step", finals),
            Figure::new("polls", polls),
            Figure::new("shared hits", shared_hits),
            Figure::new("CPU µs per poll", cpu / polls),
            Figure::new("memory p50 µs", memory_p50),
            Figure::new("p99", memory_p99),
            Figure::new("shared p50 µs", shared_p50),
            Figure::new("p99", shared_p99),
            Figure::new("Redis commands/s", commands / seconds),
            Figure::new("KB/s in", bytes_in / 1e3 / seconds),
            Figure::new("out", bytes_out / 1e3 / seconds),
        ])
    })?;
    let names = rows.iter().map(|(count, has_tier)| {
        format!("{count}, {}", if *has_tier { "with" } else { "without" })
    });
    let table = Table::of("gateways, tier", names, &figures);
    Ok((table, Vec::new()))
}

/// Polls all steps, which begin one after the other over `span`. Another `word` is other steps.
fn poll_all(gateways: &[Server], is_later: bool, word: &str, span: Duration) -> Result<Responses> {
    let clients = gateways.iter().map(|gateway| Client::new(gateway.address));
    let clients: Vec<_> = clients.map(Rc::new).collect();
    let responses = Rc::<RefCell<Responses>>::default();
    http::run(async {
        let mut steps = JoinSet::new();
        for number in 0..STEPS {
            let step = Rc::new(Polled::new(word, number));
            let (mut clients, responses) = (clients.clone(), Rc::clone(&responses));
            // Every run polls alike.
            let mut rng = Rng::with_seed(u64::from(number));
            steps.spawn_local(async move {
                sleep(span * number / STEPS).await;
                if is_later {
                    let first = clients.remove(number as usize % clients.len());
                    step.poll(&first, &responses, rng.fork()).await?;
                    sleep(WRITTEN).await;
                }
                let mut others = JoinSet::new();
                for client in clients {
                    let (step, responses) = (Rc::clone(&step), Rc::clone(&responses));
                    let mut rng = rng.fork();
                    others.spawn_local(async move {
                        sleep(Duration::from_millis(rng.u64(0..PAUSE.end))).await;
                        step.poll(&client, &responses, rng).await
                    });
                }
                others.join_all().await.into_iter().collect::<Result<()>>()
            });
        }
        steps.join_all().await.into_iter().collect::<Result<()>>()?;
        Ok(responses.take())
    })
}

/// Holds what is known of a step that ends.
struct Polled {
    path: String,
    /// Is whether any poller has received the final body.
    has_ended: Cell<bool>,
}

impl Polled {
    fn new(word: &str, number: u32) -> Self {
        let id = format!("ends-{SMALL}-{NEARBY}-{LIFETIME}-{number}");
        Self {
            path: path_in(&format!("thread_{word}_{number}"), &id),
            has_ended: Cell::new(false),
        }
    }

    /// Polls until the step is final and then twice more.
    async fn poll(&self, client: &Client, to: &RefCell<Responses>, mut rng: Rng) -> Result<()> {
        let step = RunStep::parse(&self.path).ok_or("not a path of a step")?;
        let mut left = 3;
        loop {
            // Once a poller has seen the step end, no later poll may see it live.
            let had_ended = self.has_ended.get();
            let body = fetch(client, &self.path, to).await?;
            let is_body = |is_final| step.body(is_final) == body;
            if is_body(true) {
                self.has_ended.set(true);
                left -= 1;
            } else if had_ended || !is_body(false) {
                return Err(format!("a wrong body for {}", self.path).into());
            }
            if left == 0 {
                return Ok(());
            }
            sleep(Duration::from_millis(rng.u64(PAUSE))).await;
        }
    }
}

/// Measures final steps that are each requested once, before and after a restart.
fn restart(stage: &Stage, effort: Effort) -> Measured {
    const WORK: [(&str, Source); 4] = [
        ("fetch, without a tier", Source::Upstream),
        ("fetch, lookup and write", Source::Upstream),
        ("shared hit, after a restart", Source::SharedTier),
        ("memory hit", Source::Memory),
    ];
    let origin = Origin::start(None)?;
    let rows = [1, 16];
    let figures = effort.measure(&rows, |&connections, _| {
        let redis = Redis::start()?;
        let alone = start(stage, &origin, None)?;
        let first = start(stage, &origin, Some(&redis))?;
        let restarted = start(stage, &origin, Some(&redis))?;
        let gateways = [&alone, &first, &restarted, &restarted];
        let mut figures = Vec::new();
        for (number, ((_, source), gateway)) in WORK.into_iter().zip(gateways).enumerate() {
            let (responses, cpu) = gateway.cpu_during(|| {
                let paths = final_steps("done", "restart");
                let responses = fetch_each(gateway.address, paths, connections)?;
                // Writes are a part of the second work.
                if number == 1 {
                    wait_for_writes(gateway)?;
                }
                Ok(responses)
            })?;
            let latencies = responses.latencies(source);
            let count = latencies.len() as f64;
            let [p50, p99] = quantiles(latencies, [500, 990]);
            figures.extend([
                Figure::new("responses from there", count),
                Figure::new("CPU µs each", cpu / f64::from(FINAL_STEPS)),
                Figure::new("p50 µs", p50),
                Figure::new("p99 µs", p99),
            ]);
        }
        Ok(figures)
    })?;
    let names = rows
        .iter()
        .flat_map(|n| WORK.map(|(work, _)| format!("{n}: {work}")));
    let figures = figures.iter().flat_map(|figures| figures.chunks(4));
    let table = Table::of("connections and work", names, figures);
    Ok((table, Vec::new()))
}

/// Returns the paths of steps that each have a thread of their own.
fn final_steps(kind: &'static str, word: &'static str) -> impl Iterator<Item = String> {
    let path = move |number| {
        let id = format!("{kind}-{SMALL}-0-{word}_{number}");
        path_in(&format!("thread_{word}_{number}"), &id)
    };
    (1..=FINAL_STEPS).map(path)
}

/// Waits until all steps are written to Redis, or no more are: a write that exceeds its time is lost.
fn wait_for_writes(gateway: &Server) -> Result<()> {
    let (mut before, mut since) = (0, Instant::now());
    while before < u64::from(FINAL_STEPS) && since.elapsed() < 3 * WRITTEN {
        let stored = gateway.metric("stepgate_shared_writes_total", "result=\"stored\"")?;
        if stored > before {
            (before, since) = (stored, Instant::now());
        }
        pause(WRITTEN / 5);
    }
    Ok(())
}

/// Measures what each kind of command costs: bytes, processor time and memory of Redis.
fn commands(stage: &Stage, effort: Effort) -> Measured {
    const KINDS: [&str; 4] = [
        "a poll of the purge log, no news",
        "a lookup that finds nothing",
        "a write",
        "a lookup that finds a step",
    ];
    const CONNECTIONS: u32 = 16;
    let origin = Origin::start(None)?;
    let figures = effort.measure(&[()], |(), _| {
        let redis = Redis::start()?;
        let first = start(stage, &origin, Some(&redis))?;
        let ((), idle) = redis.usage_during(|| {
            pause(Duration::from_secs(4));
            Ok(())
        })?;
        let poll = idle.each(idle.log_polls);
        // Fetches all steps through `gateway`, with so many scripts each; without the polls meanwhile.
        let fetch = |gateway: &Server, kind, source, scripts: u32| -> Result<[f64; 4]> {
            let (responses, usage) = redis.usage_during(|| {
                let paths = final_steps(kind, "commands");
                let responses = fetch_each(gateway.address, paths, CONNECTIONS)?;
                wait_for_writes(gateway)?;
                Ok(responses)
            })?;
            check_nearly(responses.latencies(source).len() as f64, FINAL_STEPS)?;
            check_nearly(usage.scripts, scripts * FINAL_STEPS)?;
            let polls = usage.log_polls / f64::from(FINAL_STEPS);
            let each = usage.each(f64::from(FINAL_STEPS));
            Ok(minus(each, poll.map(|figure| figure * polls)))
        };
        let nothing = fetch(&first, "live", Source::Upstream, 1)?;
        // Its threads are those of the live steps, whose hashes and tokens are there already.
        let both = fetch(&first, "done", Source::Upstream, 2)?;
        let [bytes_in, bytes_out, cpu, _] = nothing;
        let write = minus(both, [bytes_in, bytes_out, cpu, 0.0]);
        let restarted = start(stage, &origin, Some(&redis))?;
        let found = fetch(&restarted, "done", Source::SharedTier, 1)?;
        // An idle Redis uses more processor time for itself than for the polls.
        let poll = [poll[0], poll[1], f64::NAN, poll[3]];
        let kinds = [poll, nothing, write, found].map(|[bytes_in, bytes_out, cpu, kept]| {
            [
                Figure::new("B in", bytes_in),
                Figure::new("B out", bytes_out),
                Figure::new("Redis CPU µs", cpu),
                Figure::new("B kept", kept),
            ]
        });
        Ok(kinds.concat())
    })?;
    let table = Table::of("command", KINDS, figures[0].chunks(4));
    Ok((table, Vec::new()))
}

fn minus(figures: [f64; 4], others: [f64; 4]) -> [f64; 4] {
    std::array::from_fn(|place| figures[place] - others[place])
}

/// Fails unless `count` is at most 1 % below `expected`: a few commands may exceed the command timeout.
fn check_nearly(count: f64, expected: u32) -> Result<()> {
    let expected = f64::from(expected);
    if count <= expected && count >= expected * 0.99 {
        return Ok(());
    }
    Err(format!("{count} responses or scripts, not {expected}").into())
}

/// Owns a Redis on loopback that writes nothing to disk.
struct Redis {
    address: SocketAddr,
    connection: RefCell<redis::Connection>,
    process: Process,
}

/// Holds what Redis did during some work.
struct Usage {
    /// Counts the commands that gateways send. Redis counts those that scripts run beside them.
    commands: f64,
    /// Counts lookups and writes.
    scripts: f64,
    /// Counts how often gateways looked for purges.
    log_polls: f64,
    bytes_in: f64,
    bytes_out: f64,
    /// Is processor time in microseconds.
    cpu: f64,
    /// Is the growth of the memory in use, in bytes; 0 if it shrank.
    memory: f64,
}

impl Usage {
    /// Returns bytes in, bytes out, processor time in microseconds and memory of one of `count`.
    fn each(&self, count: f64) -> [f64; 4] {
        [self.bytes_in, self.bytes_out, self.cpu, self.memory].map(|figure| figure / count)
    }
}

impl Redis {
    fn start() -> Result<Self> {
        let address = free_address()?;
        let port = address.port();
        let options = format!("--bind 127.0.0.1 --save  --appendonly no --port {port}");
        let words = split(&format!("{ON_LOAD_CORE} redis-server {options}"));
        let mut process = Process::start("redis-server", &words)?;
        let client = redis::Client::open(format!("redis://{address}"))?;
        let mut connection = None;
        process.wait_until(|| {
            connection = client.get_connection().ok();
            connection.is_some()
        })?;
        Ok(Self {
            address,
            connection: RefCell::new(connection.ok_or("no connection to Redis")?),
            process,
        })
    }

    /// Runs `work` and returns its value with what Redis did meanwhile.
    fn usage_during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Usage)> {
        /// Are the bytes that this connection moves between the reset and the count.
        const OWN: (&str, &str) = ("*2\r\n$4\r\nINFO\r\n$3\r\nall\r\n", "+OK\r\n");
        let memory = field(&self.info()?, "used_memory")?;
        let reset = || redis::cmd("CONFIG").arg("RESETSTAT").to_owned();
        reset().exec(&mut self.connection.borrow_mut())?;
        let cpu = self.process.cpu_micros()?;
        let value = work()?;
        let cpu = self.process.cpu_micros()? - cpu;
        let info = self.info()?;
        let calls = |name: &str| field(&info, &format!("cmdstat_{name}")).unwrap_or(0.0);
        let usage = Usage {
            commands: ["eval", "hgetall", "xrange", "unlink"]
                .map(calls)
                .iter()
                .sum(),
            scripts: calls("eval"),
            log_polls: calls("hgetall"),
            bytes_in: field(&info, "total_net_input_bytes")? - OWN.0.len() as f64,
            bytes_out: field(&info, "total_net_output_bytes")? - OWN.1.len() as f64,
            cpu,
            memory: (field(&info, "used_memory")? - memory).max(0.0),
        };
        Ok((value, usage))
    }

    fn info(&self) -> Result<String> {
        let mut info = redis::cmd("INFO");
        Ok(info.arg("all").query(&mut self.connection.borrow_mut())?)
    }
}

/// Returns a field's number; of a command, how often it was called.
fn field(info: &str, name: &str) -> Result<f64> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields
        .find(|(field, _)| *field == name)
        .ok_or_else(|| format!("INFO has no {name}"))?;
    let value = value.strip_prefix("calls=").unwrap_or(value);
    let digits = value.split(|c: char| !c.is_ascii_digit()).next();
    Ok(digits.unwrap_or_default().parse()?)
}
