//! The terms of departures: what a fetch is, what its passengers want, what they get.
//!
//! A step departs at most once a window and has at most [`MAX_IN_FLIGHT_PER_KEY`] flights; where neither
//! forbids it, a request departs at once. Otherwise newcomers gather, and leave together with the
//! next departure. What lands final answers everybody who waits for the step.

use std::time::Duration;

use tokio::time::Instant;

use super::concurrency_limit::Permit;

/// Flights of one step in the air. A slow upstream gets no more than this, however long it takes:
/// the rest gathers, which is the back pressure it needs.
pub const MAX_IN_FLIGHT_PER_KEY: usize = 4;

/// After a body that could not be shared, the step's requests fetch each on their own for this long.
pub const UNSHAREABLE_TTL: Duration = Duration::from_secs(60);

/// One fetch, ready to go.
pub trait Fetch: Send + Sized + 'static {
    /// What all passengers can have.
    type Shared: Clone + Send + 'static;
    /// What only one can have.
    type Own: Send + 'static;

    /// Waits until it may go at all; an answer in its place if it may not.
    fn clearance(&mut self) -> impl Future<Output = Option<Self::Shared>> + Send;

    /// Whether it may still go, now that it has its berth; an answer in its place if not.
    fn recalled(&self) -> Option<Self::Shared>;

    /// What the passengers hear when there was no berth.
    fn no_berth(self) -> Self::Shared;

    /// Departs when it is called, not when the flight is first polled: takes its number, which comes
    /// back with what it brought. Must not block.
    fn depart(
        self,
        manifest: BatchOptions,
        berth: Permit,
    ) -> impl Future<Output = NumberedCompletion<Self>> + Send + 'static;
}

/// What a fetch brought.
#[derive(Debug)]
pub enum Completion<S, O> {
    /// True for everybody, whenever they asked.
    Final(S),
    /// True for those who rode.
    Live(S),
    /// Too large to share.
    Own(O),
}

/// What the passengers of a departing fetch want of it, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// The last passenger's deadline.
    pub deadline: Instant,
    /// Somebody lets it be stored.
    pub store: bool,
    /// Somebody insisted on a fresh answer.
    pub fresh: bool,
}

/// A passenger's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchOptions {
    /// When it needs an answer.
    pub deadline: Instant,
    /// It takes nothing from a fetch with a lower number, final or not.
    pub after: u64,
    /// It lets the answer be stored.
    pub store: bool,
    /// It insisted on a fresh answer.
    pub fresh: bool,
}

impl FetchOptions {
    /// The terms of a passenger that travels alone.
    pub fn manifest(&self) -> BatchOptions {
        BatchOptions {
            deadline: self.deadline,
            store: self.store,
            fresh: self.fresh,
        }
    }
}

/// How a passenger fared.
#[derive(Debug)]
pub enum JoinResult<S, O> {
    /// By the fetch that it caused itself.
    Opened(S),
    /// By a fetch that was going anyway.
    Joined(S),
    /// It got what cannot be shared.
    Own(O),
    /// What was fetched cannot be shared: it has to fetch on its own.
    Alone,
    /// Its deadline passed first.
    Late,
    /// The fetch ended without a word.
    Lost,
}

/// What a passenger of `F` gets.
pub(super) type Answer<F> = JoinResult<<F as Fetch>::Shared, <F as Fetch>::Own>;

/// The number of a departure, and what it brought.
pub type NumberedCompletion<F> = (u64, Completion<<F as Fetch>::Shared, <F as Fetch>::Own>);
