//! Compares stepgate with bare hyper, HAProxy, nginx and Varnish, and measures what needs no peer.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::{CONNECTIONS, Paths, Rate, Wrk, fetch_each};
use crate::origin::Origin;
use crate::process::{Cores, pause};
use crate::report::{Series, Table, Unit, mebibytes};
use crate::run_step::{NEARBY, SMALL, done, live};
use crate::server::{Kind, Server, Stage};
use crate::suite::{Effort, Part, Section, Suite, Target, targets};
use crate::{Result, client, machine};

/// Describes work that several servers do, measured in processor time per request.
#[derive(Clone, Copy)]
struct Comparison {
    /// Is the name of the part.
    name: &'static str,
    title: &'static str,
    method: &'static str,
    work: Work,
    has_tls_upstream: bool,
    /// Lets server and load use all cores, in place of one core each.
    has_all_cores: bool,
    ours: Kind,
    /// Holds the peers, each with the most that the ratio of `ours` to it should be.
    peers: &'static [(Kind, Option<f64>)],
}

/// Names what is requested.
#[derive(Clone, Copy)]
enum Work {
    /// One stored step of so many bytes.
    Hit(usize),
    /// A step in progress, another one with every request.
    Fetch,
}

const HIT: Comparison = Comparison {
    name: "hit-790",
    title: "Hit, 790 B",
    method: "64 connections request one stored step, each as soon as it has a response (wrk, closed \
             loop). CPU is the server's processor time per request, in user space and in the kernel.",
    work: Work::Hit(SMALL),
    has_tls_upstream: false,
    has_all_cores: false,
    ours: Kind::Stepgate(1),
    peers: &[
        (Kind::Bare(SMALL), Some(1.10)),
        (Kind::Haproxy, Some(0.80)),
        (Kind::HaproxyBodyRule, None),
        (nginx(false, false), Some(0.58)),
        (nginx(false, true), None),
        (Kind::Varnish, Some(0.37)),
    ],
};

const FETCH: Comparison = Comparison {
    name: "fetch-plain",
    title: "Fetch of a live step",
    method: "64 connections, each request for another live step of 790 B; connections to the upstream \
             are kept alive. Only stepgate and HAProxy with its body rule read the status in the body.",
    work: Work::Fetch,
    peers: &[
        (Kind::Relay, None),
        (Kind::Haproxy, Some(1.0)),
        (Kind::HaproxyBodyRule, None),
        (nginx(false, false), Some(0.9)),
        (Kind::Varnish, None),
    ],
    ..HIT
};

const COMPARISONS: [Comparison; 6] = [
    HIT,
    // HAProxy's body rule holds no more than one buffer, so it is not among the peers.
    Comparison {
        name: "hit-72k",
        title: "Hit, 72 KB",
        work: Work::Hit(72 * 1024),
        peers: &large_peers(72 * 1024),
        ..HIT
    },
    Comparison {
        name: "hit-840k",
        title: "Hit, 840 KB",
        work: Work::Hit(840 * 1024),
        peers: &large_peers(840 * 1024),
        ..HIT
    },
    FETCH,
    // Varnish has no TLS to its upstreams.
    Comparison {
        name: "fetch-tls",
        title: "Fetch of a live step, TLS upstream",
        has_tls_upstream: true,
        peers: &[(Kind::Haproxy, Some(1.0)), (nginx(false, false), Some(0.9))],
        ..FETCH
    },
    Comparison {
        name: "workers",
        title: "Hit, two worker threads against one",
        method: "As the hits of 790 B, but neither the gateway nor wrk is tied to a core.",
        has_all_cores: true,
        ours: Kind::Stepgate(2),
        peers: &[(Kind::Stepgate(1), Some(1.10))],
        ..HIT
    },
];

const fn large_peers(size: usize) -> [(Kind, Option<f64>); 5] {
    [
        (Kind::Bare(size), Some(1.10)),
        (Kind::Haproxy, None),
        (nginx(true, false), None),
        (nginx(true, true), None),
        (Kind::Varnish, None),
    ]
}

