//! Services that poll run steps, as services do: each over one keep-alive connection, several steps
//! at a time, and several services looking at the same step.
//!
//! They read every answer. What they see goes into the ledger, errors too.

mod checker;
mod line;
mod watch;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::checker::{Checker, Seen};
pub(super) use self::checker::{Figures, Spread};
use self::line::Line;
use self::watch::{Role, Watch};
use super::seeded_rng::SeededRng;

/// Steps that each poller has under way.
const DESK: usize = 3;

/// Pollers that look at the same steps: workers that wait for them, dashboards that show them,
/// auditors that read them, a replica of each for every pod.
const TEAM: usize = 30;

/// Who polls.
pub(super) struct Settings {
    /// The gateway's, or the sandbox's own.
    pub(super) address: SocketAddr,
    /// How many.
    pub(super) count: usize,
    /// Sent with every poll: none to a gateway, which injects what is needed.
    pub(super) headers: &'static [(&'static str, &'static str)],
}

/// The steps that a team looks at: in each place of the desk, how
/// many there have been. Whoever is done with a step moves on to the newest, so that no service
/// falls behind into steps long final, which would make the gateway look better than it is.
type Desk = [AtomicU64; DESK];

/// Pollers at work.
pub(super) struct Pollers {
    ledger: Arc<Mutex<Checker>>,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Pollers {
    /// Sends them off.
    pub(super) fn start(settings: &Settings) -> Self {
        let pollers = Self {
            ledger: Arc::default(),
            tracker: TaskTracker::new(),
            token: CancellationToken::new(),
        };
        let mut desk = Arc::<Desk>::default();
        for index in 0..settings.count {
            if index.is_multiple_of(TEAM) {
                desk = Arc::default();
            }
            let poller = Poller {
                team: index / TEAM,
                role: Role::of(index),
                dice: SeededRng::of(&["pace", &index.to_string()]),
                desk: Arc::clone(&desk),
                ledger: Arc::clone(&pollers.ledger),
                line: Line::new(settings.address, settings.headers, pollers.tracker.clone()),
            };
            pollers.tracker.spawn(poller.work(pollers.token.clone()));
        }
        pollers
    }

    /// What they have seen so far.
    pub(super) fn figures(&self) -> Figures {
        open(&self.ledger).figures()
    }

    /// Lets each finish the poll that it is at, and sends them home.
    pub(super) async fn stop(self) -> Figures {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.figures()
    }
}

fn open(ledger: &Mutex<Checker>) -> MutexGuard<'_, Checker> {
    ledger.lock().expect("nothing panics with the ledger open")
}

struct Poller {
    team: usize,
    role: Role,
    dice: SeededRng,
    desk: Arc<Desk>,
    ledger: Arc<Mutex<Checker>>,
    line: Line,
}

impl Poller {
    async fn work(mut self, token: CancellationToken) {
        let mut watches: Vec<Watch> = (0..DESK).map(|place| self.watch(place, 0)).collect();
        while let Some(next) = watches.iter_mut().min_by_key(|watch| watch.due) {
            let waited = token.run_until_cancelled(sleep_until(next.due)).await;
            if waited.is_none() || token.is_cancelled() {
                return;
            }
            self.poll(next).await;
            if next.is_over() {
                *next = self.successor(next);
            } else {
                next.due = self.due();
            }
        }
    }

    async fn poll(&mut self, watch: &mut Watch) {
        let asked = Instant::now();
        let answer = match self.line.poll(&watch.path()).await {
            Ok(answer) => answer,
            Err(error) => return open(&self.ledger).failed(&error),
        };
        let status = watch.read(&answer.body);
        let seen = Seen {
            step: &watch.step,
            asked,
            answer: &answer,
            status,
        };
        open(&self.ledger).answered(&seen, Instant::now());
    }

    fn watch(&mut self, place: usize, turn: u64) -> Watch {
        Watch::new(self.team, self.role, place, turn, self.due())
    }

