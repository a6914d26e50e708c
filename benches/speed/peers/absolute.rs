//! Figures that need no peer: what an entry costs in memory, what an idle gateway does, how soon it
//! answers.

use std::time::Duration;

use crate::Fallible;
use crate::ask::ask;
use crate::clock::{now, pause};
use crate::contender::{Contender, Kind, Stage};
use crate::line::ask_all;
use crate::process::Place;
use crate::report::{Reach, Section, Series, Table, Unit, as_figure, mebibytes};
use crate::steps::{SMALL, done, live};
use crate::suite::Effort;
use crate::upstream::Upstream;

const ENTRIES: u32 = 100_000;

const STARTS: u32 = 10;

/// Until an idle gateway has settled.
const SETTLED: Duration = Duration::from_millis(300);

/// Ids as long as the upstream's: a part of the key that a short one would hide.
const THREAD: &str = "thread_abcdefghijklmnopqrstuvwx";
const RUN: &str = "run_abcdefghijklmnopqrstuvwx";

/// What stepgate counts for a key beside the step's own id: a partition's hash, the rule's name and
/// the other ids, each with its end.
const KEY: usize = 16 + "run-step\n\n\n".len() + THREAD.len() + RUN.len();

pub(super) fn memory(stage: &Stage, _: Effort) -> Fallible<Section> {
    let upstream = Upstream::plain()?;
    let stepgate = Contender::start(Kind::Stepgate(1), stage, &upstream)?;
    // As many requests of the same kind that store nothing: what connections, fetches and the heap
    // take for themselves is not an entry's.
    let below = |path: String| {
        let step = path.rsplit('/').next().unwrap_or_default().to_owned();
        format!("/v1/threads/{THREAD}/runs/{RUN}/steps/{step}")
    };
    ask_all(stepgate.address, &below(live(SMALL, 0, "")), ENTRIES)?;
    pause(SETTLED);
    let before = stepgate.resident();
    ask_all(stepgate.address, &below(done(SMALL, "")), ENTRIES)?;
    pause(SETTLED);
    let after = stepgate.resident();

    let path = done(SMALL, "");
    let prefix = path.rsplit('/').next().unwrap_or_default().len();
    let digits: usize = (1..=ENTRIES).map(|n| n.to_string().len()).sum();
    let count = as_figure(u64::from(ENTRIES));
    let ids = as_figure(u64::try_from(digits)?) / count;
    let key = as_figure(u64::try_from(KEY + prefix + "\n".len())?) + ids;
    let body = as_figure(u64::try_from(SMALL)?);
    let entry = as_figure(after.saturating_sub(before)) / count;
    let over = entry - body - key;

    let mut table = Table::new(["figure", "value"]);
    for (name, value) in [
        ("resident before", Unit::Mebibytes.tell(mebibytes(before))),
        ("resident after", Unit::Mebibytes.tell(mebibytes(after))),
        ("per entry", Unit::Bytes.tell(entry)),
        ("of it the body", Unit::Bytes.tell(body)),
        ("of it the key", Unit::Bytes.tell(key)),
        ("over body and key", Unit::Bytes.tell(over)),
    ] {
        table.row([name.to_owned(), value]);
    }
    Ok(Section {
        title: "Memory of 100,000 entries of 790 B".to_owned(),
        how: "Resident memory before and after they are stored, one by one; before, as many live \
              steps were forwarded."
            .to_owned(),
        table,
        reaches: vec![Reach {
            work: "memory over body and key, per entry".to_owned(),
            against: "absolute".to_owned(),
            unit: Unit::Bytes,
            figure: over,
            spread: String::new(),
            at_most: Some(350.0),
        }],
    })
}

pub(super) fn start(stage: &Stage, _: Effort) -> Fallible<Section> {
    let upstream = Upstream::plain()?;
    // As it comes: a worker for each core, on any core.
    let workers = std::thread::available_parallelism()?;
    let kind = Kind::Stepgate(u32::try_from(workers.get())?);
    let (mut first, mut idle) = (Series::default(), Series::default());
    for _ in 0..STARTS {
        let begun = now();
        let stepgate = Contender::spawn(Place::Anywhere, kind, stage, &upstream)?;
        while ask(stepgate.address, "/").is_err() {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err("stepgate does not answer".into());
            }
            std::thread::yield_now();
        }
        first.push(begun.elapsed().as_secs_f64() * 1e3);
        pause(SETTLED);
        idle.push(mebibytes(stepgate.resident()));
    }
    let figures = [
        ("start until the first answer", first, Unit::Millis, 50.0),
        ("RSS idle", idle, Unit::Mebibytes, 12.0),
    ];
    let mut table = Table::new(["figure", "median", "least to most"]);
    let mut reaches = Vec::new();
    for (name, series, unit, at_most) in figures {
        let (figure, spread) = (series.median(), series.spread(unit));
        table.row([name.to_owned(), unit.tell(figure), spread.clone()]);
        reaches.push(Reach {
            work: name.to_owned(),
            against: "absolute".to_owned(),
            unit,
            figure,
            spread,
            at_most: Some(at_most),
        });
    }
    Ok(Section {
        title: "Start and rest".to_owned(),
        how: format!(
            "{STARTS} starts of a gateway with {workers} worker threads, until its data listener \
             answers anything; resident memory a moment later."
        ),
        table,
        reaches,
    })
}
