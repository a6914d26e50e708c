//! The oracle: goes through what happened and says what of it may not have. It knows the true state
//! of every step at every moment, and what each asker is due at each: an answer that is due must
//! come at once, and no other may.

mod asker;
mod fetches;
mod gate;
mod shelf;

use std::collections::BTreeMap;

use super::log::{Cause, Entry, Event, Id, Number, WaitOptions};
use super::schedule::{Ms, PLACES, Schedule, step_of};
use asker::{Asker, Due, Standing};
use fetches::Flight;
use gate::{Gate, Hold};
use shelf::Shelf;

/// The same as the product's: they are promises.
const MAX_IN_FLIGHT_PER_KEY: usize = 4;
const UNSHAREABLE_TTL: Ms = 60_000;

/// A rule that does not hold, after so many entries of the log.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) rule: &'static str,
    pub(super) entries: usize,
}

type Verdict = Result<(), &'static str>;

fn must(holds: bool, rule: &'static str) -> Verdict {
    if holds { Ok(()) } else { Err(rule) }
}

struct Oracle<'s> {
    schedule: &'s Schedule,
    now: Ms,
    /// Position in the log: what is before and after, also within a moment.
    position: usize,
    askers: Vec<Asker>,
    flights: BTreeMap<Number, Flight>,
    gates: [Gate; PLACES],
    shelf: Shelf,
    holds: [Hold; 2],
    berths_taken: usize,
    /// Since when every berth was taken whenever time passed.
    full_since: Option<Ms>,
}

pub(super) fn check(schedule: &Schedule, log: &[Entry]) -> Result<(), Broken> {
    let mut oracle = Oracle::new(schedule);
    for (index, entry) in log.iter().enumerate() {
        let broken = |rule| Broken {
            rule,
            entries: index + 1,
        };
        (oracle.now, oracle.position) = (entry.at, index);
        oracle.hear(entry.event).map_err(broken)?;
        let next = log.get(index + 1).map(|next| next.at);
        if next != Some(entry.at) {
            oracle.time_passes(next).map_err(broken)?;
        }
    }
    let gone = oracle.askers.iter().all(|a| a.standing == Standing::Gone);
    let down = oracle.flights.values().all(|flight| flight.over);
    let entries = log.len();
    let end = |rule| Broken { rule, entries };
    must(gone, "every request ends").map_err(end)?;
    must(down, "every flight ends").map_err(end)
}

impl<'s> Oracle<'s> {
    fn new(schedule: &'s Schedule) -> Self {
        Self {
            schedule,
            now: 0,
            position: 0,
            askers: schedule.requests.iter().map(Asker::of).collect(),
            flights: BTreeMap::new(),
            gates: Default::default(),
            shelf: Shelf::default(),
            holds: Default::default(),
            berths_taken: 0,
            full_since: None,
        }
    }

    fn hear(&mut self, event: Event) -> Verdict {
        match event {
            Event::Asked(id) => self.asked(id),
            Event::Boards(id) => self.boards(id),
            Event::Opens(id) => self.opens(id),
            Event::Alone(id) => self.goes_alone(id),
            Event::Answered(id, answer) => self.answered(id, answer),
            Event::HungUp(id) => self.leaves(id),
            Event::Cleared(cause) => self.cleared(cause),
            Event::Denied(cause, news) => self.denied(cause, news),
            Event::Departed {
                cause,
                number,
                terms,
            } => self.departed(cause, number, terms),
            Event::Completion {
                number,
                looked,
                what,
            } => self.landed(number, looked, what),
            Event::Panicked(number) => self.panicked(number),
            Event::Dropped(number) => self.dropped(number),
            Event::Freed => {
                self.berths_taken -= 1;
                Ok(())
            }
            Event::Stored { number, stored } => {
                let flight = &self.flights[&number];
                let may = self.shelf.store(flight.place, number, flight.departed);
                must(
                    stored == may,
                    "stored is what no purge and no newer departure has overtaken",
                )
            }
            Event::Withdrew(number) => {
                self.shelf.withdraw(self.flights[&number].place, number);
                Ok(())
            }
            Event::Purged(reach) => {
                self.shelf.purge(reach, self.position);
                Ok(())
            }
            Event::Held {
                partition,
                number,
                until,
            } => {
                self.holds[partition].hold(number, until);
                Ok(())
            }
            Event::ProbeOut(cause) => self.hold_of(cause).probe_out(cause),
            Event::ProbeBack(cause) => {
                self.hold_of(cause).probe_back(cause);
                Ok(())
            }
        }
    }

