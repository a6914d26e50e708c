//! Getting news: with others where that is allowed, alone where it is not, or waiting for the end.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::Gateway;
use super::flight::Flight;
use super::news::{Errand, Larger, News};
use super::refusal::GatewayError;
use crate::cache::CoalesceKey;
use crate::coalesce::{
    Completion, Fetch, FetchOptions, JoinResult, PollEvent, PollResult, WaitOptions,
};
use crate::upstream::FetchError;

/// How often a patrol polls where the upstream does not say.
const PACE: Duration = Duration::from_secs(1);
/// Whatever the upstream says: not busier, and not so slow that a waiter learns of the end too late.
const PACES: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);

/// What a request got.
#[derive(Debug)]
pub(super) enum Got {
    /// News; of a fetch that was going anyway, if `joined`.
    News { news: News, joined: bool },
    /// A body of its own.
    Larger(Larger),
}

impl Gateway {
    /// An answer from a fetch that departed after now, or a final one.
    pub(super) async fn ride(self: &Arc<Self>, errand: &Arc<Errand>, seat: FetchOptions) -> Got {
        // Held already: no need to gather first.
        if let Some((said, until)) = errand.setup.holds.held(&errand.account.partition) {
            return Got::News {
                news: News::Held(said, until),
                joined: false,
            };
        }
        let flight = || Flight::new(self, Arc::clone(errand));
        let failed = |error| News::Failed(Arc::new(error));
        match self
            .book
            .ride(Arc::clone(&errand.shared), seat, flight)
            .await
        {
            JoinResult::Opened(news) => Got::News {
                news,
                joined: false,
            },
            JoinResult::Joined(news) => Got::News { news, joined: true },
            JoinResult::Own(larger) => Got::Larger(larger),
            JoinResult::Alone => Box::pin(self.ride_alone(flight(), seat)).await,
            JoinResult::Late => Got::News {
                news: failed(FetchError::DeadlineExceeded),
                joined: false,
            },
            JoinResult::Lost => Got::News {
                news: failed(FetchError::TaskFailed),
                joined: false,
            },
        }
    }

    async fn ride_alone(&self, mut flight: Flight, seat: FetchOptions) -> Got {
        let fly = async {
            if let Some(news) = flight.clearance().await {
                return Completion::Live(news);
            }
            let Ok(berth) = self.book.berths().take().await else {
                return Completion::Live(flight.no_berth());
            };
            if let Some(news) = flight.recalled() {
                return Completion::Live(news);
            }
            flight.depart(seat.manifest(), berth).await.1
        };
        match timeout_at(seat.deadline, fly).await {
            Ok(Completion::Final(news) | Completion::Live(news)) => Got::News {
                news,
                joined: false,
            },
            Ok(Completion::Own(larger)) => Got::Larger(larger),
            Err(_) => {
                let news = News::Failed(Arc::new(FetchError::DeadlineExceeded));
                Got::News {
                    news,
                    joined: false,
                }
            }
        }
    }

    /// Waits for the step to end, for `seconds` at most, with all others who wait for it. Says whether
    /// it did: a step whose bodies are too large to share cannot be waited for.
    ///
    /// # Errors
    /// [`GatewayError::Draining`] if the gateway ends before there is anything to say.
    pub(super) async fn await_end(
        self: &Arc<Self>,
        errand: &Arc<Errand>,
        seat: FetchOptions,
        arrived: Instant,
        seconds: u64,
    ) -> Result<(Got, bool), GatewayError> {
        let since = self.cache.next_seq();
        let mut so_far = None;
        if seat.fresh {
            // Its own fetch first: what it finds is to replace or remove what is stored.
            let got = self.ride(errand, seat).await;
            if !matches!(bearing(&got), PollEvent::Body | PollEvent::Failure) {
                return Ok((got, true));
            }
            so_far = Some(got);
        }
        let until = arrived + Duration::from_secs(seconds);
        let terms = WaitOptions {
            after: seat.after,
            since,
            until,
            deadline: if so_far.is_some() {
                until
            } else {
                until.max(seat.deadline)
            },
        };
        let poll = || {
            let (gateway, errand) = (Arc::clone(self), Arc::clone(errand));
            move || {
                let (gateway, errand) = (Arc::clone(&gateway), Arc::clone(&errand));
                async move { gateway.report(&errand, seat.store).await }
            }
        };
        let key = (Arc::clone(&errand.shared), seat.store);
        let news = self
            .patrols
            .wait(key, terms, self.draining.cancelled(), poll)
            .await;
        match (news, so_far) {
            (Some(news), _) => Ok((Got::News { news, joined: true }, true)),
            (None, Some(got)) => Ok((got, true)),
            (None, None) if self.draining.is_cancelled() => Err(GatewayError::Draining),
            (None, None) => Ok((self.ride(errand, seat).await, false)),
        }
    }

    /// One poll of a patrol.
    async fn report(self: &Arc<Self>, errand: &Arc<Errand>, store: bool) -> PollResult<News> {
        let mark = self.cache.next_seq();
        let seat = FetchOptions {
            deadline: Instant::now() + errand.setup.timeout,
            after: self.cache.min_valid_seq(errand.key()),
            store,
            fresh: false,
        };
        let got = self.ride(errand, seat).await;
        let heard = bearing(&got);
        let news = match got {
            Got::News { news, .. } => news,
            // Not told: see `bearing`.
            Got::Larger(_) => News::Overloaded,
        };
        let (number, pace) = match &news {
            News::Arrived(arrived) => (arrived.number, arrived.poll_after),
            News::Held(..) | News::Failed(_) | News::Overloaded => (mark, None),
        };
        let pace = pace.unwrap_or(PACE).clamp(*PACES.start(), *PACES.end());
        PollResult {
            number,
            heard,
            news,
            pace: jittered(pace, mark),
        }
    }

    /// Tells those who wait for the step of an end that a fetch found.
    pub(super) fn tell_end(&self, shared: &Arc<CoalesceKey>, number: u64, news: &News) {
        for store in [true, false] {
            self.patrols
                .tell_end(&(Arc::clone(shared), store), number, news);
        }
    }
}

/// What a poll means for those who wait for the end.
fn bearing(got: &Got) -> PollEvent {
    let passing = |status: StatusCode| {
        status.is_server_error()
            || matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            )
    };
    match got {
        Got::News {
            news: News::Arrived(arrived),
            ..
        } => match arrived.status {
            status if passing(status) => PollEvent::Failure,
            StatusCode::OK if arrived.is_final => PollEvent::End,
            StatusCode::OK => PollEvent::Body,
            _ => PollEvent::Over,
        },
        Got::News { .. } => PollEvent::Failure,
        Got::Larger(larger) if passing(larger.status) => PollEvent::Nothing,
        Got::Larger(_) => PollEvent::Apart,
    }
}

/// Up to a tenth earlier, so that the patrols of many steps do not poll in step; by a multiplicative
/// hash of the number, which is chance enough.
fn jittered(pace: Duration, number: u64) -> Duration {
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    pace - pace / 10 * u32::try_from(hash).unwrap_or(0) / 256
}
