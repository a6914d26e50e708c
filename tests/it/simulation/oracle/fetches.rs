//! Fetches: when they may depart, and who must hear what when they land.

use super::{
    Cause, Due, Id, MAX_IN_FLIGHT_PER_KEY, Ms, Number, Oracle, Standing, Verdict, WaitOptions, must,
};
use crate::simulation::log::{News, What};

pub(super) struct Flight {
    pub(super) place: usize,
    pub(super) cause: Cause,
    /// Position in the log.
    pub(super) departed: usize,
    /// In the order of their coming, the hung up too, but for those who were told already.
    seats: Vec<Id>,
    /// The moment whose truth it tells.
    pub(super) brought: Option<(Ms, What)>,
    pub(super) over: bool,
}

impl Oracle<'_> {
    pub(super) fn departed(&mut self, cause: Cause, number: Number, terms: WaitOptions) -> Verdict {
        let newest = self.flights.keys().next_back();
        must(
            newest.is_none_or(|newest| *newest < number),
            "departures are numbered in their order",
        )?;
        must(
            self.berths_taken < self.schedule.berths,
            "a fetch departs from a free berth",
        )?;
        self.berths_taken += 1;
        let now = self.now;
        must(
            self.hold_of(cause).held(now).is_none(),
            "nothing departs while it is held",
        )?;
        let place = self.place_of(cause);
        let seats = if cause.alone {
            self.askers[cause.by].standing = Standing::Alone(Some(number));
            must(terms == self.terms_of(&[cause.by]), "alone, for oneself")?;
            vec![cause.by]
        } else {
            self.departs_shared(cause, place, number, terms)?
        };
        self.flights.insert(
            number,
            Flight {
                place,
                cause,
                departed: self.position,
                seats,
                brought: None,
                over: false,
            },
        );
        Ok(())
    }

    fn departs_shared(
        &mut self,
        cause: Cause,
        place: usize,
        number: Number,
        terms: WaitOptions,
    ) -> Result<Vec<Id>, &'static str> {
        let gathered = self.gathered(place);
        let in_the_air = self.in_the_air(place);
        let gate = &self.gates[place];
        must(gate.cause == Some(cause), "what gathers departs")?;
        let since = gate.last_departure.map(|at| self.now - at);
        must(
            since.is_none_or(|since| since >= self.schedule.window),
            "a step departs at most once a window",
        )?;
        must(
            in_the_air < MAX_IN_FLIGHT_PER_KEY,
            "at most four of a step are in the air",
        )?;
        must(!gathered.is_empty(), "nothing departs for nobody")?;
        must(
            terms == self.terms_of(&gathered),
            "a fetch wants what its passengers want",
        )?;
        for id in gathered {
            self.askers[id].standing = Standing::Aboard(number);
        }
        self.gates[place].last_departure = Some(self.now);
        Ok(self.gates[place].close())
    }

    pub(super) fn landed(&mut self, number: Number, looked: Ms, what: What) -> Verdict {
        let Some(flight) = self.flights.get_mut(&number) else {
            return Err("what lands has departed");
        };
        must(!flight.over, "a flight ends once")?;
        (flight.over, flight.brought) = (true, Some((looked, what)));
        let (place, alone) = (flight.place, flight.cause.alone);
        let seats = flight.seats.clone();
        let news = News::Completion(number, what);
        match what {
            What::Live | What::Failed | What::Refused => self.owe_news(&seats, news, true),
            What::Final => {
                self.owe_news(&seats, news, true);
                if !alone {
                    self.tell_all(place, number, news);
                }
            }
            What::TooLarge => {
                let mut own = Some(Due::Own(number));
                for id in seats {
                    self.owe(id, |_| own.take().unwrap_or(Due::Away));
                }
                if !alone {
                    let gate = &mut self.gates[place];
                    gate.unshared = Some(self.now);
                    for id in std::mem::take(&mut gate.seats) {
                        self.owe(id, |_| Due::Away);
                    }
                }
            }
        }
        Ok(())
    }

    /// Final is final: everybody who takes news of that flight hears it.
    fn tell_all(&mut self, place: usize, number: Number, news: News) {
        let (askers, landed) = (&self.askers, &self.flights[&number]);
        let mut told = Vec::new();
        let mut tell = |seats: &[Id]| -> Vec<Id> {
            let takes = |id: &Id| askers[*id].takes(number, landed);
            let (take, keep): (Vec<Id>, _) = seats.iter().partition(|id| takes(id));
            told.extend(take);
            keep
        };
        let gate = tell(&self.gates[place].seats);
        let others = self.flights.iter();
        let others = others.filter(|(_, f)| f.place == place && !f.over && !f.cause.alone);
        let others: Vec<_> = others.map(|(n, f)| (*n, tell(&f.seats))).collect();
        self.gates[place].seats = gate;
        for (number, seats) in others {
            if let Some(flight) = self.flights.get_mut(&number) {
                flight.seats = seats;
            }
        }
        self.owe_news(&told, news, false);
    }

    /// To the first as the one who opened it, if it is their `own`.
    fn owe_news(&mut self, seats: &[Id], news: News, own: bool) {
        for (place, id) in seats.iter().enumerate() {
            self.owe(*id, |_| Due::News(news, own && place == 0));
        }
    }

    /// To who is still there, and has not been told already.
    fn owe(&mut self, id: Id, due: impl FnOnce(Id) -> Due) {
        let asker = &mut self.askers[id];
        if asker.standing != Standing::Gone && asker.due.is_none() {
            asker.due = Some(due(id));
        }
    }

    pub(super) fn panicked(&mut self, number: Number) -> Verdict {
        let Some(flight) = self.flights.get_mut(&number) else {
            return Err("what panics has departed");
        };
        flight.over = true;
        for id in std::mem::take(&mut flight.seats) {
            self.owe(id, |_| Due::Lost);
        }
        Ok(())
    }

    /// Also heard of flights that have landed or panicked.
    pub(super) fn dropped(&mut self, number: Number) -> Verdict {
        let Some(flight) = self.flights.get_mut(&number) else {
            return Err("what is dropped has departed");
        };
        let early = !std::mem::replace(&mut flight.over, true);
        let waits = |id: &Id| {
            let asker = &self.askers[*id];
            // At its deadline whoever flies it lets go of it, and then says that it is late.
            let in_time = self.now < asker.request.deadline();
            asker.standing == Standing::Aboard(number) && asker.due.is_none() && in_time
        };
        let left = flight.seats.iter().any(waits);
        must(
            !(early && left),
            "a flight goes on while anybody waits for it",
        )
    }
}
