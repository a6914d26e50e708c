//! The fetches of a schedule, with an upstream that replies as the schedule says.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use stepgate::cache::{Entry, FetchTicket};
use stepgate::coalesce::{Admission, Completion, Fetch, FetchOptions, Fetched, Permit, Probe};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::log::{BatchOptions, Content, Event, FetchId, Id, Output, Seq};
use super::schedule::{Kind, Ms, Reply, resource_of};
use super::world::{TERMS, World};

/// A fetch that a request causes.
pub(super) struct SimulatedFetch {
    world: Arc<World>,
    fetch_id: FetchId,
    permit: Option<Permit>,
    probe: Option<ProbeOut>,
}

struct ProbeOut {
    world: Arc<World>,
    fetch_id: FetchId,
    /// Taken when the probe completes.
    probe: Option<Probe<usize, Seq>>,
}

impl ProbeOut {
    fn completed(mut self) {
        if let Some(probe) = self.probe.take() {
            probe.completed();
        }
    }
}

impl Drop for ProbeOut {
    fn drop(&mut self) {
        self.world.note(Event::ProbeEnded(self.fetch_id));
    }
}

impl SimulatedFetch {
    pub(super) fn shared(world: &Arc<World>, request: Id) -> Self {
        world.note(Event::CreatesBatch(request));
        Self::new(
            world,
            FetchId {
                request,
                alone: false,
            },
        )
    }

    pub(super) fn alone(world: &Arc<World>, request: Id) -> Self {
        world.note(Event::FetchesAlone(request));
        Self::new(
            world,
            FetchId {
                request,
                alone: true,
            },
        )
    }

    fn new(world: &Arc<World>, fetch_id: FetchId) -> Self {
        Self {
            world: Arc::clone(world),
            fetch_id,
            permit: None,
            probe: None,
        }
    }

    fn target(&self) -> usize {
        self.world.schedule.requests[self.fetch_id.request].target
    }
}

impl Fetch for SimulatedFetch {
    type Output = Output;
    type Stream = Stream;

    async fn admit(&mut self) -> Result<(), Output> {
        let (world, fetch_id) = (Arc::clone(&self.world), self.fetch_id);
        let not_admitted = |output| {
            world.note(Event::NotAdmitted(fetch_id, output));
            Err(output)
        };
        let partition = resource_of(self.target());
        match world.batch.admit(&partition).await {
            Admission::Allow => {}
            Admission::Probe(probe) => {
                world.note(Event::ProbeStarted(fetch_id));
                self.probe = Some(ProbeOut {
                    world: Arc::clone(&world),
                    fetch_id,
                    probe: Some(probe),
                });
            }
            Admission::Blocked(seq, until) => {
                return not_admitted(Output::RateLimited(seq, world.ms(until)));
            }
        }
        world.note(Event::PassedGate(fetch_id));
        let Ok(permit) = world.limit.acquire().await else {
            return not_admitted(Output::Overloaded);
        };
        self.permit = Some(permit);
        match world.batch.blocked(&partition) {
            Some((seq, until)) => not_admitted(Output::RateLimited(seq, world.ms(until))),
            None => Ok(()),
        }
    }

    fn start(
        mut self,
        options: FetchOptions,
    ) -> impl Future<Output = Fetched<Self>> + Send + 'static {
        let ticket = self.world.cache.begin_fetch();
        let seq = ticket.seq();
        let options = BatchOptions {
            deadline: self.world.ms(options.deadline),
            may_store: options.may_store,
            force_fresh: options.force_fresh,
        };
        let fetch_id = self.fetch_id;
        self.world.note(Event::Started {
            fetch_id,
            seq,
            options,
        });
        let probe = self.probe.take();
        let mut reply = self.world.next_reply();
        let stream = Stream {
            world: Arc::clone(&self.world),
            seq,
            streams: match reply.kind {
                Kind::TooLarge(streams) => streams,
                Kind::Truth | Kind::Failure | Kind::RateLimit(_) => 0,
                Kind::Panic | Kind::PanicAtOnce => 0,
            },
            _permit: self.permit.take(),
        };
        // Alone, the panic would end the task of the request, which no promise covers.
        if fetch_id.alone && matches!(reply.kind, Kind::Panic | Kind::PanicAtOnce) {
            reply.kind = Kind::Failure;
        }
        let fetch_state = RunningFetch {
            fetch: self,
            options,
            ticket,
            stream: Some(stream),
        };
        if reply.kind == Kind::PanicAtOnce {
            fetch_state.panic();
        }
        async move {
            let completed = fetch_state.run(reply).await;
            if let Some(probe) = probe {
                probe.completed();
            }
            (seq, completed)
        }
    }
}

