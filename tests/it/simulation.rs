//! The coalescer and the Retry-After gate, checked against an oracle: ten thousand schedules of requests,
//! disconnects, purges, rate limits and every kind of reply, on paused time.
//!
//! Every schedule is generated from its seed, so a failure repeats. `STEPGATE_SEEDS=7..8` runs those seeds
//! instead.

mod batch;
mod generate;
mod log;
mod long_polls;
mod oracle;
mod play;
mod retry_after_gate;
mod schedule;
mod trace;
mod upstream;
mod world;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::mem::{Discriminant, discriminant};
use std::ops::Range;

use log::{Answer, Content, Entry, Event};
use oracle::check;
use play::play;
use schedule::Schedule;

/// How many smaller schedules are tried after a failure.
const SHRINKS: usize = 3000;

/// Why a schedule failed, and what happened until then.
type Failure = (String, Vec<Entry>);

fn passes(schedule: &Schedule) -> Result<Vec<Entry>, Failure> {
    let log = play(schedule)?;
    match check(schedule, &log) {
        Ok(()) => Ok(log),
        Err(broken) => {
            let why = format!("does not block: {}", broken.rule);
            Err((why, log[..broken.entries].to_vec()))
        }
    }
}

/// Returns the smallest schedule found that fails in the same way.
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
    let schedule = shrunk(Schedule::generated(seed), why);
    let mut report = format!("seed {seed}: {why}\n{schedule}\n");
    if let Err((_, log)) = passes(&schedule) {
        for entry in log {
            let _ = writeln!(report, "{:>6} ms  {:?}", entry.at, entry.event);
        }
    }
    report
}

/// What the schedules led to, so that the test cannot pass because they led to nothing.
#[derive(Default)]
struct Seen {
    events: HashSet<Discriminant<Event>>,
    completions: HashSet<Discriminant<Content>>,
    answers: HashSet<Discriminant<Answer>>,
}

impl Seen {
    fn note(&mut self, log: &[Entry]) {
        for entry in log {
            self.events.insert(discriminant(&entry.event));
            if let Event::Completed { content, .. } = &entry.event {
                self.completions.insert(discriminant(content));
            }
            if let Event::Answered(_, answer) = &entry.event {
                self.answers.insert(discriminant(answer));
            }
        }
    }

    fn kinds(&self) -> [usize; 3] {
        [
            self.events.len(),
            self.completions.len(),
            self.answers.len(),
        ]
    }
}

fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(asked) = std::env::var("STEPGATE_SEEDS") else {
        return usual;
    };
    let (from, to) = asked.split_once("..").expect("FROM..TO");
    from.parse().expect("a seq")..to.parse().expect("a seq")
}

/// Returns one failure of each kind.
fn first_of_each(failed: &[(u64, String)]) -> impl Iterator<Item = &(u64, String)> {
    let mut log_entries = HashSet::new();
    failed
        .iter()
        .filter(move |(_, why)| log_entries.insert(why))
}

fn assert_promises(usual: Range<u64>) {
    let mut seen = Seen::default();
    let mut failed = Vec::new();
    for seed in seeds(usual.clone()) {
        match passes(&Schedule::generated(seed)) {
            Ok(log) => seen.note(&log),
            Err((why, _)) => failed.push((seed, why)),
        }
    }
    let reports = first_of_each(&failed).map(|(seed, why)| report(*seed, why));
    let reports: Vec<_> = reports.collect();
    let count = failed.len();
    assert!(
        count == 0,
        "{count} schedules fail: {failed:?}\n\n{}",
        reports.join("\n")
    );
    if seeds(usual.clone()) == usual {
        assert_eq!(
            seen.kinds(),
            [19, 5, 7],
            "every kind of event, content and answer occurs"
        );
    }
}

// Two halves, because tests run in parallel.

#[test]
fn five_thousand_schedules_keep_the_promises() {
    assert_promises(0..5_000);
}

#[test]
fn five_thousand_more_schedules_keep_the_promises() {
    assert_promises(5_000..10_000);
}
