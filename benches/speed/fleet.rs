//! A fleet: what the shared tier saves it, what it costs the gateways and Redis.

mod caller;
mod commands;
mod crowd;
mod redis;
mod restart;
mod row;

use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::Fallible;
use crate::contender::Stage;
use crate::machine;
use crate::process::{LOAD, Place};
use crate::report::{Section, Series, Table, Unit};
use crate::steps::SMALL;
use crate::suite::{Effort, Flags, Suite};
use crate::upstream::Upstream;
use crowd::{AWAY, Crowd, LIFE, PACE, STEPS};
use row::{Figures, Row};

#[derive(clap::Args)]
pub(crate) struct Fleet {
    #[command(flatten)]
    flags: Flags,
}

const SUITE: Suite = Suite {
    parts: &[
        ("together", together),
        ("later", later),
        ("restart", restart::restart),
        ("commands", commands::commands),
    ],
    rounds: 1,
    opening,
};

const GATEWAYS: [u32; 5] = [1, 2, 4, 8, 16];

/// So many times `--seconds`: the time over which steps begin. Sixteen gateways that poll all of them
/// while they are live then leave both cores some room.
const SPAN: u32 = 3;

impl Fleet {
    pub(crate) fn run(&self) -> ExitCode {
        SUITE.run(&self.flags)
    }
}

fn opening(Effort { rounds, seconds }: Effort, _: &[Section]) -> String {
    format!(
        "# What the shared tier saves a fleet\n\n\
         Written by `benches/fleet --rounds {rounds} --seconds {seconds}`; what it means is in the \
         README.\n\n{}- {}\n\n\
         All gateways, with one worker thread each, share a core; callers, upstream and Redis share \
         another. Every body is checked, and a step must not be told live once anybody was told that it \
         is final: *wrong* counts both. Latency is the caller's, of all answers from there; CPU is \
         processor time of the gateways, in user space and in the kernel. Figures are medians of \
         the rounds.\n",
        machine::described(),
        redis_version(),
    )
}

fn together(stage: &Stage, effort: Effort) -> Fallible<Section> {
    Ok(Section {
        title: "Steps polled through every gateway from the beginning".to_owned(),
        how: format!(
            "{} Each gateway has a poller for each step, which polls until the step is final and then \
             twice more.",
            polled(effort)
        ),
        table: measured(Crowd::Together, &GATEWAYS, stage, effort)?,
        reaches: Vec::new(),
    })
}

fn later(stage: &Stage, effort: Effort) -> Fallible<Section> {
    let [_, several @ ..] = GATEWAYS;
    Ok(Section {
        title: "Steps that come to the other gateways when they are final".to_owned(),
        how: format!(
            "{} One gateway has a poller for a step, in turn, which polls until it is final and then \
             twice more; then each of the others is asked three times.",
            polled(effort)
        ),
        table: measured(Crowd::Later, &several, stage, effort)?,
        reaches: Vec::new(),
    })
}

fn polled(effort: Effort) -> String {
    format!(
        "{STEPS} steps of {SMALL} B, each in a thread of its own, {AWAY} ms away, begin over {} s; each \
         ends {LIFE} ms after its first poll. A poller asks again {} to {} ms after an answer.",
        SPAN * effort.seconds,
        PACE.start,
        PACE.end
    )
}

/// The rows take turns.
fn measured(crowd: Crowd, gateways: &[u32], stage: &Stage, effort: Effort) -> Fallible<Table> {
    stand_aside()?;
    let upstream = Upstream::plain()?;
    let both = |&gateways: &u32| {
        [false, true].map(|has_tier| {
            let row = Row { gateways, has_tier };
            (row, Figures::default())
        })
    };
    let mut rows: Vec<_> = gateways.iter().flat_map(both).collect();
    let span = Duration::from_secs(u64::from(SPAN * effort.seconds));
    for round in 1..=effort.rounds {
        for (number, (row, figures)) in rows.iter_mut().enumerate() {
            let word = format!("{round}_{number}");
            row.take(crowd, &word, span, stage, &upstream, figures)?;
        }
        writeln!(io::stderr(), "    round {round} of {}", effort.rounds)?;
    }
    let is_wrong = rows.iter().any(|(_, figures)| figures.wrong > 0);
    let table = table(&rows);
    if is_wrong {
        return Err(format!("answers are wrong:\n{}", table.markdown()).into());
    }
    Ok(table)
}

fn table(rows: &[(Row, Figures)]) -> Table {
    let mut table = Table::new([
        "gateways, tier",
        "fetches per step",
        "per step and gateway",
        "final ones per step",
        "polls",
        "shared hits",
        "wrong",
        "CPU µs per poll",
        "memory p50, p99 µs",
        "shared p50, p99 µs",
        "Redis commands/s",
        "KB/s there, back",
    ]);
    for (row, figures) in rows {
        let tier = if row.has_tier { "with" } else { "without" };
        let fetches = figures.fetches.median();
        table.row([
            format!("{}, {tier}", row.gateways),
            Unit::Ratio.show(fetches),
            Unit::Ratio.show(fetches / f64::from(row.gateways)),
            Unit::Ratio.show(figures.finals.median()),
            Unit::Count.show(figures.polls.median()),
            Unit::Count.show(figures.shared_hits.median()),
            figures.wrong.to_string(),
            Unit::Micros.show(figures.cpu.median()),
            pair(&figures.memory, Unit::Micros, 1.0),
            pair(&figures.shared, Unit::Micros, 1.0),
            shown(&figures.commands, Unit::Count, 1.0),
            pair(&figures.bytes, Unit::Millis, 1e-3),
        ]);
    }
    table
}

fn pair([first, second]: &[Series; 2], unit: Unit, scale: f64) -> String {
    let (first, second) = (shown(first, unit, scale), shown(second, unit, scale));
    if first == NOTHING {
        first
    } else {
        format!("{first}, {second}")
    }
}

const NOTHING: &str = "–";

fn shown(series: &Series, unit: Unit, scale: f64) -> String {
    let median = series.median();
    if median.is_nan() {
        NOTHING.to_owned()
    } else {
        unit.show(median * scale)
    }
}

/// Leaves the gateways their core: who calls is this process itself. What it starts may still go
/// elsewhere.
fn stand_aside() -> Fallible<()> {
    let Place::Core(core) = LOAD else {
        return Ok(());
    };
    let output = Command::new("taskset")
        .args(["-a", "-p", "-c", &core.to_string()])
        .arg(std::process::id().to_string())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}

fn redis_version() -> String {
    let output = Command::new("redis-server").arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let said = said.unwrap_or_default();
    let version = said.split(' ').find_map(|word| word.strip_prefix("v="));
    format!("Redis: {}", version.unwrap_or("unknown"))
}
