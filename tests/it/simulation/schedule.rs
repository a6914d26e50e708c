//! A schedule: when requests come, how the upstream replies, when resources change, and what is purged. A
//! failing schedule is made smaller. Times are milliseconds from its start.

use std::fmt;

/// Milliseconds from the start of a schedule.
pub(super) type Ms = u64;

/// How many targets there are: two variants of one resource, and a resource of another partition.
pub(super) const TARGETS: usize = 3;

#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) window: Ms,
    pub(super) permits: usize,
    /// How long a fetch waits for a permit.
    pub(super) queue_timeout: Ms,
    /// When each of the two resources changes: first to final, then back to live, and so on.
    pub(super) turns: [Vec<Ms>; 2],
    pub(super) requests: Vec<Request>,
    pub(super) purges: Vec<Purge>,
    /// The replies of the upstream to the fetches, in order, over and over.
    pub(super) replies: Vec<Reply>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) at: Ms,
    /// How many times it yields when its time has come.
    pub(super) turn: usize,
    pub(super) target: usize,
    pub(super) force_fresh: bool,
    pub(super) may_store: bool,
    /// From its arrival to its deadline.
    pub(super) patience: Ms,
    /// When it disconnects, from its arrival. `None` if it stays.
    pub(super) disconnects_after: Option<Ms>,
    /// Whether it disconnects before it sees an answer that comes at the same time.
    pub(super) disconnects_first: bool,
}

impl Request {
    pub(super) fn deadline(&self) -> Ms {
        self.at + self.patience
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Purge {
    pub(super) at: Ms,
    pub(super) turn: usize,
    pub(super) scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// What a reload purges.
    All,
    /// One resource, by its first id.
    Resource(usize),
}

impl Scope {
    pub(super) fn covers(self, target: usize) -> bool {
        match self {
            Self::All => true,
            Self::Resource(resource) => resource == resource_of(target),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    /// From the start of the fetch to the time whose state it reports.
    pub(super) observed_after: Ms,
    /// From that time to the completion. `None` if the fetch never completes.
    pub(super) latency: Option<Ms>,
    pub(super) turn: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The resource's true state.
    Truth,
    Failure,
    /// A body too large to share, and how long it streams.
    TooLarge(Ms),
    /// A 429, and for how long it blocks.
    RateLimit(Ms),
    /// The fetch panics instead of completing.
    Panic,
    /// The fetch panics as it starts.
    PanicAtOnce,
}

/// Returns the resource of a target, which is its partition, too.
pub(super) fn resource_of(target: usize) -> usize {
    target / 2
}

impl Schedule {
    /// Returns whether the resource of `target` is final at `at`.
    pub(super) fn is_final(&self, target: usize, at: Ms) -> bool {
        let turns = &self.turns[resource_of(target)];
        turns.iter().filter(|turn| **turn <= at).count() % 2 == 1
    }

    /// Returns schedules like this one with a little less in them.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut smaller = self.clone();
            change(&mut smaller);
            all.push(smaller);
        };
        for half in [self.requests.len() / 2, 1] {
            for from in (0..self.requests.len()).step_by(half.max(1)) {
                let to = (from + half.max(1)).min(self.requests.len());
                add(&|s| drop(s.requests.drain(from..to)));
            }
        }
        for n in 0..self.purges.len() {
            add(&|s| {
                s.purges.remove(n);
            });
        }
        for n in 0..self.replies.len() {
            if self.replies.len() > 1 {
                add(&|s| {
                    s.replies.remove(n);
                });
            }
            if self.replies[n].kind != Kind::Truth {
                add(&|s| s.replies[n].kind = Kind::Truth);
            }
            if self.replies[n].turn > 0 {
                add(&|s| s.replies[n].turn = 0);
            }
        }
        for step in 0..self.turns.len() {
            if !self.turns[step].is_empty() {
                add(&|s| {
                    s.turns[step].pop();
                });
            }
        }
        for n in 0..self.requests.len() {
            if self.requests[n].disconnects_after.is_some() {
                add(&|s| s.requests[n].disconnects_after = None);
            }
            if self.requests[n].turn > 0 {
                add(&|s| s.requests[n].turn = 0);
            }
            if self.requests[n].force_fresh {
                add(&|s| s.requests[n].force_fresh = false);
            }
        }
        if self.permits < 64 {
            add(&|s| s.permits = 64);
        }
        all
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            window,
            permits,
            queue_timeout,
            turns,
            ..
        } = self;
        writeln!(
            f,
            "window {window}, permits {permits}, queue_timeout {queue_timeout}, turns {turns:?}"
        )?;
        for (id, request) in self.requests.iter().enumerate() {
            writeln!(f, "{id}: {request:?}")?;
        }
        for purge in &self.purges {
            writeln!(f, "{purge:?}")?;
        }
        self.replies
            .iter()
            .try_for_each(|reply| writeln!(f, "{reply:?}"))
    }
}
