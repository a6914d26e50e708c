//! Many callers at once, each on a keep-alive connection that was open before.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Answer;
use super::raw::{Raw, head};
use super::{Gateway, within};

pub(crate) struct Crowd {
    callers: Vec<Raw>,
}

/// An answer, and how long after the crowd's first byte it was whole.
pub(crate) struct Served {
    pub(crate) answer: Answer,
    pub(crate) after: Duration,
}

impl Crowd {
    /// So many connections, all accepted by the gateway.
    pub(crate) async fn connect(gateway: &Gateway, size: usize) -> Self {
        let mut callers = Vec::with_capacity(size);
        for _ in 0..size {
            callers.push(gateway.connect().await);
        }
        gateway.has_open(size).await;
        Self { callers }
    }

    /// The same question on every connection, written one right after the other; then all answers,
    /// in the order in which they were whole.
    pub(crate) async fn ask(self, path: &str, headers: &[(&str, &str)]) -> Vec<Served> {
        let question = head("GET", path, "127.0.0.1", headers);
        let mut readers = JoinSet::new();
        let start = Instant::now();
        for mut caller in self.callers {
            caller.send(&question).await;
            readers.spawn(async move {
                let answer = caller.answer().await;
                let after = start.elapsed();
                Served { answer, after }
            });
        }
        let mut served = Vec::new();
        while let Some(one) = within("an answer", readers.join_next()).await {
            served.push(one.unwrap());
        }
        served
    }

    /// Every caller polls once a second for `time`, each at its own moment of the second. Returns
    /// the number of answers, and how long all that took.
    pub(crate) async fn poll_each_second(self, path: &str, time: Duration) -> (usize, Duration) {
        const PERIOD: Duration = Duration::from_secs(1);
        let question = head("GET", path, "127.0.0.1", &[]);
        let size = u32::try_from(self.callers.len()).unwrap();
        let mut pollers = JoinSet::new();
        let start = Instant::now();
        for (nth, mut caller) in (0..).zip(self.callers) {
            let question = question.clone();
            pollers.spawn(async move {
                let mut next = start + PERIOD * nth / size;
                let mut answers = 0;
                while next < start + time {
                    tokio::time::sleep_until(next).await;
                    caller.send(&question).await;
                    assert_eq!(caller.answer().await.status, 200);
                    answers += 1;
                    next += PERIOD;
                }
                answers
            });
        }
        let answers = pollers.join_all().await.into_iter().sum();
        (answers, start.elapsed())
    }
}
