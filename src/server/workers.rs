//! The worker threads that serve connections, each with a runtime of its own.
//!
//! A connection, the fetches that it causes and the upstream connections of these fetches stay on one core. No
//! worker waits for another, wakes another or steals its tasks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};

/// The runtimes that serve connections.
#[derive(Debug, Clone)]
pub struct Workers {
    runtimes: Arc<[Handle]>,
    next: Arc<AtomicUsize>,
}

impl Workers {
    /// Uses the current runtime as the only worker.
    pub fn current() -> Self {
        Self::new(vec![Handle::current()])
    }

    /// Starts `count` worker threads, at least one. They run until the process ends.
    ///
    /// # Errors
    /// The system's error if a thread or its runtime cannot be created.
    pub fn spawn(count: usize) -> io::Result<Self> {
        let runtimes = (0..count.max(1)).map(|_| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            std::thread::Builder::new()
                .name("stepgate-worker".to_owned())
                .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
            Ok(handle)
        });
        Ok(Self::new(runtimes.collect::<io::Result<_>>()?))
    }

    fn new(runtimes: Vec<Handle>) -> Self {
        Self {
            runtimes: runtimes.into(),
            next: Arc::default(),
        }
    }

    /// Returns the workers in turn. Connections live long and are much alike, so each worker gets as many.
    pub(super) fn next(&self) -> &Handle {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &self.runtimes[next % self.runtimes.len()]
    }

    /// Returns once each worker has run a task. If a worker hangs, this does not return.
    pub(super) async fn ping(&self) {
        for runtime in self.runtimes.iter() {
            // An error means that the runtime ends, and the process with it.
            let _ = runtime.spawn(async {}).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn workers_take_turns_each_on_its_own_thread() {
        let workers = Workers::spawn(3).unwrap();
        let mut threads = Vec::new();
        for _ in 0..6 {
            let thread = workers.next().spawn(async { std::thread::current().id() });
            threads.push(thread.await.unwrap());
        }
        assert_eq!(threads[..3], threads[3..]);
        assert_eq!(HashSet::<_>::from_iter(&threads).len(), 3);
        assert!(!threads.contains(&std::thread::current().id()));
    }

    #[tokio::test]
    async fn current_runtime_serves_on_its_own_thread() {
        let workers = Workers::current();
        let thread = workers.next().spawn(async { std::thread::current().id() });
        assert_eq!(thread.await.unwrap(), std::thread::current().id());
    }

    #[tokio::test]
    async fn ping_does_not_return_while_a_worker_hangs() {
        let workers = Workers::spawn(3).unwrap();
        workers.ping().await;
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        workers.next().spawn(async move { blocked.recv().is_err() });
        tokio::time::timeout(Duration::from_millis(50), workers.ping())
            .await
            .expect_err("a worker that hangs cannot run a task");
        drop(release);
        workers.ping().await;
    }

    #[test]
    fn zero_workers_become_one() {
        assert_eq!(Workers::spawn(0).unwrap().runtimes.len(), 1);
    }
}
