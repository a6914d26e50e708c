//! How cost grows: connections, entries, bodies, pollers, each from few to as many as there may be.

mod row;
mod window;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::Fallible;
use crate::contender::Stage;
use crate::machine;
use crate::report::{Section, Table, Unit};
use crate::steps::SMALL;
use crate::suite::{Effort, Flags, Suite};
use crate::upstream::Upstream;
use row::{Row, Work};
use window::Figures;

#[derive(clap::Args)]
pub(crate) struct Growth {
    #[command(flatten)]
    flags: Flags,
}

const SUITE: Suite = Suite {
    parts: &[
        ("connections", connections),
        ("entries", entries),
        ("bodies", bodies),
        ("pollers", pollers),
    ],
    rounds: 3,
    opening,
};

/// Busy callers where their number is not what grows.
const CALLERS: u32 = 64;

impl Growth {
    pub(crate) fn run(&self) -> ExitCode {
        SUITE.run(&self.flags)
    }
}

fn opening(Effort { rounds, seconds }: Effort, _: &[Section]) -> String {
    format!(
        "# How stepgate's cost grows\n\n\
         Written by `benches/growth --rounds {rounds} --seconds {seconds}`; what it means is in the \
         README.\n\n{}\n\
         One worker thread on a core of its own, callers (wrk, closed loop) and upstream on another. \
         Figures are medians of {rounds} rounds of {seconds} s, in which the rows take turns; time is \
         taken when all connections are open. CPU is processor time per request, in user space and in \
         the kernel; RSS is resident memory at the end of the time, connections open.\n",
        machine::described(),
    )
}

fn connections(stage: &Stage, effort: Effort) -> Fallible<Section> {
    let rows = [1, 10, 100, 1000, 10_000].map(|callers| (callers, Work::Hits(SMALL)));
    let name = |row: &Row| Unit::Count.show(f64::from(row.callers));
    Ok(Section {
        title: "Connections".to_owned(),
        how: "All ask for the same stored step of 790 B.".to_owned(),
        table: hits("connections", name, &measured(rows, stage, effort)?),
        reaches: Vec::new(),
    })
}

fn entries(stage: &Stage, effort: Effort) -> Fallible<Section> {
    let rows = [1000, 10_000, 100_000, 1_000_000].map(|count| (CALLERS, Work::Drawn(count)));
    let name = |row: &Row| match row.work {
        Work::Drawn(entries) => Unit::Count.show(f64::from(entries)),
        Work::Hits(_) | Work::Polls => String::new(),
    };
    Ok(Section {
        title: "Entries".to_owned(),
        how: format!(
            "{CALLERS} callers ask for stored steps of 790 B, every time for another one, at random."
        ),
        table: hits("entries", name, &measured(rows, stage, effort)?),
        reaches: Vec::new(),
    })
}

fn bodies(stage: &Stage, effort: Effort) -> Fallible<Section> {
    let sizes = [600, 5 * 1024, 50 * 1024, 500 * 1024, 840 * 1024];
    let rows = sizes.map(|size| (CALLERS, Work::Hits(size)));
    let name = |row: &Row| match row.work {
        Work::Hits(size) if size < 1024 => format!("{size} B"),
        Work::Hits(size) => format!("{} KB", size / 1024),
        Work::Drawn(_) | Work::Polls => String::new(),
    };
    Ok(Section {
        title: "Bodies".to_owned(),
        how: format!("{CALLERS} callers ask for one stored step."),
        table: hits("body", name, &measured(rows, stage, effort)?),
        reaches: Vec::new(),
    })
}

fn pollers(stage: &Stage, effort: Effort) -> Fallible<Section> {
    let rows = [1, 10, 100, 1000, 10_000].map(|callers| (callers, Work::Polls));
    let mut table = Table::new([
        "pollers",
        "fetches/s",
        "polls/s",
        "CPU µs per poll",
        "least to most",
        "CPU µs per fetch",
        "RSS MiB",
    ]);
    for (row, figures) in measured(rows, stage, effort)? {
        let per_fetch = figures.cpu.median() * figures.requests.median() / figures.fetches.median();
        table.row([
            Unit::Count.show(f64::from(row.callers)),
            format!("{:.1}", figures.fetches.median()),
            Unit::Count.show(figures.requests.median()),
            Unit::Micros.show(figures.cpu.median()),
            figures.cpu.spread(Unit::Micros),
            Unit::Micros.show(per_fetch),
            Unit::Mebibytes.show(figures.resident.median()),
        ]);
    }
    Ok(Section {
        title: "Pollers on one live step".to_owned(),
        how: format!(
            "All poll the same step, {} ms away, and ask again as soon as they are answered.",
            row::AWAY
        ),
        table,
        reaches: Vec::new(),
    })
}

/// Every row with a gateway of its own, so that none inherits another's memory; the rows take turns.
fn measured<const N: usize>(
    rows: [(u32, Work); N],
    stage: &Stage,
    effort: Effort,
) -> Fallible<Vec<(Row, Figures)>> {
    let upstream = Upstream::plain()?;
    let mut rows = rows
        .into_iter()
        .map(|(callers, work)| {
            let row = Row::start(callers, work, stage, &upstream)?;
            Ok((row, Figures::default()))
        })
        .collect::<Fallible<Vec<_>>>()?;
    for round in 1..=effort.rounds {
        for (row, figures) in &mut rows {
            figures.take(row, &upstream, round, effort.seconds)?;
        }
        writeln!(io::stderr(), "    round {round} of {}", effort.rounds)?;
    }
    Ok(rows)
}

fn hits(what: &str, name: impl Fn(&Row) -> String, rows: &[(Row, Figures)]) -> Table {
    let mut table = Table::new([what, "CPU µs per hit", "least to most", "hits/s", "RSS MiB"]);
    for (row, figures) in rows {
        table.row([
            name(row),
            Unit::Micros.show(figures.cpu.median()),
            figures.cpu.spread(Unit::Micros),
            Unit::Count.show(figures.requests.median()),
            Unit::Mebibytes.show(figures.resident.median()),
        ]);
    }
    table
}
