//! Measures how stepgate's cost grows with connections, entries, bodies and pollers.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::{self, CONNECTIONS, Paths, Wrk, fetch_each};
use crate::origin::Origin;
use crate::process::{Cores, pause};
use crate::report::{Series, Table, Unit, mebibytes};
use crate::run_step::{NEARBY, SMALL, done, live};
use crate::server::{Kind, Server, Stage};
use crate::suite::{Effort, Part, Section, Suite};
use crate::{Result, machine};

/// Names what the load requests.
#[derive(Clone, Copy)]
enum Work {
    /// One stored step of so many bytes.
    Hit(usize),
    /// One of so many stored steps at random.
    Random(u32),
    /// One live step.
    Poll,
}

/// Describes one row.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    connections: u32,
    work: Work,
}

/// Describes one table.
#[derive(Clone, Copy)]
struct Growth {
    /// Is the name of the part and of the first column.
    name: &'static str,
    title: &'static str,
    method: &'static str,
    rows: &'static [Row],
}

const GROWTHS: [Growth; 4] = [
    Growth {
        name: "connections",
        title: "Connections",
        method: "All request the same stored step of 790 B.",
        rows: &[
            Row::new("1", 1, Work::Hit(SMALL)),
            Row::new("10", 10, Work::Hit(SMALL)),
            Row::new("100", 100, Work::Hit(SMALL)),
            Row::new("1,000", 1000, Work::Hit(SMALL)),
            Row::new("10,000", 10_000, Work::Hit(SMALL)),
        ],
    },
    Growth {
        name: "entries",
        title: "Entries",
        method: "64 connections request stored steps of 790 B at random.",
        rows: &[
            Row::new("1,000", CONNECTIONS, Work::Random(1000)),
            Row::new("10,000", CONNECTIONS, Work::Random(10_000)),
            Row::new("100,000", CONNECTIONS, Work::Random(100_000)),
            Row::new("1,000,000", CONNECTIONS, Work::Random(1_000_000)),
        ],
    },
    Growth {
        name: "body",
        title: "Bodies",
        method: "64 connections request one stored step.",
        rows: &[
            Row::new("600 B", CONNECTIONS, Work::Hit(600)),
            Row::new("5 KB", CONNECTIONS, Work::Hit(5 * 1024)),
            Row::new("50 KB", CONNECTIONS, Work::Hit(50 * 1024)),
            Row::new("500 KB", CONNECTIONS, Work::Hit(500 * 1024)),
            Row::new("840 KB", CONNECTIONS, Work::Hit(840 * 1024)),
        ],
    },
    Growth {
        name: "pollers",
        title: "Pollers on one live step",
        method: "All poll the same step, each as soon as it has a response. The upstream responds after \
                 20 ms.",
        rows: &[
            Row::new("1", 1, Work::Poll),
            Row::new("10", 10, Work::Poll),
            Row::new("100", 100, Work::Poll),
            Row::new("1,000", 1000, Work::Poll),
            Row::new("10,000", 10_000, Work::Poll),
        ],
    },
];

pub(crate) fn suite() -> Suite {
    let part = |growth: Growth| -> (&'static str, Part) {
        let run = move |stage: &Stage, effort| growth.run(stage, effort);
        (growth.name, Box::new(run))
    };
    Suite {
        parts: GROWTHS.into_iter().map(part).collect(),
        rounds: 3,
        opening,
    }
}

fn opening(Effort { rounds, seconds }: Effort, _: &[Section]) -> String {
    format!(
        "# How stepgate's cost grows\n\n\
         Written by `benches/growth --rounds {rounds} --seconds {seconds}`.\n\n{}\n\
         One worker thread on a core of its own; load (wrk, closed loop) and upstream on another. \
         Figures are medians of {rounds} rounds of {seconds} s, in which the rows take turns; the time \
         begins when all connections are open. CPU is processor time per request, in user space and \
         in the kernel; RSS is resident memory at the end of the time, with the connections open.\n",
        machine::described(&[("wrk", "wrk -v")]),
    )
}

impl Growth {
    /// Gives every row a gateway of its own, so that no row inherits the memory of another.
    fn run(&self, stage: &Stage, effort: Effort) -> Result<Section> {
        let origin = Origin::start()?;
        let rows = self
            .rows
            .iter()
            .map(|row| Ok((*row, row.start(stage, &origin)?)));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let figures = effort.measure(&rows, |(row, gateway), round| {
            row.measure(gateway, &origin, round, effort.seconds)
        })?;
        let has_fetches = self.rows.iter().any(|row| matches!(row.work, Work::Poll));
        Ok(Section {
            title: self.title,
            method: self.method.to_owned(),
            table: if has_fetches {
                self.polls(&figures)
            } else {
                self.hits(&figures)
            },
            targets: Vec::new(),
        })
    }