/// A response that one request gets alone. It keeps the permit until it is dropped.
pub(super) struct Stream {
    world: Arc<World>,
    pub(super) seq: Seq,
    pub(super) streams: Ms,
    _permit: Option<Permit>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.world.note(Event::PermitReleased);
    }
}

struct RunningFetch {
    fetch: SimulatedFetch,
    options: BatchOptions,
    ticket: FetchTicket,
    /// Taken when the fetch completes with it.
    stream: Option<Stream>,
}

impl Drop for RunningFetch {
    fn drop(&mut self) {
        // Noted after a completion, too: the oracle tells the difference.
        self.fetch.world.note(Event::Dropped(self.ticket.seq()));
    }
}

impl RunningFetch {
    /// Panics without the panic hook, which would print ten thousand messages.
    fn panic(&self) -> ! {
        let seq = self.ticket.seq();
        self.fetch.world.note(Event::Panicked(seq));
        resume_unwind(Box::new("a fetch_state panics"));
    }

    async fn run(mut self, reply: Reply) -> Completion<Output, Stream> {
        let pause = |ms: Ms| async move {
            if ms > 0 {
                sleep(Duration::from_millis(ms)).await;
            }
        };
        pause(reply.observed_after).await;
        let observed_at = self.fetch.world.ms(Instant::now());
        match reply.latency {
            Some(latency) => pause(latency).await,
            None => std::future::pending().await,
        }
        for _ in 0..reply.turn {
            yield_now().await;
        }
        self.complete(observed_at, reply.kind)
    }

    /// Does what the gateway does: check, store, invalidate, block.
    fn complete(&mut self, observed_at: Ms, kind: Kind) -> Completion<Output, Stream> {
        let world = &*self.fetch.world;
        let seq = self.ticket.seq();
        let is_final = world.schedule.is_final(self.fetch.target(), observed_at);
        let content = match kind {
            Kind::Truth if is_final => Content::Final,
            Kind::Truth => Content::Live,
            Kind::Failure => Content::Failed,
            Kind::RateLimit(_) => Content::RateLimited,
            Kind::TooLarge(_) => Content::TooLarge,
            Kind::Panic | Kind::PanicAtOnce => self.panic(),
        };
        world.note(Event::Completed {
            seq,
            observed_at,
            content,
        });
        let key = &world.keys[self.fetch.target()];
        if content == Content::Final && self.options.may_store {
            let body = seq.to_string();
            let entry = Entry::new(body.as_bytes(), None);
            let stored = world
                .cache
                .store(&self.ticket, key, entry, &TERMS, Instant::now());
            let stored = stored.is_ok();
            world.note(Event::Stored { seq, stored });
        }
        if content == Content::Live && self.options.force_fresh {
            world.cache.invalidate_older(&self.ticket, key);
            world.note(Event::Invalidated(seq));
        }
        if let Kind::RateLimit(wait) = kind {
            let partition = resource_of(self.fetch.target());
            let until = world.ms(Instant::now()) + wait;
            world.batch.block(partition, seq, world.instant(until));
            world.note(Event::Blocked {
                partition,
                seq,
                until,
            });
        }
        let output = Output::Fetched(seq, content);
        match (content, self.stream.take()) {
            (Content::TooLarge, Some(stream)) => Completion::Unshareable(stream),
            (Content::Final, _) => Completion::Final(output),
            (Content::Live | Content::Failed | Content::RateLimited | Content::TooLarge, _) => {
                Completion::Live(output)
            }
        }
    }
}
