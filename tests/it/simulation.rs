//! Departures, held against an oracle: ten thousand schedules of askers, hang-ups, purges, refusals
//! and every kind of reply, on paused time.
//!
//! Every schedule is drawn from its seed, so a failure repeats. `STEPGATE_SEEDS=7..8` plays those
//! instead.

mod batch;
mod draw;
mod log;
mod long_polls;
mod oracle;
mod play;
mod retry_after_gate;
mod schedule;
mod story;
mod upstream;
mod world;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::mem::{Discriminant, discriminant};
use std::ops::Range;

use log::{Answer, Entry, Event, What};
use oracle::check;
use play::play;
use schedule::Schedule;

/// How many smaller schedules are tried when one fails.
const SHRINKS: usize = 3000;

/// Why it failed, and what happened until then.
type Failure = (String, Vec<Entry>);

fn passes(schedule: &Schedule) -> Result<Vec<Entry>, Failure> {
    let log = play(schedule)?;
    match check(schedule, &log) {
        Ok(()) => Ok(log),
        Err(broken) => {
            let why = format!("does not hold: {}", broken.rule);
            Err((why, log[..broken.entries].to_vec()))
        }
    }
}

/// The smallest schedule found that fails in the same way.
fn shrunk(mut schedule: Schedule, why: &str) -> Schedule {
    let mut left = SHRINKS;
    let fails = |schedule: &Schedule| passes(schedule).is_err_and(|(same, _)| same == why);
    while let Some(smaller) = schedule
        .smaller()
        .into_iter()
        .take(left)
        .inspect(|_| left -= 1)
        .find(fails)
    {
        schedule = smaller;
    }
    schedule
}

fn report(seed: u64, why: &str) -> String {
    let schedule = shrunk(Schedule::drawn(seed), why);
    let mut report = format!("seed {seed}: {why}\n{schedule}\n");
    if let Err((_, log)) = passes(&schedule) {
        for entry in log {
            let _ = writeln!(report, "{:>6} ms  {:?}", entry.at, entry.event);
        }
    }
    report
}

/// What the schedules have led to, so that they cannot pass by leading to nothing.
#[derive(Default)]
struct Seen {
    events: HashSet<Discriminant<Event>>,
    landings: HashSet<Discriminant<What>>,
    answers: HashSet<Discriminant<Answer>>,
}

impl Seen {
    fn note(&mut self, log: &[Entry]) {
        for entry in log {
            self.events.insert(discriminant(&entry.event));
            if let Event::Completion { what, .. } = &entry.event {
                self.landings.insert(discriminant(what));
            }
            if let Event::Answered(_, answer) = &entry.event {
                self.answers.insert(discriminant(answer));
            }
        }
    }

    fn kinds(&self) -> [usize; 3] {
        [self.events.len(), self.landings.len(), self.answers.len()]
    }
}

fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(asked) = std::env::var("STEPGATE_SEEDS") else {
        return usual;
    };
    let (from, to) = asked.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// One of each way to fail.
fn first_of_each(failed: &[(u64, String)]) -> impl Iterator<Item = &(u64, String)> {
    let mut told = HashSet::new();
    failed.iter().filter(move |(_, why)| told.insert(why))
}

fn keep_the_promises(usual: Range<u64>) {
    let mut seen = Seen::default();
    let mut failed = Vec::new();
    for seed in seeds(usual.clone()) {
        match passes(&Schedule::drawn(seed)) {
            Ok(log) => seen.note(&log),
            Err((why, _)) => failed.push((seed, why)),
        }
    }
    let reports = first_of_each(&failed).map(|(seed, why)| report(*seed, why));
    let reports: Vec<_> = reports.collect();
    let count = failed.len();
    assert!(
        count == 0,
        "{count} fail: {failed:?}\n\n{}",
        reports.join("\n")
    );
    if seeds(usual.clone()) == usual {
        assert_eq!(seen.kinds(), [19, 5, 7], "every kind of everything");
    }
}

// In two halves, since tests run side by side.

#[test]
fn five_thousand_schedules_keep_the_promises() {
    keep_the_promises(0..5_000);
}

#[test]
fn five_thousand_more_schedules_keep_the_promises() {
    keep_the_promises(5_000..10_000);
}
