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

    /// Measures both probes in turn, `count` times, and returns their medians.
    ///
    /// The other probe is a control: whatever else loads the machine slows both.
    pub(crate) async fn medians_beside(
        &mut self,
        control: &mut Self,
        count: usize,
    ) -> (Duration, Duration) {
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for _ in 0..count {
            own.push(self.measure().await);
            others.push(control.measure().await);
        }
        (median(own), median(others))
    }
}

/// Returns the median, or zero if there are no measurements.
pub(crate) fn median(mut measured: Vec<Duration>) -> Duration {
    measured.sort();
    measured
        .get(measured.len() / 2)
        .copied()
        .unwrap_or_default()
}