    /// The newest step in that place: the first of a team to be done brings it.
    fn successor(&mut self, done: &Watch) -> Watch {
        let next = done.turn + 1;
        let newest = self.desk[done.place].fetch_max(next, Ordering::Relaxed);
        self.watch(done.place, newest.max(next))
    }

    /// The time of a step's next poll: 0.3 to 1.0 s from now.
    fn due(&mut self) -> Instant {
        Instant::now() + Duration::from_millis(300 + u64::from(self.dice.below(701)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::sandbox::{self, Sandbox, Status};

    const CREDENTIALS: &[(&str, &str)] =
        &[("x-portkey-api-key", "k"), ("x-portkey-virtual-key", "v")];

    async fn sandbox() -> Sandbox {
        let settings = sandbox::Settings {
            lifetime: Duration::ZERO..=Duration::ZERO,
            ..sandbox::Settings::default()
        };
        Sandbox::start(settings).await.unwrap()
    }

    fn poller(sandbox: &Sandbox, headers: &'static [(&'static str, &'static str)]) -> Poller {
        Poller {
            team: 0,
            role: Role::Auditor,
            dice: SeededRng::of(&["pace"]),
            desk: Arc::default(),
            ledger: Arc::default(),
            line: Line::new(sandbox.address(), headers, TaskTracker::new()),
        }
    }

    #[tokio::test]
    async fn a_step_is_polled_to_its_end_and_every_poll_is_accounted_for() {
        let sandbox = sandbox().await;
        let mut poller = poller(&sandbox, CREDENTIALS);
        let mut watch = poller.watch(0, 0);
        sandbox.hold_live(&watch.step);
        for _ in 0..3 {
            poller.poll(&mut watch).await;
        }
        assert_eq!(open(&poller.ledger).figures().live, 1);
        sandbox.finish(&watch.step, Status::Expired);
        while !watch.is_over() {
            poller.poll(&mut watch).await;
        }
        let figures = open(&poller.ledger).figures();
        assert_eq!((figures.polls, sandbox.fetches()), (10, 10));
        assert_eq!((figures.hits, figures.errors, figures.live), (0, 0, 0));
        assert_eq!((figures.stale, figures.wrong), (0, 0));
        assert_eq!(figures.finished[&Status::Expired], 1);
    }

    #[tokio::test]
    async fn a_step_that_comes_back_to_life_is_noticed() {
        let sandbox = sandbox().await;
        let mut poller = poller(&sandbox, CREDENTIALS);
        let mut watch = poller.watch(0, 0);
        poller.poll(&mut watch).await;
        sandbox.hold_live(&watch.step);
        poller.poll(&mut watch).await;
        assert_eq!(open(&poller.ledger).figures().stale, 1);
    }

    #[tokio::test]
    async fn what_is_not_a_200_is_an_error_that_says_so() {
        let sandbox = sandbox().await;
        let mut poller = poller(&sandbox, &[]);
        let mut watch = poller.watch(0, 0);
        poller.poll(&mut watch).await;
        let figures = open(&poller.ledger).figures();
        assert_eq!((figures.polls, figures.errors), (0, 1));
        assert_eq!(figures.last_error.unwrap(), "answered 401 Unauthorized");
    }

    #[tokio::test]
    async fn who_is_behind_skips_to_the_newest_step() {
        let sandbox = sandbox().await;
        let mut poller = poller(&sandbox, &[]);
        let first = poller.watch(1, 0);
        assert_eq!(poller.successor(&first).turn, 1);
        poller.desk[1].store(5, Ordering::Relaxed);
        assert_eq!(poller.successor(&first).turn, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn stopped_pollers_leave_nothing_running() {
        let nowhere = Settings {
            address: ([127, 0, 0, 1], 1).into(),
            count: 6,
            headers: &[],
        };
        let figures = Pollers::start(&nowhere).stop().await;
        assert_eq!((figures.polls, figures.errors), (0, 0));
    }
}
