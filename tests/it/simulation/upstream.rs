//! The flights of a schedule, to an upstream that replies as the schedule says.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use stepgate::cache::{Entry, FetchTicket};
use stepgate::coalesce::{Admission, Completion, Fetch, FetchOptions, Fetched, Permit, Probe};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::log::{Cause, Event, Id, News, Number, WaitOptions, What};
use super::schedule::{Kind, Ms, Reply, step_of};
use super::world::{TERMS, World};

/// A fetch that request `by` causes.
pub(super) struct Trip {
    world: Arc<World>,
    cause: Cause,
    permit: Option<Permit>,
    probe: Option<ProbeOut>,
}

struct ProbeOut {
    world: Arc<World>,
    cause: Cause,
    /// Taken where it comes back with an answer.
    probe: Option<Probe<usize, Number>>,
}

impl ProbeOut {
    fn landed(mut self) {
        if let Some(probe) = self.probe.take() {
            probe.completed();
        }
    }
}

impl Drop for ProbeOut {
    fn drop(&mut self) {
        self.world.note(Event::ProbeBack(self.cause));
    }
}

impl Trip {
    pub(super) fn shared(world: &Arc<World>, by: Id) -> Self {
        world.note(Event::Opens(by));
        Self::new(world, Cause { by, alone: false })
    }

    pub(super) fn alone(world: &Arc<World>, by: Id) -> Self {
        world.note(Event::Alone(by));
        Self::new(world, Cause { by, alone: true })
    }

    fn new(world: &Arc<World>, cause: Cause) -> Self {
        Self {
            world: Arc::clone(world),
            cause,
            permit: None,
            probe: None,
        }
    }

    fn place(&self) -> usize {
        self.world.schedule.requests[self.cause.by].place
    }
}

impl Fetch for Trip {
    type Output = News;
    type Stream = Larger;

    async fn admit(&mut self) -> Result<(), News> {
        let (world, cause) = (Arc::clone(&self.world), self.cause);
        let denied = |news| {
            world.note(Event::Denied(cause, news));
            Err(news)
        };
        let partition = step_of(self.place());
        match world.gate.admit(&partition).await {
            Admission::Allow => {}
            Admission::Probe(probe) => {
                world.note(Event::ProbeOut(cause));
                self.probe = Some(ProbeOut {
                    world: Arc::clone(&world),
                    cause,
                    probe: Some(probe),
                });
            }
            Admission::Blocked(number, until) => {
                return denied(News::Held(number, world.ms(until)));
            }
        }
        world.note(Event::Cleared(cause));
        let Ok(permit) = world.limit.acquire().await else {
            return denied(News::NoBerth);
        };
        self.permit = Some(permit);
        match world.gate.blocked(&partition) {
            Some((number, until)) => denied(News::Held(number, world.ms(until))),
            None => Ok(()),
        }
    }

    fn start(
        mut self,
        options: FetchOptions,
    ) -> impl Future<Output = Fetched<Self>> + Send + 'static {
        let departure = self.world.cache.begin_fetch();
        let number = departure.seq();
        let terms = WaitOptions {
            deadline: self.world.ms(options.deadline),
            store: options.may_store,
            fresh: options.force_fresh,
        };
        let cause = self.cause;
        self.world.note(Event::Departed {
            cause,
            number,
            terms,
        });
        let probe = self.probe.take();
        let mut reply = self.world.next_reply();
        let larger = Larger {
            world: Arc::clone(&self.world),
            number,
            streams: match reply.kind {
                Kind::TooLarge(streams) => streams,
                Kind::Truth | Kind::Failure | Kind::Refusal(_) => 0,
                Kind::Panic | Kind::PanicAtOnce => 0,
            },
            _permit: self.permit.take(),
        };
        // Alone it would take its caller's task down, which is nobody's promise.
        if cause.alone && matches!(reply.kind, Kind::Panic | Kind::PanicAtOnce) {
            reply.kind = Kind::Failure;
        }
        let flight = Flight {
            trip: self,
            terms,
            departure,
            larger: Some(larger),
        };
        if reply.kind == Kind::PanicAtOnce {
            flight.panic();
        }
        async move {
            let landed = flight.fly(reply).await;
            if let Some(probe) = probe {
                probe.landed();
            }
            (number, landed)
        }
    }
}

/// What only one can have: it keeps its berth until it is dropped.
pub(super) struct Larger {
    world: Arc<World>,
    pub(super) number: Number,
    pub(super) streams: Ms,
    _permit: Option<Permit>,
}

impl Drop for Larger {
    fn drop(&mut self) {
        self.world.note(Event::Freed);
    }
}

struct Flight {
    trip: Trip,
    terms: WaitOptions,
    departure: FetchTicket,
    /// Taken where it lands with it.
    larger: Option<Larger>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Noted for what landed, too: the oracle knows the difference.
        self.trip.world.note(Event::Dropped(self.departure.seq()));
    }
}

impl Flight {
    /// Without the hook, which would print ten thousand of them.
    fn panic(&self) -> ! {
        let number = self.departure.seq();
        self.trip.world.note(Event::Panicked(number));
        resume_unwind(Box::new("a flight panics"));
    }

    async fn fly(mut self, reply: Reply) -> Completion<News, Larger> {
        let pause = |ms: Ms| async move {
            if ms > 0 {
                sleep(Duration::from_millis(ms)).await;
            }
        };
        pause(reply.looks).await;
        let looked = self.trip.world.ms(Instant::now());
        match reply.takes {
            Some(takes) => pause(takes).await,
            None => std::future::pending().await,
        }
        for _ in 0..reply.turn {
            yield_now().await;
        }
        self.land(looked, reply.kind)
    }

    /// As the gateway does it: check, store, withdraw, hold.
    fn land(&mut self, looked: Ms, kind: Kind) -> Completion<News, Larger> {
        let world = &*self.trip.world;
        let number = self.departure.seq();
        let is_final = world.schedule.is_final(self.trip.place(), looked);
        let what = match kind {
            Kind::Truth if is_final => What::Final,
            Kind::Truth => What::Live,
            Kind::Failure => What::Failed,
            Kind::Refusal(_) => What::Refused,
            Kind::TooLarge(_) => What::TooLarge,
            Kind::Panic | Kind::PanicAtOnce => self.panic(),
        };
        world.note(Event::Completion {
            number,
            looked,
            what,
        });
        let key = &world.keys[self.trip.place()];
        if what == What::Final && self.terms.store {
            let body = number.to_string();
            let entry = Entry::new(body.as_bytes(), None);
            let stored = world
                .cache
                .store(&self.departure, key, entry, &TERMS, Instant::now());
            let stored = stored.is_ok();
            world.note(Event::Stored { number, stored });
        }
        if what == What::Live && self.terms.fresh {
            world.cache.invalidate_older(&self.departure, key);
            world.note(Event::Withdrew(number));
        }
        if let Kind::Refusal(wait) = kind {
            let partition = step_of(self.trip.place());
            let until = world.ms(Instant::now()) + wait;
            world.gate.block(partition, number, world.instant(until));
            world.note(Event::Held {
                partition,
                number,
                until,
            });
        }
        let news = News::Completion(number, what);
        match (what, self.larger.take()) {
            (What::TooLarge, Some(larger)) => Completion::Unshareable(larger),
            (What::Final, _) => Completion::Final(news),
            (What::Live | What::Failed | What::Refused | What::TooLarge, _) => {
                Completion::Live(news)
            }
        }
    }
}
