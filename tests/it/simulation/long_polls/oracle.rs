//! The oracle of long polls: which answer each request must get, and when a loop must poll.

use super::scenario::{Answer, Entry, Event, Reply, Scenario, Waiter};
use crate::simulation::schedule::Ms;

type Check = Result<(), &'static str>;

fn ensure(holds: bool, rule: &'static str) -> Check {
    if holds { Ok(()) } else { Err(rule) }
}

/// The loop of a resource.
#[derive(Default)]
struct Loop {
    alive: bool,
    /// When it must poll next. `None` while a poll is in flight.
    next: Option<Ms>,
    last_seq: u64,
    live: Option<u64>,
    transient: Option<u64>,
}

impl Loop {
    /// Returns the latest result of a poll that started after the request came.
    fn latest(&self, since: u64) -> Option<Answer> {
        let live = self.live.filter(|seq| *seq >= since);
        let transient = self.transient.filter(|seq| *seq >= since);
        live.map(Answer::Live).or(transient.map(Answer::Transient))
    }
}

struct Waiting {
    waiter: Waiter,
    here: bool,
    since: u64,
    /// The answer, once it is certain.
    due: Option<Option<Answer>>,
}

struct Oracle<'v> {
    scenario: &'v Scenario,
    now: Ms,
    seqs: u64,
    loops: [Loop; 2],
    waiting: Vec<Waiting>,
}

/// Returns the violated rule, and after how many entries.
pub(super) fn check(scenario: &Scenario, log: &[Entry]) -> Result<(), (&'static str, usize)> {
    let waiting = |waiter: &Waiter| Waiting {
        waiter: *waiter,
        here: false,
        since: 0,
        due: None,
    };
    let mut check = Oracle {
        scenario,
        now: 0,
        seqs: 0,
        loops: Default::default(),
        waiting: scenario.waiters.iter().map(waiting).collect(),
    };
    for (index, entry) in log.iter().enumerate() {
        check.now = entry.at;
        let next = log.get(index + 1).map(|next| next.at);
        check
            .apply(entry.event)
            .and_then(|()| match next {
                Some(next) if next == entry.at => Ok(()),
                Some(_) | None => check.time_passes(),
            })
            .map_err(|rule| (rule, index + 1))?;
    }
    Ok(())
}

impl Oracle<'_> {
    fn apply(&mut self, event: Event) -> Check {
        match event {
            Event::Arrived(id) => {
                let since = self.seqs + 1;
                let waiting = &mut self.waiting[id];
                (waiting.here, waiting.since) = (true, since);
                Ok(())
            }
            Event::Answered(id, answer) => self.answered(id, answer),
            Event::Disconnected(id) => {
                self.waiting[id].here = false;
                Ok(())
            }
            Event::LoopStarts { resource } => {
                ensure(
                    !self.loops[resource].alive,
                    "all requests of a resource share one loop",
                )?;
                self.loops[resource] = Loop {
                    alive: true,
                    next: Some(self.now),
                    ..Loop::default()
                };
                Ok(())
            }
            Event::LoopEnds { resource } => {
                self.loops[resource].alive = false;
                Ok(())
            }
            Event::PollStarts { resource, seq } => {
                self.seqs = seq;
                let own = &mut self.loops[resource];
                own.last_seq = seq;
                ensure(
                    own.next.take() == Some(self.now),
                    "a loop polls at its interval",
                )
            }
            Event::PollEnds {
                resource,
                answer,
                interval,
            } => {
                self.event(resource, answer, interval);
                Ok(())
            }
        }
    }

    fn event(&mut self, resource: usize, answer: Option<Answer>, interval: Ms) {
        let own = &mut self.loops[resource];
        own.next = Some(self.now + interval);
        match answer {
            Some(Answer::Live(seq)) => own.live = Some(seq),
            Some(Answer::Transient(seq)) => own.transient = Some(seq),
            // The resource is final: every request that accepts the poll is due that answer.
            Some(Answer::Final(seq)) => {
                for waiting in self.here(resource) {
                    let purged = waiting.waiter.purged;
                    if seq >= if purged { waiting.since } else { 0 } {
                        waiting.due = Some(answer);
                    }
                }
            }
            // The loop has ended: each request is due the latest result that it accepts.
            None => {
                let latest = |since| self.loops[resource].latest(since);
                let dues: Vec<_> = self.waiting.iter().map(|w| latest(w.since)).collect();
                for (waiting, due) in self.waiting.iter_mut().zip(dues) {
                    if waiting.here && waiting.waiter.resource == resource && waiting.due.is_none()
                    {
                        waiting.due = Some(due);
                    }
                }
            }
        }
    }

    /// Returns the requests that wait for the resource without an answer due.
    fn here(&mut self, resource: usize) -> impl Iterator<Item = &mut Waiting> {
        let waiting = self.waiting.iter_mut();
        waiting.filter(move |w| w.here && w.waiter.resource == resource && w.due.is_none())
    }

    fn answered(&mut self, id: usize, answer: Option<Answer>) -> Check {
        let Waiting {
            waiter,
            since,
            due,
            here,
        } = self.waiting[id];
        self.waiting[id].here = false;
        ensure(here, "a request gets one answer")?;
        let until = waiter.at + waiter.timeout_ms;
        ensure(
            self.now <= until,
            "a request is answered when its time is over",
        )?;
        if let Some(due) = due {
            ensure(
                answer == due,
                "a result that ends a loop answers every request",
            )?;
        } else {
            let drained = waiter
                .drained
                .is_some_and(|after| waiter.at + after == self.now);
            ensure(
                self.now == until || drained,
                "no request is answered early without a conclusive result",
            )?;
            let latest = self.loops[waiter.resource].latest(since);
            ensure(
                answer == latest,
                "a request gets the latest poll that started after it came",
            )?;
        }
        let Some(end) = self.scenario.final_at[waiter.resource] else {
            return ensure(
                !matches!(answer, Some(Answer::Final(_))),
                "a resource that stays live has no final answer",
            );
        };
        ensure(
            end <= self.now || !matches!(answer, Some(Answer::Final(_))),
            "no final answer comes before the resource is final",
        )?;
        // This holds as long as all polls succeed.
        let polls = &self.scenario.polls;
        let honest = polls.iter().all(|poll| poll.reply == Reply::Truth);
        let interval = polls.iter().map(|poll| poll.interval).max().unwrap_or(0);
        let latency = polls.iter().map(|poll| poll.latency).max().unwrap_or(0);
        // A request after a purge does not accept a poll that was in flight at the purge.
        let unbelieved = if waiter.purged { latency } else { 0 };
        ensure(
            !honest || self.now <= end.max(waiter.at) + unbelieved + interval + latency,
            "a request is answered within an interval and a latency of the final state",
        )
    }

    fn time_passes(&self) -> Check {
        for (resource, own) in self.loops.iter().enumerate() {
            let here = self
                .waiting
                .iter()
                .any(|w| w.here && w.waiter.resource == resource);
            ensure(here || !own.alive, "a loop ends when no request waits")?;
            ensure(!here || own.alive, "while a request waits there is a loop")?;
            let late = own.next.is_some_and(|next| next <= self.now);
            ensure(!(late && own.alive), "a loop polls in time")?;
        }
        for waiting in self.waiting.iter().filter(|waiting| waiting.here) {
            ensure(waiting.due.is_none(), "an answer that is due comes at once")?;
            let until = waiting.waiter.at + waiting.waiter.timeout_ms;
            ensure(
                until > self.now,
                "a request is answered when its time is over",
            )?;
        }
        Ok(())
    }
}
