//! A client that measures how long its responses take while other clients misbehave.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::RawClient;
use super::client::head;

/// One connection that sends the same GET again and again.
pub(crate) struct LatencyProbe {
    client: RawClient,
    request: String,
}

impl LatencyProbe {
    /// Sends the first GET, so that its response is stored from then on.
    pub(crate) async fn start(address: SocketAddr, path: &str) -> Self {
        let mut probe = Self {
            client: RawClient::connect(address).await,
            request: head("GET", path, "127.0.0.1", &[]),
        };
        probe.measure().await;
        probe
    }

    /// Returns how long one response takes.
    pub(crate) async fn measure(&mut self) -> Duration {
        let start = Instant::now();
        self.client.send(&self.request).await;
        assert_eq!(self.client.response().await.status, 200);
        start.elapsed()
    }

    /// Returns the median of so many measurements.
    pub(crate) async fn median_of(&mut self, count: usize) -> Duration {
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            took.push(self.measure().await);
        }
        took.sort();
        took[count / 2]
    }
}