const fn nginx(sendfile: bool, open_file_cache: bool) -> Kind {
    Kind::Nginx {
        sendfile,
        open_file_cache,
    }
}

pub(crate) fn suite() -> Suite {
    let mut parts: Vec<(&'static str, Part)> = Vec::new();
    for comparison in COMPARISONS {
        let run = move |stage: &Stage, effort| comparison.run(stage, effort);
        parts.push((comparison.name, Box::new(run)));
    }
    parts.push(("pollers", Box::new(pollers)));
    parts.push(("latency", Box::new(latency)));
    parts.push(("memory", Box::new(memory)));
    parts.push(("start", Box::new(start)));
    Suite {
        parts,
        rounds: 8,
        opening,
    }
}

fn opening(Effort { rounds, seconds }: Effort, sections: &[Section]) -> String {
    let programs = [
        ("wrk", "wrk -v"),
        ("HAProxy", "haproxy -v"),
        ("nginx", "nginx -v"),
        ("Varnish", "varnishd -V"),
    ];
    format!(
        "# stepgate beside its peers\n\n\
         Written by `benches/peers/run --rounds {rounds} --seconds {seconds}`.\n\n{}\n\
         Figures are medians of {rounds} rounds of {seconds} s, in which all servers take turns. A \
         figure against a peer is the ratio of the medians; \"rounds\" has the least and the greatest \
         of the ratios round by round.\n\n{}",
        machine::described(&programs),
        targets(sections).markdown(),
    )
}

impl Comparison {
    fn run(&self, stage: &Stage, effort: Effort) -> Result<Section> {
        let origin = if self.has_tls_upstream {
            Origin::start_tls(&stage.authority)?
        } else {
            Origin::start()?
        };
        let kinds = std::iter::once(self.ours).chain(self.peers.iter().map(|(kind, _)| *kind));
        let servers = kinds.map(|kind| {
            let cores = if self.has_all_cores {
                Cores::All
            } else {
                Cores::Server
            };
            let server = stage.launch(kind, &origin).on(cores).start()?;
            match self.work {
                Work::Hit(size) => server.check_hit(&origin, &done(size, "1"))?,
                Work::Fetch => server.check_fetch(&origin, &live(SMALL, 0, "1"))?,
            }
            Ok(server)
        });
        let servers = servers.collect::<Result<Vec<_>>>()?;
        // Fills heaps and connection pools.
        for server in &servers {
            self.measure(server, &origin, 0, 1)?;
        }
        let figures = effort.measure(&servers, |server, round| {
            self.measure(server, &origin, round, effort.seconds)
        })?;
        Ok(self.section(&servers, &figures))
    }

    /// Returns processor time per request in microseconds, and requests per second.
    fn measure(
        &self,
        server: &Server,
        origin: &Origin,
        round: u32,
        seconds: u32,
    ) -> Result<[f64; 2]> {
        let paths = match self.work {
            Work::Hit(size) => Paths::Same(done(size, "1")),
            Work::Fetch => Paths::Counted(live(SMALL, 0, &format!("{round}x"))),
        };
        let cores = if self.has_all_cores {
            Cores::All
        } else {
            Cores::Load
        };
        let before = origin.settled_requests();
        let (figures, requests) = closed_loop(server, paths, cores, seconds)?;
        let fetches = origin.requests() - before;
        let is_right = match self.work {
            Work::Hit(_) => fetches == 0,
            Work::Fetch => fetches >= requests,
        };
        if !is_right {
            let name = server.kind.name();
            return Err(format!("{name}: {fetches} fetches for {requests} requests").into());
        }
        Ok(figures)
    }

    fn section(&self, servers: &[Server], figures: &[[Series; 2]]) -> Section {
        let mut table = Table::new([
            "server",
            "CPU µs per request",
            "least to greatest",
            "requests/s",
            "stepgate against it",
        ]);
        let mut targets = Vec::new();
        let [ours, _] = &figures[0];
        let at_most = std::iter::once(None).chain(self.peers.iter().map(|(_, most)| Some(*most)));
        for ((server, [cpu, rate]), at_most) in servers.iter().zip(figures).zip(at_most) {
            let ratio = ours.median() / cpu.median();
            table.row([
                server.kind.name().to_owned(),
                Unit::Micros.median(cpu),
                cpu.spread(Unit::Micros),
                Unit::Count.median(rate),
                at_most.map_or(String::new(), |_| Unit::Ratio.show(ratio)),
            ]);
            if let Some(at_most) = at_most {
                targets.push(Target {
                    work: self.title,
                    against: server.kind.name(),
                    unit: Unit::Ratio,
                    figure: ratio,
                    spread: ours.over(cpu).spread(Unit::Ratio),
                    at_most,
                });
            }
        }
        Section {
            title: self.title,
            method: self.method.to_owned(),
            table,
            targets,
        }
    }
}

/// Runs wrk; returns processor time per request in microseconds, requests per second, and the number
/// of requests.
fn closed_loop(
    server: &Server,
    paths: Paths,
    cores: Cores,
    seconds: u32,
) -> Result<([f64; 2], u64)> {
    let wrk = Wrk {
        connections: CONNECTIONS,
        seconds,
        cores,
        server: server.address,
        paths,
    };
    let (result, cpu) = server.cpu_during(|| wrk.run())?;
    let per_request = cpu.as_secs_f64() * 1e6 / result.requests as f64;
    Ok(([per_request, result.per_second], result.requests))
}

/// Measures how few fetches many pollers cost, and what a poll costs beside a hit.
fn pollers(stage: &Stage, effort: Effort) -> Result<Section> {
    const TITLE: &str = "64 pollers on one live step";
    let origin = Origin::start()?;
    let gateway = stage.start(Kind::Stepgate(1), &origin)?;
    let hit = done(SMALL, "1");
    gateway.check_hit(&origin, &hit)?;
    gateway.check_fetch(&origin, &live(SMALL, NEARBY, "1"))?;
    let hits = |seconds| closed_loop(&gateway, Paths::Same(hit.clone()), Cores::Load, seconds);
    hits(1)?;
    let figures = effort.measure(&[()], |(), round| {
        let ([hit_cpu, _], _) = hits(effort.seconds)?;
        let before = origin.settled_requests();
        // Polls wait for a fetch, so there are few of them and they are measured for longer.
        let seconds = 2 * effort.seconds;
        let paths = Paths::Same(live(SMALL, NEARBY, &round.to_string()));
        let ([cpu, rate], polls) = closed_loop(&gateway, paths, Cores::Load, seconds)?;
        let fetches = origin.requests() - before;
        // A server with few requests sleeps between them and pays more for each. So hits are requested
        // as polls are, too: on all connections at once, and as rarely.
        let per_second = format!("{rate:.0}").parse()?;
        let rate_of_polls = Rate {
            per_second,
            seconds,
            burst: CONNECTIONS,
        };
        let (latencies, rare) = gateway.cpu_during(|| rate_of_polls.run(gateway.address, &hit))?;
        let rare_cpu = rare.as_secs_f64() * 1e6 / f64::from(latencies.len());
        Ok([cpu, rare_cpu, hit_cpu, rate, fetches as f64 / polls as f64])
    })?;
    let [cpu, rare, busy, rate, fetches] = &figures[0];
    let mut table = Table::new(["figure", "median", "least to greatest"]);
    for (name, series, unit) in [
        ("CPU µs per poll", cpu, Unit::Micros),
        ("CPU µs per hit at that rate", rare, Unit::Micros),
        ("CPU µs per hit at the greatest rate", busy, Unit::Micros),
        ("polls/s", rate, Unit::Count),
        ("fetches per poll", fetches, Unit::Share),
    ] {
        table.row([name.to_owned(), unit.median(series), series.spread(unit)]);
    }
    let target = |against, unit, figure, spread, at_most| Target {
        work: TITLE,
        against,
        unit,
        figure,
        spread,
        at_most: Some(at_most),
    };
    let against = |name, hit: &Series| {
        let ratio = cpu.median() / hit.median();
        target(
            name,
            Unit::Ratio,
            ratio,
            cpu.over(hit).spread(Unit::Ratio),
            1.5,
        )
    };
    Ok(Section {
        title: TITLE,
        method: format!(
            "A closed loop: each polls again as soon as it has a response. The upstream responds after \
             {NEARBY} ms."
        ),
        table,
        targets: vec![
            target(
                "fetches per poll",
                Unit::Share,
                fetches.median(),
                fetches.spread(Unit::Share),
                0.02,
            ),
            against("CPU of a hit at that rate", rare),
            against("CPU of a hit at the greatest rate", busy),
        ],
    })
}

/// Measures how long hits take at a rate that every server can hold.
fn latency(stage: &Stage, effort: Effort) -> Result<Section> {
    const PER_SECOND: u32 = 2000;
    let origin = Origin::start()?;
    let path = done(SMALL, "1");
    let measure = |server: &Server, seconds| {
        let rate = Rate {
            per_second: PER_SECOND,
            seconds,
            burst: 1,
        };
        let (latencies, cpu) = server.cpu_during(|| rate.run(server.address, &path))?;
        let [p50, p99, p999] = latencies.quantiles([500, 990, 999]);
        let cpu = cpu.as_secs_f64() * 1e6 / f64::from(latencies.len());
        Result::Ok([p50, p99, p999, cpu])
    };
    let kinds = [
        Kind::Stepgate(1),
        Kind::Bare(SMALL),
        Kind::Haproxy,
        nginx(false, false),
        Kind::Varnish,
    ];
    let servers = kinds.into_iter().map(|kind| {
        let server = stage.start(kind, &origin)?;
        server.check_hit(&origin, &path)?;
        measure(&server, 1)?;
        Ok(server)
    });
    let servers = servers.collect::<Result<Vec<_>>>()?;
    let figures = effort.measure(&servers, |server, _| measure(server, effort.seconds))?;
    let mut table = Table::new([
        "server",
        "p50 µs",
        "p99 µs",
        "least to greatest",
        "p99.9 µs",
        "CPU µs per request",
    ]);
    let mut targets = Vec::new();
    let [_, ours, ..] = &figures[0];
    for (server, [p50, p99, p999, cpu]) in servers.iter().zip(&figures) {
        table.row([
            server.kind.name().to_owned(),
            Unit::Micros.median(p50),
            Unit::Micros.median(p99),
            p99.spread(Unit::Micros),
            Unit::Micros.median(p999),
            Unit::Micros.median(cpu),
        ]);
        if server.kind != kinds[0] {
            targets.push(Target {
                work: "p99 of hits at 2,000/s",
                against: server.kind.name(),
                unit: Unit::Ratio,
                figure: ours.median() / p99.median(),
                spread: ours.over(p99).spread(Unit::Ratio),
                at_most: None,
            });
        }
    }
    Ok(Section {
        title: "Latency of hits at 2,000/s",
        method:
            "An open loop: every request is sent at its time, whatever is outstanding, and its \
                 latency counts from that time (coordinated omission is accounted for)."
                .to_owned(),
        table,
        targets,
    })
}

/// Lets an idle gateway settle.
const SETTLED: Duration = Duration::from_millis(300);

/// Measures what an entry costs in memory.
fn memory(stage: &Stage, _: Effort) -> Result<Section> {
    const ENTRIES: u32 = 100_000;
    // Ids as long as the upstream's, because they are a part of the key.
    const THREAD: &str = "thread_abcdefghijklmnopqrstuvwx";
    const RUN: &str = "run_abcdefghijklmnopqrstuvwx";
    let origin = Origin::start()?;
    let gateway = stage.start(Kind::Stepgate(1), &origin)?;
    let resident_after = |kind: &'static str| {
        let path = move |n| format!("/v1/threads/{THREAD}/runs/{RUN}/steps/{kind}-{SMALL}-0-{n}");
        fetch_each(gateway.address, (1..=ENTRIES).map(path), 16)?;
        pause(SETTLED);
        Result::Ok(gateway.resident())
    };
    // As many fetches that store nothing come first: what connections, fetches and the heap take for
    // themselves is no part of an entry.
    let before = resident_after("live")?;
    let after = resident_after("done")?;
    let entry = after.saturating_sub(before) as f64 / f64::from(ENTRIES);
    // A key holds a partition's hash, the rule's name and the ids, each with its end.
    let ids = (1..=ENTRIES).map(|n| format!("done-{SMALL}-0-{n}\n").len());
    let id = ids.sum::<usize>() as f64 / f64::from(ENTRIES);
    let key = (16 + "run-step\n\n\n".len() + THREAD.len() + RUN.len()) as f64 + id;
    let over = entry - SMALL as f64 - key;
    let mut table = Table::new(["figure", "value"]);
    for (name, unit, value) in [
        ("resident before", Unit::Mebibytes, mebibytes(before)),
        ("resident after", Unit::Mebibytes, mebibytes(after)),
        ("per entry", Unit::Bytes, entry),
        ("of it the body", Unit::Bytes, SMALL as f64),
        ("of it the key", Unit::Bytes, key),
        ("over body and key", Unit::Bytes, over),
    ] {
        table.row([name.to_owned(), unit.show_with_name(value)]);
    }
    Ok(Section {
        title: "Memory of 100,000 entries of 790 B",
        method:
            "Resident memory before and after they are stored, one by one. As many live steps are \
                 fetched before."
                .to_owned(),
        table,
        targets: vec![Target {
            work: "memory over body and key, per entry",
            against: "absolute",
            unit: Unit::Bytes,
            figure: over,
            spread: String::new(),
            at_most: Some(350.0),
        }],
    })
}

