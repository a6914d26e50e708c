//! Those who ask: where each of them stands, and what it is due.

use super::shelf::Floor;
use super::{Flight, Id, Ms, Number, Oracle, Verdict, must};
use crate::simulation::log::{Answer, News, What};
use crate::simulation::schedule::{Request, step_of};

pub(super) struct Asker {
    pub(super) request: Request,
    /// Position in the log.
    asked: usize,
    floor: Floor,
    pub(super) standing: Standing,
    pub(super) due: Option<Due>,
    /// Since when its own fetch waits for a berth only.
    pub(super) cleared: Option<Ms>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Coming,
    Asking,
    /// For a departure that it shares.
    Waiting,
    Aboard(Number),
    /// In a flight of its own, or waiting for one.
    Alone(Option<Number>),
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// As the one who opened the departure, or not.
    News(News, bool),
    Own(Number),
    /// To fetch alone.
    Away,
    Lost,
}

impl Asker {
    pub(super) fn of(request: &Request) -> Self {
        Self {
            request: *request,
            asked: 0,
            floor: Floor::default(),
            standing: Standing::Coming,
            due: None,
            cleared: None,
        }
    }

    pub(super) fn rides(&self) -> Option<Number> {
        match self.standing {
            Standing::Aboard(number) => Some(number),
            Standing::Alone(number) => number,
            Standing::Coming | Standing::Asking | Standing::Waiting | Standing::Gone => None,
        }
    }

    /// Whether it takes final news of that flight.
    pub(super) fn takes(&self, number: Number, flight: &Flight) -> bool {
        if self.request.fresh {
            self.asked < flight.departed
        } else {
            self.floor.admits(number, flight.departed)
        }
    }
}

impl Oracle<'_> {
    pub(super) fn asked(&mut self, id: Id) -> Verdict {
        let asker = &mut self.askers[id];
        asker.asked = self.position;
        asker.floor = self.shelf.floor(asker.request.place);
        asker.standing = Standing::Asking;
        Ok(())
    }

    pub(super) fn leaves(&mut self, id: Id) -> Verdict {
        self.askers[id].standing = Standing::Gone;
        self.askers[id].due = None;
        Ok(())
    }

    pub(super) fn answered(&mut self, id: Id, answer: Answer) -> Verdict {
        let Asker {
            request,
            standing,
            due,
            ..
        } = self.askers[id];
        must(self.now <= request.deadline(), "an answer is not too late")?;
        match answer {
            Answer::Hit(number) => {
                let stored = self.shelf.on(request.place);
                must(stored == Some(number), "a hit is what is stored")?;
                must(!request.fresh, "who wants it fresh gets no hit")?;
                self.is_true(id, number)?;
            }
            Answer::AtTheDoor(number, until) => {
                let hold = &self.holds[step_of(request.place)];
                let held = hold.held(self.now) == Some((number, until));
                must(
                    held && standing == Standing::Asking,
                    "held is who asks while it is held",
                )?;
            }
            Answer::Opened(news) => {
                self.is_news(id, news)?;
                must(due == Some(Due::News(news, true)), "an answer is due")?;
            }
            Answer::Joined(news) => {
                self.is_news(id, news)?;
                must(due == Some(Due::News(news, false)), "an answer is due")?;
            }
            Answer::Own(number) => {
                self.is_true(id, number)?;
                must(
                    due == Some(Due::Own(number)),
                    "the earliest passenger gets what cannot be shared",
                )?;
            }
            Answer::Late => {
                let late = due.is_none() && self.now == request.deadline();
                must(late, "late is who has no answer at its deadline")?;
            }
            Answer::Lost => must(due == Some(Due::Lost), "lost is whose flight panicked")?,
        }
        self.leaves(id)
    }

    fn is_news(&self, id: Id, news: News) -> Verdict {
        match news {
            News::Completion(number, _) => self.is_true(id, number),
            News::Held(..) | News::NoBerth => Ok(()),
        }
    }

    /// The heart of it, in terms of nothing but moments and the step's true state.
    fn is_true(&self, id: Id, number: Number) -> Verdict {
        let asker = &self.askers[id];
        let flight = &self.flights[&number];
        let Some((looked, what)) = flight.brought else {
            return Err("an answer is what has landed");
        };
        must(looked <= self.now, "nobody looks ahead")?;
        let is_final = self.schedule.is_final(flight.place, looked);
        let same = step_of(flight.place) == step_of(asker.request.place);
        must(same, "an answer is about its step")?;
        let departed_after = asker.asked < flight.departed && asker.request.at <= looked;
        match what {
            What::Live | What::Failed | What::Refused | What::TooLarge => {
                must(departed_after, "no live answer is older than its question")
            }
            What::Final => {
                must(is_final, "final is what was true")?;
                must(
                    departed_after || !asker.request.fresh,
                    "a fresh answer is not older than its question",
                )?;
                must(
                    asker.floor.admits(number, flight.departed),
                    "nothing from before a purge is told to who came after it",
                )
            }
        }
    }
}
