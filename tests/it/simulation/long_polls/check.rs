//! The oracle of patrols: what each waiter must be told, and when a loop must poll.

use super::vigil::{Bearing, Entry, Event, Told, Vigil, Waiter};
use crate::simulation::schedule::Ms;

type Verdict = Result<(), &'static str>;

fn must(holds: bool, rule: &'static str) -> Verdict {
    if holds { Ok(()) } else { Err(rule) }
}

/// The loop of a step.
#[derive(Default)]
struct Loop {
    alive: bool,
    /// When it has to poll next; none while it does.
    next: Option<Ms>,
    last_number: u64,
    body: Option<u64>,
    failure: Option<u64>,
}

impl Loop {
    /// The latest that departed after a waiter came.
    fn latest(&self, since: u64) -> Option<Told> {
        let body = self.body.filter(|number| *number >= since);
        let failure = self.failure.filter(|number| *number >= since);
        body.map(Told::Body).or(failure.map(Told::Failure))
    }
}

struct Waiting {
    waiter: Waiter,
    here: bool,
    since: u64,
    /// Once it is certain what it is told.
    due: Option<Option<Told>>,
}

struct Judge<'v> {
    vigil: &'v Vigil,
    now: Ms,
    numbers: u64,
    loops: [Loop; 2],
    waiting: Vec<Waiting>,
}

/// The rule that does not hold, and after how many entries.
pub(super) fn check(vigil: &Vigil, log: &[Entry]) -> Result<(), (&'static str, usize)> {
    let waiting = |waiter: &Waiter| Waiting {
        waiter: *waiter,
        here: false,
        since: 0,
        due: None,
    };
    let mut check = Judge {
        vigil,
        now: 0,
        numbers: 0,
        loops: Default::default(),
        waiting: vigil.waiters.iter().map(waiting).collect(),
    };
    for (index, entry) in log.iter().enumerate() {
        check.now = entry.at;
        let next = log.get(index + 1).map(|next| next.at);
        check
            .hear(entry.event)
            .and_then(|()| match next {
                Some(next) if next == entry.at => Ok(()),
                Some(_) | None => check.time_passes(),
            })
            .map_err(|rule| (rule, index + 1))?;
    }
    Ok(())
}

impl Judge<'_> {
    fn hear(&mut self, event: Event) -> Verdict {
        match event {
            Event::Came(id) => {
                let since = self.numbers + 1;
                let waiting = &mut self.waiting[id];
                (waiting.here, waiting.since) = (true, since);
                Ok(())
            }
            Event::Answered(id, told) => self.answered(id, told),
            Event::HungUp(id) => {
                self.waiting[id].here = false;
                Ok(())
            }
            Event::LoopStarts { step } => {
                must(!self.loops[step].alive, "all who wait cost one loop")?;
                self.loops[step] = Loop {
                    alive: true,
                    next: Some(self.now),
                    ..Loop::default()
                };
                Ok(())
            }
            Event::LoopEnds { step } => {
                self.loops[step].alive = false;
                Ok(())
            }
            Event::Polls { step, number } => {
                self.numbers = number;
                let own = &mut self.loops[step];
                own.last_number = number;
                must(own.next.take() == Some(self.now), "a loop keeps its pace")
            }
            Event::PollEnds { step, told, pace } => {
                self.heard(step, told, pace);
                Ok(())
            }
        }
    }

    fn heard(&mut self, step: usize, told: Option<Told>, pace: Ms) {
        let own = &mut self.loops[step];
        own.next = Some(self.now + pace);
        match told {
            Some(Told::Body(number)) => own.body = Some(number),
            Some(Told::Failure(number)) => own.failure = Some(number),
            // It is over for all who may believe it.
            Some(Told::End(number)) => {
                for waiting in self.here(step) {
                    let purged = waiting.waiter.purged;
                    if number >= if purged { waiting.since } else { 0 } {
                        waiting.due = Some(told);
                    }
                }
            }
            // Broken: each gets what there is for it.
            None => {
                let latest = |since| self.loops[step].latest(since);
                let dues: Vec<_> = self.waiting.iter().map(|w| latest(w.since)).collect();
                for (waiting, due) in self.waiting.iter_mut().zip(dues) {
                    if waiting.here && waiting.waiter.step == step && waiting.due.is_none() {
                        waiting.due = Some(due);
                    }
                }
            }
        }
    }

    /// Who waits for the step, and is not told yet.
    fn here(&mut self, step: usize) -> impl Iterator<Item = &mut Waiting> {
        let waiting = self.waiting.iter_mut();
        waiting.filter(move |w| w.here && w.waiter.step == step && w.due.is_none())
    }

    fn answered(&mut self, id: usize, told: Option<Told>) -> Verdict {
        let Waiting {
            waiter,
            since,
            due,
            here,
        } = self.waiting[id];
        self.waiting[id].here = false;
        must(here, "one answer each")?;
        let until = waiter.at + waiter.patience;
        must(self.now <= until, "each is answered when its time is over")?;
        if let Some(due) = due {
            must(told == due, "what ends a loop is told to all")?;
        } else {
            let drained = waiter
                .drained
                .is_some_and(|after| waiter.at + after == self.now);
            must(self.now == until || drained, "nobody is answered early")?;
            let latest = self.loops[waiter.step].latest(since);
            must(told == latest, "the latest that departed after it came")?;
        }
        let Some(end) = self.vigil.ends[waiter.step] else {
            return must(!matches!(told, Some(Told::End(_))), "no end without an end");
        };
        must(
            end <= self.now || !matches!(told, Some(Told::End(_))),
            "no end before the end",
        )?;
        // As long as all polls succeed.
        let polls = &self.vigil.polls;
        let honest = polls.iter().all(|poll| poll.bearing == Bearing::Truth);
        let pace = polls.iter().map(|poll| poll.pace).max().unwrap_or(0);
        let latency = polls.iter().map(|poll| poll.takes).max().unwrap_or(0);
        // Who came after a purge does not believe a poll that was on its way.
        let unbelieved = if waiter.purged { latency } else { 0 };
        must(
            !honest || self.now <= end.max(waiter.at) + unbelieved + pace + latency,
            "each is answered within a pace and a latency of the end",
        )
    }

    fn time_passes(&self) -> Verdict {
        for (step, own) in self.loops.iter().enumerate() {
            let here = self.waiting.iter().any(|w| w.here && w.waiter.step == step);
            must(here || !own.alive, "a loop ends when nobody waits")?;
            must(!here || own.alive, "while anybody waits there is a loop")?;
            let late = own.next.is_some_and(|next| next <= self.now);
            must(!(late && own.alive), "a loop polls in time")?;
        }
        for waiting in self.waiting.iter().filter(|waiting| waiting.here) {
            must(
                waiting.due.is_none(),
                "whoever has an answer gets it at once",
            )?;
            let until = waiting.waiter.at + waiting.waiter.patience;
            must(until > self.now, "each is answered when its time is over")?;
        }
        Ok(())
    }
}