/// Measures how soon a gateway responds after its start, and what it needs while idle.
fn start(stage: &Stage, effort: Effort) -> Result<Section> {
    const STARTS: u32 = 10;
    let origin = Origin::start()?;
    // As users start it: a worker for each core, on any core.
    let workers = u32::try_from(machine::cores())?;
    let starts = Effort {
        rounds: STARTS,
        ..effort
    };
    let figures = starts.measure(&[Kind::Stepgate(workers)], |kind, _| {
        let begin = Instant::now();
        let gateway = stage.launch(*kind, &origin).on(Cores::All).spawn()?;
        while client::get(gateway.address, "/").is_err() {
            if begin.elapsed() > Duration::from_secs(10) {
                return Err("stepgate does not respond".into());
            }
            std::thread::yield_now();
        }
        let millis = begin.elapsed().as_secs_f64() * 1e3;
        pause(SETTLED);
        Ok([millis, mebibytes(gateway.resident())])
    })?;
    let [first, idle] = &figures[0];
    let mut table = Table::new(["figure", "median", "least to greatest"]);
    let mut targets = Vec::new();
    for (work, series, unit, at_most) in [
        ("start until the first response", first, Unit::Millis, 50.0),
        ("RSS idle", idle, Unit::Mebibytes, 12.0),
    ] {
        let (figure, spread) = (series.median(), series.spread(unit));
        table.row([work.to_owned(), unit.show_with_name(figure), spread.clone()]);
        targets.push(Target {
            work,
            against: "absolute",
            unit,
            figure,
            spread,
            at_most: Some(at_most),
        });
    }
    Ok(Section {
        title: "Start and idle",
        method: format!(
            "{STARTS} starts of a gateway with {workers} worker threads, until its data listener \
             responds at all; resident memory 300 ms later."
        ),
        table,
        targets,
    })
}
