//! What gathers at a place, and what keeps it there.

use super::{Cause, Due, Id, Ms, Number, Oracle, Standing, UNSHAREABLE_TTL, Verdict, must};
use crate::simulation::log::News;

#[derive(Default)]
pub(super) struct Gate {
    pub(super) cause: Option<Cause>,
    /// In the order of their coming, the hung up too, but for those who were told already.
    pub(super) seats: Vec<Id>,
    /// Since when it waits for a berth only.
    pub(super) cleared: Option<Ms>,
    pub(super) last_departure: Option<Ms>,
    /// When a body last could not be shared.
    pub(super) unshared: Option<Ms>,
}

impl Gate {
    /// Hands over who sits there. What comes next gathers anew.
    pub(super) fn close(&mut self) -> Vec<Id> {
        (self.cause, self.cleared) = (None, None);
        std::mem::take(&mut self.seats)
    }
}

/// What is held, and the probe that goes first when a hold ends.
#[derive(Default)]
pub(super) struct Hold {
    /// Whose refusal, and until when.
    last: Option<(Number, Ms)>,
    probe: Option<Cause>,
}

impl Hold {
    /// The longest holds. A probe after an earlier hold is none after this one.
    pub(super) fn hold(&mut self, number: Number, until: Ms) {
        if self.last.is_none_or(|(_, last)| last < until) {
            self.last = Some((number, until));
            self.probe = None;
        }
    }

    pub(super) fn held(&self, now: Ms) -> Option<(Number, Ms)> {
        self.last.filter(|(_, until)| now < *until)
    }

    pub(super) fn probed(&self) -> bool {
        self.probe.is_some()
    }

    pub(super) fn probe_out(&mut self, cause: Cause) -> Verdict {
        must(self.probe.is_none(), "one goes first after a hold")?;
        self.probe = Some(cause);
        Ok(())
    }

    pub(super) fn probe_back(&mut self, cause: Cause) {
        if self.probe == Some(cause) {
            self.probe = None;
        }
    }

    pub(super) fn clear(&self, cause: Cause, now: Ms) -> Verdict {
        must(self.held(now).is_none(), "nothing goes while it is held")?;
        must(
            self.probe.is_none_or(|probe| probe == cause),
            "nothing goes beside the probe",
        )
    }
}

impl Oracle<'_> {
    pub(super) fn boards(&mut self, id: Id) -> Verdict {
        let asker = &mut self.askers[id];
        let place = asker.request.place;
        let fresh = asker.request.fresh;
        must(
            fresh || self.shelf.on(place).is_none(),
            "what is stored is served",
        )?;
        asker.standing = Standing::Waiting;
        let gate = &mut self.gates[place];
        let alone = gate
            .unshared
            .is_some_and(|at| self.now < at + UNSHAREABLE_TTL);
        if alone || self.schedule.window == 0 {
            asker.due = Some(Due::Away);
        } else {
            gate.seats.push(id);
        }
        Ok(())
    }

    pub(super) fn opens(&mut self, id: Id) -> Verdict {
        let place = self.askers[id].request.place;
        let gathered = self.gathered(place);
        must(gathered == [id], "newcomers board what gathers")?;
        let gate = &mut self.gates[place];
        gate.close();
        gate.seats.push(id);
        gate.cause = Some(Cause {
            by: id,
            alone: false,
        });
        Ok(())
    }

    pub(super) fn goes_alone(&mut self, id: Id) -> Verdict {
        let asker = &mut self.askers[id];
        must(
            asker.due.take() == Some(Due::Away),
            "alone goes who could not share",
        )?;
        asker.standing = Standing::Alone(None);
        Ok(())
    }

    pub(super) fn cleared(&mut self, cause: Cause) -> Verdict {
        let now = self.now;
        self.hold_of(cause).clear(cause, now)?;
        if cause.alone {
            self.askers[cause.by].cleared = Some(now);
        } else {
            let place = self.place_of(cause);
            if self.gates[place].cause == Some(cause) {
                self.gates[place].cleared = Some(now);
            }
        }
        Ok(())
    }

    /// Those who gather hear why they cannot go; nobody else does.
    pub(super) fn denied(&mut self, cause: Cause, news: News) -> Verdict {
        let place = self.place_of(cause);
        let (opener, cleared, seats) = if cause.alone {
            let cleared = self.askers[cause.by].cleared;
            (Some(cause.by), cleared, vec![cause.by])
        } else if self.gates[place].cause == Some(cause) {
            let opener = self.gates[place].seats.first().copied();
            let cleared = self.gates[place].cleared;
            let gathered = self.gathered(place);
            self.gates[place].close();
            (opener, cleared, gathered)
        } else {
            // Everybody had left it, and somebody opened another.
            return Ok(());
        };
        match news {
            News::Held(number, until) => {
                let now = self.now;
                let held = self.hold_of(cause).held(now);
                must(held == Some((number, until)), "a hold is as it was said")?;
            }
            News::NoBerth => {
                let patience = self.schedule.patience;
                let waited = cleared.is_some_and(|at| at + patience == self.now);
                must(waited, "a fetch waits for a berth as long as its patience")?;
                let full = self.full_since.is_some_and(|at| Some(at) <= cleared);
                let full_now = patience == 0 && self.berths_taken == self.schedule.berths;
                must(full || full_now, "a free berth is taken")?;
            }
            News::Completion(..) => return Err("denied is not landed"),
        }
        for id in seats {
            self.askers[id].due = Some(Due::News(news, opener == Some(id)));
        }
        Ok(())
    }
}
