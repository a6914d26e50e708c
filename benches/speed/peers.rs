//! Compares stepgate with bare hyper, HAProxy, nginx and Varnish, and measures what needs no peer.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::{CONNECTIONS, Rate, Wrk, fetch_each, quantiles};
use crate::origin::Origin;
use crate::process::{ON_ALL_CORES, ON_LOAD_CORE, ON_SERVER_CORE, pause};
use crate::report::{Figure, Table, mebibytes};
use crate::run_step::{NEARBY, SMALL, done, live};
use crate::server::{
    BARE, BARE_72K, BARE_840K, HAPROXY, HAPROXY_BODY_RULE, Kind, NGINX, NGINX_LARGE,
    NGINX_LARGE_OPEN_FILES, NGINX_OPEN_FILES, RELAY, STEPGATE, STEPGATE_2, STEPGATE_ALL, Server,
    Stage, VARNISH,
};
use crate::suite::{Effort, Measured, Part, ratio, target};
use crate::{Result, http};

/// Describes work that several servers do, measured in processor time per request.
#[derive(Clone, Copy)]
struct Comparison {
    /// Is the name of the part.
    name: &'static str,
    title: &'static str,
    method: &'static str,
    work: Work,
    has_tls_upstream: bool,
    /// Holds the cores of the servers and of the load.
    cores: [&'static str; 2],
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
    cores: [ON_SERVER_CORE, ON_LOAD_CORE],
    ours: STEPGATE,
    peers: &[
        (BARE, Some(1.10)),
        (HAPROXY, Some(0.80)),
        (HAPROXY_BODY_RULE, None),
        (NGINX, Some(0.58)),
        (NGINX_OPEN_FILES, None),
        (VARNISH, Some(0.37)),
    ],
};

const FETCH: Comparison = Comparison {
    name: "fetch-plain",
    title: "Fetch of a live step",
    method: "64 connections, each request for another live step of 790 B; connections to the upstream \
             are kept alive. Only stepgate and HAProxy with its body rule read the status in the body.",
    work: Work::Fetch,
    peers: &[
        (RELAY, None),
        (HAPROXY, Some(1.0)),
        (HAPROXY_BODY_RULE, None),
        (NGINX, Some(0.9)),
        (VARNISH, None),
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
        peers: &large_peers(BARE_72K),
        ..HIT
    },
    Comparison {
        name: "hit-840k",
        title: "Hit, 840 KB",
        work: Work::Hit(840 * 1024),
        peers: &large_peers(BARE_840K),
        ..HIT
    },
    FETCH,
    // Varnish has no TLS to its upstreams.
    Comparison {
        name: "fetch-tls",
        title: "Fetch of a live step, TLS upstream",
        has_tls_upstream: true,
        peers: &[(HAPROXY, Some(1.0)), (NGINX, Some(0.9))],
        ..FETCH
    },
    Comparison {
        name: "workers",
        title: "Hit, two worker threads against one",
        method: "As the hits of 790 B, but neither the gateway nor wrk is tied to a core.",
        cores: [ON_ALL_CORES, ON_ALL_CORES],
        ours: STEPGATE_2,
        peers: &[(STEPGATE, Some(1.10))],
        ..HIT
    },
];

const fn large_peers(bare: Kind) -> [(Kind, Option<f64>); 5] {
    [
        (bare, Some(1.10)),
        (HAPROXY, None),
        (NGINX_LARGE, None),
        (NGINX_LARGE_OPEN_FILES, None),
        (VARNISH, None),
    ]
}

pub(crate) fn parts() -> Vec<Part> {
    let compare = |comparison: Comparison| Part {
        name: comparison.name,
        title: comparison.title,
        method: comparison.method,
        run: Box::new(move |stage, effort| comparison.run(stage, effort)),
    };
    let others = [
        Part {
            name: "pollers",
            title: POLLERS,
            method: "A closed loop: each polls again as soon as it has a response. The upstream responds \
                     after 20 ms.",
            run: Box::new(pollers),
        },
        Part {
            name: "latency",
            title: "Latency of hits at 2,000/s",
            method: "An open loop: every request is sent at its time, whatever is outstanding, and its \
                     latency counts from that time (coordinated omission is accounted for).",
            run: Box::new(latency),
        },
        Part {
            name: "memory",
            title: "Memory of 100,000 entries of 790 B",
            method: "Resident memory before and after they are stored, one by one. As many live steps are \
                     fetched before.",
            run: Box::new(memory),
        },
        Part {
            name: "start",
            title: "Start and idle",
            method: "10 starts of a gateway with a worker thread for each core, until its data listener \
                     responds at all; resident memory 300 ms later.",
            run: Box::new(start),
        },
    ];
    COMPARISONS.into_iter().map(compare).chain(others).collect()
}

impl Comparison {
    fn run(&self, stage: &Stage, effort: Effort) -> Measured {
        let origin = Origin::start(self.has_tls_upstream.then_some(&stage.authority))?;
        let peers = self.peers.iter().map(|(kind, _)| *kind);
        let servers = std::iter::once(self.ours).chain(peers).map(|kind| {
            let server = stage.start(kind, &origin, self.cores[0], None)?;
            let path = match self.work {
                Work::Hit(size) => done(size, "1"),
                Work::Fetch => live(SMALL, 0, "1"),
            };
            server.check(&origin, &path)?;
            // Fills heaps and connection pools.
            self.measure(&server, &origin, 0, 1)?;
            Ok(server)
        });
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let figures = effort.measure(&servers, |server, round| {
            self.measure(server, &origin, round, effort.seconds)
        })?;
        let names = servers.iter().map(|server| server.name);
        let table = Table::of("server", names, &figures);
        let peers = self.peers.iter().zip(&figures[1..]);
        let targets = peers.map(|((kind, at_most), theirs)| {
            let names = [self.title, kind.name];
            ratio(names, [&figures[0][0], &theirs[0]], *at_most)
        });
        Ok((table, targets.collect()))
    }