    fn hits(&self, figures: &[[Series; 4]]) -> Table {
        let head = [
            self.name,
            "CPU µs per hit",
            "least to greatest",
            "hits/s",
            "RSS MiB",
        ];
        let mut table = Table::new(head);
        for (row, [cpu, requests, _, resident]) in self.rows.iter().zip(figures) {
            table.row([
                row.name.to_owned(),
                Unit::Micros.median(cpu),
                cpu.spread(Unit::Micros),
                Unit::Count.median(requests),
                Unit::Mebibytes.median(resident),
            ]);
        }
        table
    }

    fn polls(&self, figures: &[[Series; 4]]) -> Table {
        let mut table = Table::new([
            self.name,
            "fetches/s",
            "polls/s",
            "CPU µs per poll",
            "least to greatest",
            "CPU µs per fetch",
            "RSS MiB",
        ]);
        for (row, [cpu, requests, fetches, resident]) in self.rows.iter().zip(figures) {
            let per_fetch = cpu.median() * requests.median() / fetches.median();
            table.row([
                row.name.to_owned(),
                Unit::Millis.median(fetches),
                Unit::Count.median(requests),
                Unit::Micros.median(cpu),
                cpu.spread(Unit::Micros),
                Unit::Micros.show(per_fetch),
                Unit::Mebibytes.median(resident),
            ]);
        }
        table
    }
}

impl Row {
    const fn new(name: &'static str, connections: u32, work: Work) -> Self {
        Self {
            name,
            connections,
            work,
        }
    }

    /// Starts the row's gateway and stores what the load requests.
    fn start(&self, stage: &Stage, origin: &Origin) -> Result<Server> {
        let gateway = stage.start(Kind::Stepgate(1), origin)?;
        match self.work {
            Work::Hit(size) => gateway.check_hit(origin, &done(size, "1"))?,
            Work::Random(count) => {
                let paths = (1..=count).map(|number| done(SMALL, &number.to_string()));
                fetch_each(gateway.address, paths, 16)?;
                let entries = gateway.metric("stepgate_cache_entries", "")?;
                if entries != u64::from(count) {
                    return Err(format!("{entries} of {count} entries are stored").into());
                }
                gateway.check_hit(origin, &done(SMALL, "1"))?;
            }
            Work::Poll => gateway.check_fetch(origin, &live(SMALL, NEARBY, "0"))?,
        }
        Ok(gateway)
    }

    /// Measures a time out of the middle of a load, so that the opening of ten thousand connections is
    /// no part of it. The gateway's own metrics count the requests of that time.
    ///
    /// Returns processor time per request in microseconds, requests per second, fetches per second and
    /// resident memory in MiB.
    fn measure(
        &self,
        gateway: &Server,
        origin: &Origin,
        round: u32,
        seconds: u32,
    ) -> Result<[f64; 4]> {
        /// Limits how long the connections take to open.
        const OPENING: Duration = Duration::from_secs(20);
        /// Lets the load settle.
        const SETTLED: Duration = Duration::from_millis(500);
        let wrk = Wrk {
            connections: self.connections,
            // It is stopped before this time is over.
            seconds: seconds + 60,
            cores: Cores::Load,
            server: gateway.address,
            paths: match self.work {
                Work::Hit(size) => Paths::Same(done(size, "1")),
                Work::Poll => Paths::Same(live(SMALL, NEARBY, &round.to_string())),
                Work::Random(count) => Paths::Random {
                    prefix: done(SMALL, ""),
                    count,
                    seed: round,
                },
            },
        };
        let wrk = wrk.start()?;
        let deadline = Instant::now() + OPENING;
        while gateway.metric("stepgate_connections", "")? < u64::from(self.connections) {
            if Instant::now() > deadline {
                return Err(format!("{} connections do not open in time", self.connections).into());
            }
            pause(SETTLED / 10);
        }
        pause(SETTLED);
        let requests = || gateway.metric("stepgate_requests_total", "");
        let (fetches_before, requests_before) = (origin.requests(), requests()?);
        let begin = Instant::now();
        let ((), cpu) = gateway.cpu_during(|| {
            pause(Duration::from_secs(u64::from(seconds)));
            Ok(())
        })?;
        let elapsed = begin.elapsed().as_secs_f64();
        let requests = requests()? - requests_before;
        let fetches = origin.requests() - fetches_before;
        let resident = gateway.resident();
        load::stop(wrk)?;
        let is_right = match self.work {
            Work::Hit(_) | Work::Random(_) => fetches == 0,
            Work::Poll => fetches > 0 && requests > 0,
        };
        if !is_right {
            return Err(format!("{fetches} fetches for {requests} requests").into());
        }
        let requests = requests as f64;
        let per_request = cpu.as_secs_f64() * 1e6 / requests;
        Ok([
            per_request,
            requests / elapsed,
            fetches as f64 / elapsed,
            mebibytes(resident),
        ])
    }
}
