//! Getting news: with others where that is allowed, alone where it is not, or waiting for the end.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::Gateway;
use super::flight::{Errand, Flight, Larger, News};
use super::refusal::Refusal;
use crate::fetch::{Fetch, Heard, Landed, Report, Ride, Seat};
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
    pub(super) async fn ride(self: &Arc<Self>, errand: &Errand, seat: Seat) -> Got {
        // Held already: no need to gather first.
        if let Some((said, until)) = self.holds.held(&errand.partition, Instant::now()) {
            return Got::News {
                news: News::Held(said, until),
                joined: false,
            };
        }
        let flight = || Flight::new(self, errand.clone());
        let failed = |error| News::Failed(Arc::new(error));
        match self.book.ride(errand.key.clone(), seat, flight).await {
            Ride::Opened(news) => Got::News {
                news,
                joined: false,
            },
            Ride::Joined(news) => Got::News { news, joined: true },
            Ride::Own(larger) => Got::Larger(larger),
            Ride::Alone => self.ride_alone(flight(), seat).await,
            Ride::Late => Got::News {
                news: failed(FetchError::Deadline),
                joined: false,
            },
            Ride::Lost => Got::News {
                news: failed(FetchError::Abandoned),
                joined: false,
            },
        }
    }

    async fn ride_alone(&self, mut flight: Flight, seat: Seat) -> Got {
        let fly = async {
            if let Some(news) = flight.clearance().await {
                return Landed::Live(news);
            }
            let Ok(berth) = self.book.berths().take().await else {
                return Landed::Live(flight.no_berth());
            };
            flight.depart(seat.manifest(), berth).await.1
        };
        match timeout_at(seat.deadline, fly).await {
            Ok(Landed::Final(news) | Landed::Live(news)) => Got::News {
                news,
                joined: false,
            },
            Ok(Landed::Own(larger)) => Got::Larger(larger),
            Err(_) => {
                let news = News::Failed(Arc::new(FetchError::Deadline));
                Got::News {
                    news,
                    joined: false,
                }
            }
        }
    }

    /// Waits for the step to end, for `seconds` at most, with all others who wait for it.
    ///
    /// # Errors
    /// [`Refusal::Draining`] if the gateway ends before there is anything to say.
    pub(super) async fn await_end(
        self: &Arc<Self>,
        errand: &Errand,
        seat: Seat,
        arrived: Instant,
        seconds: u64,
    ) -> Result<Got, Refusal> {
        let numbers = (seat.after, self.cache.next_number());
        let until = arrived + Duration::from_secs(seconds);
        let draining = self.draining.cancelled();
        let poll = || {
            let (gateway, errand) = (Arc::clone(self), errand.clone());
            move || {
                let (gateway, errand) = (Arc::clone(&gateway), errand.clone());
                async move { gateway.report(&errand).await }
            }
        };
        let news = self
            .patrols
            .wait(errand.key.clone(), numbers, until, draining, poll)
            .await;
        match news {
            Some(news) => Ok(Got::News { news, joined: true }),
            None if self.draining.is_cancelled() => Err(Refusal::Draining),
            // Too short a wait for a round of the patrol, or a step that cannot be shared.
            None => Ok(self.ride(errand, seat).await),
        }
    }

    /// One poll of a patrol.
    async fn report(self: &Arc<Self>, errand: &Errand) -> Report<News> {
        let mark = self.cache.next_number();
        let seat = Seat {
            deadline: Instant::now() + self.setup.timeout,
            after: self.cache.believable(&errand.key),
            store: true,
            fresh: false,
        };
        let (news, heard) = match self.ride(errand, seat).await {
            Got::News { news, .. } => {
                let heard = bearing(&news);
                (news, heard)
            }
            Got::Larger(_) => (News::Overloaded, Heard::Nothing),
        };
        let (number, pace) = match &news {
            News::Arrived(arrived) => (arrived.number, arrived.poll_after),
            News::Held(..) | News::Failed(_) | News::Overloaded => (mark, None),
        };
        let pace = pace.unwrap_or(PACE).clamp(*PACES.start(), *PACES.end());
        Report {
            number,
            heard,
            news,
            pace: jittered(pace, mark),
        }
    }
}

/// What a poll means for those who wait for the end.
fn bearing(news: &News) -> Heard {
    let News::Arrived(arrived) = news else {
        return Heard::Failure;
    };
    match arrived.status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Heard::Failure,
        status if status.is_server_error() => Heard::Failure,
        StatusCode::OK if !arrived.is_final => Heard::Body,
        _ => Heard::End,
    }
}

/// Up to a tenth earlier, so that the patrols of many steps do not poll in step; by a multiplicative
/// hash of the number, which is chance enough.
fn jittered(pace: Duration, number: u64) -> Duration {
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    pace - pace / 10 * u32::try_from(hash).unwrap_or(0) / 256
}
