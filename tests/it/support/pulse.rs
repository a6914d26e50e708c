//! A caller that is well served, while others misbehave: how long do its answers take?

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::raw::{Raw, head};

/// One connection that asks for the same thing again and again.
pub(crate) struct Pulse {
    raw: Raw,
    question: String,
}

impl Pulse {
    /// Asks once, so that what it asks for is stored from then on.
    pub(crate) async fn of(address: SocketAddr, path: &str) -> Self {
        let mut pulse = Self {
            raw: Raw::connect(address).await,
            question: head("GET", path, "127.0.0.1", &[]),
        };
        pulse.beat().await;
        pulse
    }

    /// How long one answer takes.
    pub(crate) async fn beat(&mut self) -> Duration {
        let start = Instant::now();
        self.raw.send(&self.question).await;
        assert_eq!(self.raw.answer().await.status, 200);
        start.elapsed()
    }

    pub(crate) async fn median_of(&mut self, beats: usize) -> Duration {
        let mut took = Vec::with_capacity(beats);
        for _ in 0..beats {
            took.push(self.beat().await);
        }
        took.sort();
        took[beats / 2]
    }
}
