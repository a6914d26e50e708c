//! A warm restart: a new gateway, and steps that are final, each asked for once.

use std::io::{self, Write};
use std::time::Duration;

use super::caller::{Source, Tally, ask_each, p50_and_p99};
use super::redis::Redis;
use crate::Fallible;
use crate::clock::{now, pause};
use crate::contender::{Contender, Stage};
use crate::report::{Section, Series, Table, Unit, as_figure};
use crate::steps::SMALL;
use crate::suite::Effort;
use crate::upstream::Upstream;

pub(super) const STEPS: u32 = 10_000;

const ABREAST: [u32; 2] = [1, 16];

/// What is written behind is written sooner.
const QUIET: Duration = Duration::from_millis(300);

/// Between two looks at how much is written.
const LOOK: Duration = Duration::from_millis(20);

/// The work, and where its answers have to come from.
const WORKS: [(&str, Source); 4] = [
    ("fetch, without a tier", Source::Upstream),
    ("fetch, look-up and write", Source::Upstream),
    ("shared hit, after a restart", Source::Shared),
    ("memory hit", Source::Memory),
];

#[derive(Default)]
struct Figures {
    cpu: Series,
    p50: Series,
    p99: Series,
    /// Those from where they were to come, in all rounds.
    right: u64,
    wrong: u64,
    asked: u64,
}

pub(super) fn restart(stage: &Stage, effort: Effort) -> Fallible<Section> {
    super::stand_aside()?;
    let upstream = Upstream::plain()?;
    let mut rows = ABREAST.map(|abreast| (abreast, WORKS.map(|_| Figures::default())));
    for round in 1..=effort.rounds {
        for (abreast, figures) in &mut rows {
            take(*abreast, stage, &upstream, figures)?;
        }
        writeln!(io::stderr(), "    round {round} of {}", effort.rounds)?;
    }
    let wrong: u64 = rows.iter().flat_map(|(_, all)| all).map(|f| f.wrong).sum();
    if wrong > 0 {
        return Err(format!("{wrong} answers are wrong").into());
    }
    let mut table = Table::new([
        "callers and work",
        "answers from there",
        "wrong",
        "CPU µs each",
        "p50 µs",
        "p99 µs",
    ]);
    for (abreast, figures) in &rows {
        for ((work, _), figures) in WORKS.iter().zip(figures) {
            let count = |count: u64| Unit::Count.show(as_figure(count));
            table.row([
                format!("{abreast}: {work}"),
                format!("{} of {}", count(figures.right), count(figures.asked)),
                count(figures.wrong),
                Unit::Micros.show(figures.cpu.median()),
                Unit::Micros.show(figures.p50.median()),
                Unit::Micros.show(figures.p99.median()),
            ]);
        }
    }
    Ok(Section {
        title: "A warm restart".to_owned(),
        how: format!(
            "{} final steps of {SMALL} B, each in a thread of its own, 0 ms away, each asked for once: of \
             a gateway without a tier; of the first gateway of a fleet; of a new one with the same \
             Redis; of this one again. Callers ask again as soon as they are answered. CPU is the \
             gateway's.",
            Unit::Count.show(f64::from(STEPS))
        ),
        table,
        reaches: Vec::new(),
    })
}

fn take(
    abreast: u32,
    stage: &Stage,
    upstream: &Upstream,
    figures: &mut [Figures; 4],
) -> Fallible<()> {
    let redis = Redis::start()?;
    let alone = Contender::start_in_fleet(stage, upstream, None)?;
    let first = Contender::start_in_fleet(stage, upstream, Some(redis.address))?;
    let new = Contender::start_in_fleet(stage, upstream, Some(redis.address))?;
    let gateways = [&alone, &first, &new, &new];
    for (((_, source), gateway), figures) in WORKS.into_iter().zip(gateways).zip(figures) {
        let used = gateway.used();
        let tally = ask_each(gateway.address, done("restart", STEPS), abreast)?;
        if std::ptr::eq(gateway, &raw const first) {
            wait_for_writes(gateway, STEPS)?;
        }
        let used = gateway.used().since(&used);
        figures
            .cpu
            .push(used.as_secs_f64() * 1e6 / f64::from(STEPS));
        let Tally {
            memory,
            shared,
            upstream,
            ..
        } = &tally;
        let latencies = match source {
            Source::Memory => memory,
            Source::Shared => shared,
            Source::Upstream => upstream,
        };
        let (p50, p99) = p50_and_p99(latencies).ok_or("no answer came from where it was to")?;
        figures.p50.push(p50);
        figures.p99.push(p99);
        figures.right += latencies.len() as u64;
        figures.asked += tally.answers() as u64;
        figures.wrong += tally.wrong;
    }
    Ok(())
}

/// Paths of final steps.
pub(super) fn done(word: &str, count: u32) -> Vec<String> {
    paths("done", word, count)
}

/// Each in a thread of its own.
pub(super) fn paths(kind: &str, word: &str, count: u32) -> Vec<String> {
    let path = |number: u32| {
        format!(
            "/v1/threads/thread_{word}_{number}/runs/run_1/steps/{kind}-{SMALL}-0-{word}_{number}"
        )
    };
    (1..=count).map(path).collect()
}

/// Waits until so many are written, or no more are: what overran its budget is not.
pub(super) fn wait_for_writes(gateway: &Contender, count: u32) -> Fallible<()> {
    let (mut before, mut since) = (0, now());
    loop {
        let stored = gateway.counted_of("stepgate_shared_writes_total", "result=\"stored\"")?;
        if stored > before {
            (before, since) = (stored, now());
        }
        if stored >= u64::from(count) || since.elapsed() > QUIET {
            return Ok(());
        }
        pause(LOOK);
    }
}
