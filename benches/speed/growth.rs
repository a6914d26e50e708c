//! Measures how stepgate's cost grows with connections, entries, bodies and pollers.

use std::time::Duration;

use tokio::time::Instant;

use crate::Result;
use crate::load::{self, CONNECTIONS, Wrk, fetch_each};
use crate::origin::Origin;
use crate::process::{ON_LOAD_CORE, ON_SERVER_CORE, pause};
use crate::report::{Figure, Table, mebibytes, show};
use crate::run_step::{NEARBY, SMALL, done, live};
use crate::server::{STEPGATE, Server, Stage};
use crate::suite::{Effort, Measured, Part};

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

/// Describes one row by the figure that grows, its connections and its work.
struct Row(u32, u32, Work);

pub(crate) fn parts() -> Vec<Part> {
    const MANY: [u32; 5] = [1, 10, 100, 1000, 10_000];
    let part = |name, title, method, rows: Vec<Row>| Part {
        name,
        title,
        method,
        run: Box::new(move |stage, effort| grow(name, &rows, stage, effort)),
    };
    let connections = MANY.map(|count| Row(count, count, Work::Hit(SMALL)));
    let entries = [1000, 10_000, 100_000, 1_000_000];
    let entries = entries.map(|count| Row(count, CONNECTIONS, Work::Random(count)));
    let bytes = [600, 5 << 10, 50 << 10, 500 << 10, 840 << 10];
    let bytes = bytes.map(|size| Row(size, CONNECTIONS, Work::Hit(size as usize)));
    let pollers = MANY.map(|count| Row(count, count, Work::Poll));
    let same = "All request the same stored step of 790 B.";
    let random = "64 connections request stored steps of 790 B at random.";
    let one = "64 connections request one stored step.";
    let live = "All poll the same step, each as soon as it has a response. The upstream responds after \
                20 ms.";
    vec![
        part("connections", "Connections", same, connections.into()),
        part("entries", "Entries", random, entries.into()),
        part("bytes", "Bodies", one, bytes.into()),
        part("pollers", "Pollers on one live step", live, pollers.into()),
    ]
}

/// Measures a table whose first column is `head`. Every row has a gateway of its own, so that none
/// inherits the memory of another.
fn grow(head: &str, rows: &[Row], stage: &Stage, effort: Effort) -> Measured {
    let origin = Origin::start(None)?;
    let started = rows.iter().map(|row| Ok((row, row.start(stage, &origin)?)));
    let started = started.collect::<Result<Vec<_>>>()?;
    let figures = effort.measure(&started, |(row, gateway), round| {
        row.measure(gateway, &origin, round, effort.seconds)
    })?;
    let names = rows.iter().map(|row| show(f64::from(row.0)));
    Ok((Table::of(head, names, &figures), Vec::new()))
}

impl Row {
    /// Starts the row's gateway and stores what the load requests.
    fn start(&self, stage: &Stage, origin: &Origin) -> Result<Server> {
        let gateway = stage.start(STEPGATE, origin, ON_SERVER_CORE, None)?;
        if let Work::Random(count) = self.2 {
            let paths = (1..=count).map(|number| done(SMALL, &number.to_string()));
            fetch_each(gateway.address, paths, 16)?;
            let entries = gateway.metric("stepgate_cache_entries", "")?;
            if entries != u64::from(count) {
                return Err(format!("{entries} of {count} entries are stored").into());
            }
        }
        let path = match self.2 {
            Work::Hit(size) => done(size, "1"),
            Work::Random(_) => done(SMALL, "1"),
            Work::Poll => live(SMALL, NEARBY, "0"),
        };
        gateway.check(origin, &path)?;
        Ok(gateway)
    }

    /// Measures a time out of the middle of a load, so that the opening of ten thousand connections is
    /// no part of it. The gateway's own metrics count the requests of that time.
    fn measure(
        &self,
        gateway: &Server,
        origin: &Origin,
        round: u32,
        seconds: u32,
    ) -> Result<Vec<Figure>> {
        const OPENING: Duration = Duration::from_secs(20);
        const SETTLED: Duration = Duration::from_millis(500);
        let (path, others) = match self.2 {
            Work::Hit(size) => (done(size, "1"), String::new()),
            Work::Poll => (live(SMALL, NEARBY, &round.to_string()), String::new()),
            Work::Random(count) => (
                String::new(),
                format!("{} {count} {round}", done(SMALL, "")),
            ),
        };
        let wrk = Wrk {
            connections: self.1,
            // It is stopped before this time is over.
            seconds: seconds + 60,
            cores: ON_LOAD_CORE,
            server: gateway.address,
            path,
            others,
        };
        let wrk = wrk.start()?;
        let deadline = Instant::now() + OPENING;
        while gateway.metric("stepgate_connections", "")? < u64::from(self.1) {
            if Instant::now() > deadline {
                return Err(format!("{} connections do not open in time", self.1).into());
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
        let resident = mebibytes(gateway.process.resident());
        load::stop(wrk)?;
        let is_poll = matches!(self.2, Work::Poll);
        if requests == 0 || is_poll != (fetches > 0) {
            return Err(format!("{fetches} fetches for {requests} requests").into());
        }
        let (requests, fetches) = (requests as f64, fetches as f64);
        let rss = Figure::new("RSS MiB", resident);
        Ok(if is_poll {
            vec![
                Figure::new("fetches/s", fetches / elapsed),
                Figure::new("polls/s", requests / elapsed),
                Figure::new("CPU µs per poll", cpu / requests).with_spread(),
                Figure::new("CPU µs per fetch", cpu / fetches),
                rss,
            ]
        } else {
            vec![
                Figure::new("CPU µs per hit", cpu / requests).with_spread(),
                Figure::new("hits/s", requests / elapsed),
                rss,
            ]
        })
    }
}
