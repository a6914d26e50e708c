//! The limit on fetches in flight, with a short queue. Beyond that it is better to fail a request at once
//! than to let every request wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The queue timeout passed before a permit became free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded;

/// Permits for fetches.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit {
    semaphore: Arc<Semaphore>,
    total: usize,
    queue_timeout: Duration,
}

/// The right to one fetch, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl ConcurrencyLimit {
    /// Allows `total` fetches at once; a further one waits for at most `queue_timeout`.
    pub fn new(total: usize, queue_timeout: Duration) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS);
        Self {
            semaphore: Arc::new(Semaphore::new(total)),
            total,
            queue_timeout,
        }
    }

    /// Waits for a permit, in the order of arrival.
    ///
    /// # Errors
    /// [`Overloaded`] if the queue timeout passes first.
    pub async fn acquire(&self) -> Result<Permit, Overloaded> {
        let semaphore = Arc::clone(&self.semaphore);
        let permit = match Arc::clone(&semaphore).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => timeout(self.queue_timeout, semaphore.acquire_owned())
                .await
                .map_err(|_| Overloaded)?
                .expect("the semaphore is never closed"),
        };
        Ok(Permit { _permit: permit })
    }

    /// Returns how many fetches are in flight.
    pub fn in_flight(&self) -> usize {
        self.total - self.semaphore.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_permit_as_long_as_the_queue_timeout() {
        let limit = ConcurrencyLimit::new(1, Duration::from_secs(1));
        let start = Instant::now();
        let permit = limit.acquire().await.unwrap();
        assert_eq!(limit.in_flight(), 1);
        assert_eq!(limit.acquire().await.unwrap_err(), Overloaded);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        drop(permit);
        assert!(limit.acquire().await.is_ok());
        assert_eq!(limit.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_queue_timeout_of_zero_a_free_permit_is_still_granted() {
        let limit = ConcurrencyLimit::new(1, Duration::ZERO);
        let permit = limit.acquire().await.unwrap();
        assert!(limit.acquire().await.is_err());
        drop(permit);
    }
}