    fn place_of(&self, cause: Cause) -> usize {
        self.askers[cause.by].request.place
    }

    fn hold_of(&mut self, cause: Cause) -> &mut Hold {
        &mut self.holds[step_of(self.place_of(cause))]
    }

    fn terms_of(&self, ids: &[Id]) -> WaitOptions {
        let wanted = || ids.iter().map(|id| &self.askers[*id].request);
        WaitOptions {
            deadline: wanted().map(|r| r.deadline()).max().unwrap_or(0),
            store: wanted().any(|r| r.store),
            fresh: wanted().any(|r| r.fresh),
        }
    }

    /// Those who still wait for what gathers at a place, in the order of their coming.
    fn gathered(&self, place: usize) -> Vec<Id> {
        let waits = |id: &Id| {
            let asker = &self.askers[*id];
            asker.standing == Standing::Waiting && asker.due.is_none()
        };
        let seats = &self.gates[place].seats;
        seats.iter().copied().filter(waits).collect()
    }

    /// The flights of a place in the air, but for those that somebody makes alone.
    fn in_the_air(&self, place: usize) -> usize {
        let flights = self.flights.values();
        let counts = |f: &&Flight| f.place == place && !f.over && !f.cause.alone;
        flights.filter(counts).count()
    }

    /// What must be so whenever time passes, until `next`.
    fn time_passes(&mut self, next: Option<Ms>) -> Verdict {
        let full = self.berths_taken == self.schedule.berths;
        self.full_since = full.then(|| self.full_since.unwrap_or(self.now));
        self.all_is_answered()?;
        self.nothing_flies_for_nobody()?;
        self.nothing_waits_in_vain(full, next)
    }

    fn all_is_answered(&self) -> Verdict {
        for asker in &self.askers {
            must(asker.due.is_none(), "whoever has an answer gets it at once")?;
            let here = !matches!(asker.standing, Standing::Coming | Standing::Gone);
            let late = here && asker.request.deadline() <= self.now;
            must(!late, "every request ends by its deadline")?;
            let landed = asker.rides().is_some_and(|n| self.flights[&n].over);
            must(!landed, "whoever rides hears when it ends")?;
        }
        Ok(())
    }

    fn nothing_flies_for_nobody(&self) -> Verdict {
        self.flights.iter().try_for_each(|(number, flight)| {
            let rides = |asker: &Asker| asker.rides() == Some(*number);
            let left = !self.askers.iter().any(rides);
            must(
                flight.over || !left,
                "a flight dies with its last passenger",
            )
        })
    }

    fn nothing_waits_in_vain(&self, full: bool, next: Option<Ms>) -> Verdict {
        for asker in &self.askers {
            let place = asker.request.place;
            let (cleared, from) = match asker.standing {
                Standing::Waiting => self.may_depart(place),
                Standing::Alone(None) => (asker.cleared.is_some(), Some(self.now)),
                Standing::Coming | Standing::Asking | Standing::Gone => continue,
                Standing::Aboard(_) | Standing::Alone(Some(_)) => continue,
            };
            let hold = &self.holds[step_of(place)];
            let goes = if cleared {
                !full
            } else {
                hold.held(self.now).is_some() || !(full || hold.probed())
            };
            let Some(from) = from.filter(|_| goes) else {
                continue;
            };
            let waits = from > self.now && next.is_some_and(|next| next <= from);
            must(waits, "where nothing forbids it, a fetch departs at once")?;
        }
        Ok(())
    }

    /// Whether what gathers was cleared, and the moment from which window and flights allow it to
    /// go, as far as one can see now.
    fn may_depart(&self, place: usize) -> (bool, Option<Ms>) {
        let gate = &self.gates[place];
        let next = gate
            .last_departure
            .map_or(0, |at| at + self.schedule.window);
        let allowed = self.in_the_air(place) < MAX_IN_FLIGHT_PER_KEY;
        let from = allowed.then(|| next.max(self.now));
        (gate.cleared.is_some(), from)
    }
}
