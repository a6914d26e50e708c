//! Places for fetches: at most so many at once, and a short queue before them. Beyond that it is better
//! to say no quickly than to let every caller wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// No place became free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded;

/// The places that fetches depart from.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit {
    places: Arc<Semaphore>,
    total: usize,
    patience: Duration,
}

/// A place, held until the fetch has landed.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl ConcurrencyLimit {
    /// So many fetches at once; a further one waits for at most `patience`.
    pub fn new(total: usize, patience: Duration) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(total)),
            total,
            patience,
        }
    }

    /// Waits for a place, in the order of arrival.
    ///
    /// # Errors
    /// [`Overloaded`] when patience ends first.
    pub async fn take(&self) -> Result<Permit, Overloaded> {
        let places = Arc::clone(&self.places);
        let permit = match Arc::clone(&places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => timeout(self.patience, places.acquire_owned())
                .await
                .map_err(|_| Overloaded)?
                .expect("the semaphore is never closed"),
        };
        Ok(Permit { _permit: permit })
    }

    /// Fetches under way.
    pub fn taken(&self) -> usize {
        self.total - self.places.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_full_house_waits_as_long_as_its_patience() {
        let berths = ConcurrencyLimit::new(1, Duration::from_secs(1));
        let start = Instant::now();
        let held = berths.take().await.unwrap();
        assert_eq!(berths.taken(), 1);
        assert_eq!(berths.take().await.unwrap_err(), Overloaded);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        drop(held);
        assert!(berths.take().await.is_ok());
        assert_eq!(berths.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_patience_a_free_place_is_still_a_place() {
        let berths = ConcurrencyLimit::new(1, Duration::ZERO);
        let berth = berths.take().await.unwrap();
        assert!(berths.take().await.is_err());
        drop(berth);
    }
}
