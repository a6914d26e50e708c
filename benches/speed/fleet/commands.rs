//! What each kind of command costs: bytes, Redis's time, Redis's memory.

use std::io::{self, Write};
use std::time::Duration;

use super::caller::{Tally, ask_each};
use super::redis::{Moved, Redis};
use super::restart::{STEPS, done, paths, wait_for_writes};
use super::shown;
use crate::Fallible;
use crate::clock::pause;
use crate::contender::{Contender, Stage};
use crate::report::{Section, Series, Table, Unit, as_figure};
use crate::steps::SMALL;
use crate::suite::Effort;
use crate::upstream::Upstream;

const ABREAST: u32 = 16;

/// Rounds of a keeper are counted for so long.
const IDLE: Duration = Duration::from_secs(4);

const KINDS: [&str; 4] = [
    "a keeper's round, no news",
    "a look-up that finds nothing",
    "a write",
    "a look-up that finds a step",
];

#[derive(Default)]
struct Figures {
    bytes_in: Series,
    bytes_out: Series,
    cpu: Series,
    memory: Series,
}

pub(super) fn commands(stage: &Stage, effort: Effort) -> Fallible<Section> {
    super::stand_aside()?;
    let upstream = Upstream::plain()?;
    let mut rows = KINDS.map(|_| Figures::default());
    for round in 1..=effort.rounds {
        let mut taken = take(stage, &upstream)?;
        // What an idle Redis does of its own accord is more.
        let [idle, ..] = &mut taken;
        idle[2] = f64::NAN;
        for (figures, each) in rows.iter_mut().zip(taken) {
            let [bytes_in, bytes_out, cpu, memory] = each;
            figures.bytes_in.push(bytes_in);
            figures.bytes_out.push(bytes_out);
            figures.cpu.push(cpu);
            figures.memory.push(memory);
        }
        writeln!(io::stderr(), "    round {round} of {}", effort.rounds)?;
    }
    let mut table = Table::new(["command", "B there", "B back", "Redis CPU µs", "B kept"]);
    for (kind, figures) in KINDS.iter().zip(&rows) {
        table.row([
            (*kind).to_owned(),
            Unit::Bytes.show(figures.bytes_in.median()),
            Unit::Bytes.show(figures.bytes_out.median()),
            shown(&figures.cpu, Unit::Micros, 1.0),
            Unit::Bytes.show(figures.memory.median()),
        ]);
    }
    Ok(Section {
        title: "What a command costs Redis".to_owned(),
        how: format!(
            "Bytes of RESP, without TCP's own. Kept is the growth of used_memory: {} steps of {SMALL} B, \
             each in a thread of its own, whose hash and token the look-up leaves and the write adds \
             its entry to. {ABREAST} callers; a round is counted while nobody asks.",
            Unit::Count.show(f64::from(STEPS))
        ),
        table,
        reaches: Vec::new(),
    })
}

/// Bytes there and back, microseconds, bytes kept: of one command of each kind.
fn take(stage: &Stage, upstream: &Upstream) -> Fallible<[[f64; 4]; 4]> {
    let redis = Redis::start()?;
    let first = Contender::start_in_fleet(stage, upstream, Some(redis.address))?;
    let during = |work: &dyn Fn() -> Fallible<()>| {
        let before = redis.counted()?;
        work()?;
        Fallible::Ok(redis.counted()?.since(&before))
    };
    let rounds = during(&|| {
        pause(IDLE);
        Ok(())
    })?;
    let round = each(&rounds, rounds.rounds);
    let found_nothing = during(&|| {
        let tally = ask_each(first.address, paths("live", "commands", STEPS), ABREAST)?;
        all(&tally, tally.upstream.len())
    })?;
    let looks_and_writes = during(&|| {
        let tally = ask_each(first.address, done("commands", STEPS), ABREAST)?;
        all(&tally, tally.upstream.len())?;
        wait_for_writes(&first, STEPS)
    })?;
    let new = Contender::start_in_fleet(stage, upstream, Some(redis.address))?;
    let found = during(&|| {
        let tally = ask_each(new.address, done("commands", STEPS), ABREAST)?;
        all(&tally, tally.shared.len())
    })?;
    for (moved, scripts) in [
        (&rounds, 0),
        (&found_nothing, STEPS),
        // The threads of the second are those of the first.
        (&looks_and_writes, 2 * STEPS),
        (&found, STEPS),
    ] {
        if !nearly(moved.scripts, scripts) {
            return Err(format!("{} scripts, not {scripts}", moved.scripts).into());
        }
    }
    let of_a_step = |moved: &Moved| {
        let rounds = as_figure(moved.rounds);
        let mut figures = each(moved, u64::from(STEPS));
        for (figure, round) in figures.iter_mut().zip(round) {
            *figure -= round * rounds / f64::from(STEPS);
        }
        figures
    };
    let nothing = of_a_step(&found_nothing);
    let mut write = of_a_step(&looks_and_writes);
    let [there, back, cpu, _kept] = &mut write;
    // Its look-up is in it; the hash and the token were there.
    for (figure, look) in [there, back, cpu].into_iter().zip(nothing) {
        *figure -= look;
    }
    Ok([round, nothing, write, of_a_step(&found)])
}

fn each(moved: &Moved, count: u64) -> [f64; 4] {
    let count = as_figure(count);
    [
        as_figure(moved.bytes_in) / count,
        as_figure(moved.bytes_out) / count,
        moved.cpu.as_secs_f64() * 1e6 / count,
        as_figure(moved.memory) / count,
    ]
}

/// Every answer is right and from where it was to come.
fn all(tally: &Tally, from_there: usize) -> Fallible<()> {
    if tally.wrong == 0 && nearly(from_there as u64, STEPS) {
        return Ok(());
    }
    let wrong = tally.wrong;
    Err(format!(
        "of {STEPS} answers {wrong} are wrong and {from_there} from where they were to come"
    )
    .into())
}

/// But for those that a busy machine made overrun their budget.
fn nearly(count: u64, wanted: u32) -> bool {
    let wanted = u64::from(wanted);
    count <= wanted && count >= wanted - wanted / 100
}
