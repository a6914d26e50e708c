//! What happened in a run, in order: what the oracle checks.

use super::schedule::{Ms, Scope};

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) at: Ms,
    pub(super) event: Event,
}

/// The sequence number of a fetch.
pub(super) type Seq = u64;

/// The index of a request in its schedule.
pub(super) type Id = usize;

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A request has come, and looks into the cache.
    Arrived(Id),
    /// It found nothing, and joins the coalescer.
    Joins(Id),
    /// No batch was pending: it creates one.
    CreatesBatch(Id),
    FetchesAlone(Id),
    Answered(Id, Answer),
    Disconnected(Id),
    /// A fetch has passed the Retry-After gate, and needs a permit.
    PassedGate(FetchId),
    /// A fetch may not start, for this reason.
    NotAdmitted(FetchId, Output),
    Started {
        fetch_id: FetchId,
        seq: Seq,
        options: BatchOptions,
    },
    /// A fetch has completed, with the state of the resource at `observed_at`.
    Completed {
        seq: Seq,
        observed_at: Ms,
        content: Content,
    },
    Panicked(Seq),
    /// The future of a fetch was dropped.
    Dropped(Seq),
    PermitReleased,
    Stored {
        seq: Seq,
        stored: bool,
    },
    Invalidated(Seq),
    Purged(Scope),
    Blocked {
        partition: usize,
        seq: Seq,
        until: Ms,
    },
    ProbeStarted(FetchId),
    ProbeEnded(FetchId),
}

/// A fetch before it has a sequence number: the request that causes it, and whether it is for that request
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FetchId {
    pub(super) request: Id,
    pub(super) alone: bool,
}

/// The merged options of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchOptions {
    pub(super) deadline: Ms,
    pub(super) may_store: bool,
    pub(super) force_fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Live,
    Final,
    Failed,
    RateLimited,
    TooLarge,
}

/// A result that many requests can share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Fetched(Seq, Content),
    /// The 429 of that fetch blocks all fetches until then.
    RateLimited(Seq, Ms),
    Overloaded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The body that this fetch stored.
    Hit(Seq),
    /// The result of the fetch that the request started.
    Led(Output),
    /// The result of a fetch that another request started.
    Joined(Output),
    /// The request did not join, because its partition is blocked.
    Blocked(Seq, Ms),
    /// A response that cannot be shared.
    Unshareable(Seq),
    /// The deadline passed first.
    TimedOut,
    /// The fetch panicked.
    Abandoned,
}