    fn measure(
        &self,
        server: &Server,
        origin: &Origin,
        round: u32,
        seconds: u32,
    ) -> Result<Vec<Figure>> {
        let paths = match self.work {
            Work::Hit(size) => [done(size, "1"), String::new()],
            Work::Fetch => [String::new(), live(SMALL, 0, &format!("{round}x"))],
        };
        let before = origin.settled_requests();
        let (cpu, per_second, requests) = closed_loop(server, paths, self.cores[1], seconds)?;
        let fetches = origin.requests() - before;
        let is_right = match self.work {
            Work::Hit(_) => fetches == 0,
            Work::Fetch => fetches >= requests,
        };
        if !is_right {
            return Err(format!("{fetches} fetches for {requests} requests").into());
        }
        Ok(vec![
            Figure::new("CPU µs per request", cpu).with_spread(),
            Figure::new("requests/s", per_second),
        ])
    }
}

/// Runs wrk; returns processor time per request in microseconds, requests per second and the number of
/// requests.
fn closed_loop(
    server: &Server,
    [path, others]: [String; 2],
    cores: &'static str,
    seconds: u32,
) -> Result<(f64, f64, u64)> {
    let wrk = Wrk {
        connections: CONNECTIONS,
        seconds,
        cores,
        server: server.address,
        path,
        others,
    };
    let ((requests, per_second), cpu) = server.cpu_during(|| wrk.run())?;
    Ok((cpu / requests as f64, per_second, requests))
}

/// Runs an open loop; returns p50, p99, p99.9 and processor time per request, in microseconds.
fn open_loop(server: &Server, path: &str, rate: Rate) -> Result<[f64; 4]> {
    let (latencies, cpu) = server.cpu_during(|| rate.run(server.address, path))?;
    let cpu = cpu / latencies.len() as f64;
    let [p50, p99, p999] = quantiles(latencies, [500, 990, 999]);
    Ok([p50, p99, p999, cpu])
}

const POLLERS: &str = "64 pollers on one live step";

/// Measures how few fetches many pollers cost, and what a poll costs beside a hit.
fn pollers(stage: &Stage, effort: Effort) -> Measured {
    let origin = Origin::start(None)?;
    let gateway = stage.start(STEPGATE, &origin, ON_SERVER_CORE, None)?;
    let hit = done(SMALL, "1");
    gateway.check(&origin, &hit)?;
    gateway.check(&origin, &live(SMALL, NEARBY, "1"))?;
    let hits = |seconds| {
        closed_loop(
            &gateway,
            [hit.clone(), String::new()],
            ON_LOAD_CORE,
            seconds,
        )
    };
    hits(1)?;
    let figures = effort.measure(&[()], |(), round| {
        let (hit_cpu, ..) = hits(effort.seconds)?;
        let before = origin.settled_requests();
        // Polls wait for a fetch, so there are few of them and they are measured for longer.
        let seconds = 2 * effort.seconds;
        let paths = [live(SMALL, NEARBY, &round.to_string()), String::new()];
        let (cpu, per_second, polls) = closed_loop(&gateway, paths, ON_LOAD_CORE, seconds)?;
        let fetches = origin.requests() - before;
        // A server with few requests sleeps between them and pays more for each. So hits are requested
        // as polls are, too: on all connections at once, and as rarely.
        let rate = Rate(format!("{per_second:.0}").parse()?, seconds, CONNECTIONS);
        let [.., rare] = open_loop(&gateway, &hit, rate)?;
        Ok(vec![
            Figure::new("CPU µs per poll", cpu),
            Figure::new("CPU µs per hit at that rate", rare),
            Figure::new("CPU µs per hit at the greatest rate", hit_cpu),
            Figure::new("polls/s", per_second),
            Figure::new("fetches per poll", fetches as f64 / polls as f64),
        ])
    })?;
    let [poll, rare, busy, _, fetches] = &figures[0][..] else {
        return Err("other figures than expected".into());
    };
    let targets = vec![
        target([POLLERS, "fetches per poll"], fetches, Some(0.02)),
        ratio([POLLERS, "hit at that rate"], [poll, rare], Some(1.5)),
        ratio(
            [POLLERS, "hit at the greatest rate"],
            [poll, busy],
            Some(1.5),
        ),
    ];
    Ok((Table::list(&figures[0]), targets))
}

/// Measures how long hits take at a rate that every server can hold.
fn latency(stage: &Stage, effort: Effort) -> Measured {
    let origin = Origin::start(None)?;
    let path = done(SMALL, "1");
    let measure = |server: &Server, seconds| {
        let [p50, p99, p999, cpu] = open_loop(server, &path, Rate(2000, seconds, 1))?;
        Result::Ok(vec![
            Figure::new("p50 µs", p50),
            Figure::new("p99 µs", p99).with_spread(),
            Figure::new("p99.9 µs", p999),
            Figure::new("CPU µs per request", cpu),
        ])
    };
    let servers = [STEPGATE, BARE, HAPROXY, NGINX, VARNISH]
        .into_iter()
        .map(|kind| {
            let server = stage.start(kind, &origin, ON_SERVER_CORE, None)?;
            server.check(&origin, &path)?;
            measure(&server, 1)?;
            Ok(server)
        });
    let servers = servers.collect::<Result<Vec<_>>>()?;
    let figures = effort.measure(&servers, |server, _| measure(server, effort.seconds))?;
    let names = servers.iter().map(|server| server.name);
    let table = Table::of("server", names.clone(), &figures);
    let targets = names.zip(&figures).skip(1).map(|(name, theirs)| {
        ratio(
            ["p99 of hits at 2,000/s", name],
            [&figures[0][1], &theirs[1]],
            None,
        )
    });
    Ok((table, targets.collect()))
}

/// Lets an idle gateway settle.
const SETTLED: Duration = Duration::from_millis(300);

/// Measures what an entry costs in memory.
fn memory(stage: &Stage, effort: Effort) -> Measured {
    const ENTRIES: u32 = 100_000;
    // Ids as long as the upstream's, because they are a part of the key.
    const THREAD: &str = "thread_abcdefghijklmnopqrstuvwx";
    const RUN: &str = "run_abcdefghijklmnopqrstuvwx";
    // A key holds a partition's hash, the rule's name and the ids, each with its end.
    let ids = (1..=ENTRIES).map(|n| format!("done-{SMALL}-0-{n}\n").len());
    let id = ids.sum::<usize>() as f64 / f64::from(ENTRIES);
    let key = (16 + "run-step\n\n\n".len() + THREAD.len() + RUN.len()) as f64 + id;
    let origin = Origin::start(None)?;
    let figures = Effort {
        rounds: 1,
        ..effort
    }
    .measure(&[()], |(), _| {
        let gateway = stage.start(STEPGATE, &origin, ON_SERVER_CORE, None)?;
        let resident_after = |kind: &'static str| {
            let path =
                move |n| format!("/v1/threads/{THREAD}/runs/{RUN}/steps/{kind}-{SMALL}-0-{n}");
            fetch_each(gateway.address, (1..=ENTRIES).map(path), 16)?;
            pause(SETTLED);
            Result::Ok(gateway.process.resident())
        };
        // As many fetches that store nothing come first: what connections, fetches and the heap take
        // for themselves is no part of an entry.
        let (before, after) = (resident_after("live")?, resident_after("done")?);
        let entry = after.saturating_sub(before) as f64 / f64::from(ENTRIES);
        Ok(vec![
            Figure::new("resident MiB before", mebibytes(before)),
            Figure::new("resident MiB after", mebibytes(after)),
            Figure::new("bytes per entry", entry),
            Figure::new("of it the body", SMALL as f64),
            Figure::new("of it the key", key),
            Figure::new("over body and key", entry - SMALL as f64 - key),
        ])
    })?;
    let names = ["memory over body and key, per entry", "absolute"];
    let targets = figures[0]
        .last()
        .map(|over| target(names, over, Some(350.0)));
    Ok((Table::list(&figures[0]), targets.into_iter().collect()))
}

/// Measures how soon a gateway responds after its start, and what it needs while idle.
fn start(stage: &Stage, effort: Effort) -> Measured {
    let origin = Origin::start(None)?;
    let figures = Effort {
        rounds: 10,
        ..effort
    }
    .measure(&[STEPGATE_ALL], |kind, _| {
        let begin = Instant::now();
        let gateway = stage.spawn(*kind, &origin, ON_ALL_CORES, None)?;
        while http::get(gateway.address, "/").is_err() {
            if begin.elapsed() > Duration::from_secs(10) {
                return Err("stepgate does not respond".into());
            }
            std::thread::yield_now();
        }
        let millis = begin.elapsed().as_secs_f64() * 1e3;
        pause(SETTLED);
        let resident = mebibytes(gateway.process.resident());
        Ok(vec![
            Figure::new("start until the first response, ms", millis),
            Figure::new("RSS idle, MiB", resident),
        ])
    })?;
    let targets = figures[0].iter().zip([50.0, 12.0]);
    let targets =
        targets.map(|(figure, most)| target([figure.name, "absolute"], figure, Some(most)));
    Ok((Table::list(&figures[0]), targets.collect()))
}
