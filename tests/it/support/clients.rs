//! Many clients at once, each on a keep-alive connection that was open before.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::{Response, head};
use super::{Gateway, RawClient, within};

pub(crate) struct Clients(Vec<RawClient>);

/// A response, and how long after the first request of all clients it was whole.
pub(crate) struct TimedResponse {
    pub(crate) response: Response,
    pub(crate) after: Duration,
}

impl Clients {
    /// Opens so many connections, all of which the gateway has accepted.
    pub(crate) async fn connect(gateway: &Gateway, count: usize) -> Self {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(gateway.connect().await);
        }
        gateway.wait_for_connections(count).await;
        Self(clients)
    }

    /// Sends the same GET on every connection, one right after the other, and returns all responses
    /// in the order in which they were whole.
    pub(crate) async fn get(self, path: &str, headers: &[(&str, &str)]) -> Vec<TimedResponse> {
        let request = head("GET", path, "127.0.0.1", headers);
        let mut readers = JoinSet::new();
        let start = Instant::now();
        for mut client in self.0 {
            client.send(&request).await;
            readers.spawn(async move {
                let response = client.response().await;
                let after = start.elapsed();
                TimedResponse { response, after }
            });
        }
        let mut responses = Vec::new();
        while let Some(response) = within("a response", readers.join_next()).await {
            responses.push(response.unwrap());
        }
        responses
    }

    /// Polls once a second on every connection for `time`, each at its own moment of the second.
    /// Returns the number of responses, and how long all that took.
    pub(crate) async fn poll_each_second(self, path: &str, time: Duration) -> (usize, Duration) {
        const PERIOD: Duration = Duration::from_secs(1);
        let request = head("GET", path, "127.0.0.1", &[]);
        let count = u32::try_from(self.0.len()).unwrap();
        let mut pollers = JoinSet::new();
        let start = Instant::now();
        for (nth, mut client) in (0..).zip(self.0) {
            let request = request.clone();
            pollers.spawn(async move {
                let mut next = start + PERIOD * nth / count;
                let mut responses = 0;
                while next < start + time {
                    tokio::time::sleep_until(next).await;
                    client.send(&request).await;
                    assert_eq!(client.response().await.status, 200);
                    responses += 1;
                    next += PERIOD;
                }
                responses
            });
        }
        let responses = pollers.join_all().await.into_iter().sum();
        (responses, start.elapsed())
    }
}
