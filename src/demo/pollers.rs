//! Polls run steps as services do: each poller has one keep-alive connection and polls several steps
//! at a time, and several pollers poll the same step. Every answer is read and checked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::checker::{Checker, Figures};
use super::connection::{Connection, Headers};
use super::sandbox::{Sandbox, Status};
use super::seeded_rng::SeededRng;

/// The number of steps that each poller polls at a time.
const SLOTS: usize = 3;

/// The number of pollers that poll the same steps: three services with ten replicas each.
const TEAM: usize = 30;

/// Counts the steps that a team has finished in each slot. A poller that finishes a step continues with
/// the newest step of its team. Otherwise slow pollers would poll steps that are long final, and the
/// gateway would look better than it is.
type FinishedSlots = [AtomicU64; SLOTS];

/// Runs the pollers.
pub(super) struct Pollers {
    checker: Arc<Mutex<Checker>>,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Pollers {
    /// Starts `count` pollers against the gateway or the sandbox at `address`. Polls through a gateway
    /// need no `headers`, because it injects the credentials.
    pub(super) fn start(address: SocketAddr, count: usize, headers: Headers) -> Self {
        let pollers = Self {
            checker: Arc::default(),
            tracker: TaskTracker::new(),
            token: CancellationToken::new(),
        };
        let mut finished = Arc::<FinishedSlots>::default();
        for index in 0..count {
            if index.is_multiple_of(TEAM) {
                finished = Arc::default();
            }
            let poller = Poller {
                team: index / TEAM,
                role: ROLES[index % ROLES.len()],
                rng: SeededRng::of(&["pace", &index.to_string()]),
                finished: Arc::clone(&finished),
                checker: Arc::clone(&pollers.checker),
                connection: Connection::new(address, headers, pollers.tracker.clone()),
            };
            pollers.tracker.spawn(poller.run(pollers.token.clone()));
        }
        pollers
    }

    /// Returns what was counted so far.
    pub(super) fn figures(&self) -> Figures {
        lock(&self.checker).figures()
    }

    /// Stops every poller after its current poll.
    pub(super) async fn stop(self) -> Figures {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.figures()
    }
}

fn lock(checker: &Mutex<Checker>) -> MutexGuard<'_, Checker> {
    checker
        .lock()
        .expect("nothing panics while the checker is locked")
}

/// Says how a service reads its steps.
#[derive(Clone, Copy)]
struct Role {
    /// How often it reads a step again after it was final.
    rereads: u32,
    /// Whether it asks for the content of file search results.
    include: bool,
}

const WORKER: Role = Role {
    rereads: 3,
    include: false,
};
const DASHBOARD: Role = Role {
    rereads: 12,
    include: false,
};
const AUDITOR: Role = Role {
    rereads: 6,
    include: true,
};

/// The roles of a team's pollers, in turn.
const ROLES: [Role; 3] = [WORKER, DASHBOARD, AUDITOR];

struct Poller {
    team: usize,
    role: Role,
    rng: SeededRng,
    finished: Arc<FinishedSlots>,
    checker: Arc<Mutex<Checker>>,
    connection: Connection,
}

impl Poller {
    async fn run(mut self, token: CancellationToken) {
        let mut steps: Vec<PolledStep> = (0..SLOTS).map(|slot| self.step(slot, 0)).collect();
        while let Some(next) = steps.iter_mut().min_by_key(|step| step.due) {
            let due = token.run_until_cancelled(sleep_until(next.due)).await;
            if due.is_none() || token.is_cancelled() {
                return;
            }
            self.poll(next).await;
            if next.is_finished() {
                *next = self.next_step(next);
            } else {
                next.due = self.due();
            }
        }
    }

    async fn poll(&mut self, step: &mut PolledStep) {
        match self.connection.poll(&step.path()).await {
            Ok(response) => {
                let status = step.read(&response.body);
                lock(&self.checker).record(&step.id, &response, status);
            }
            Err(error) => lock(&self.checker).record_error(&error),
        }
    }

    fn step(&mut self, slot: usize, number: u64) -> PolledStep {
        PolledStep::new(self.team, self.role, slot, number, self.due())
    }

    /// Returns the newest step in the slot. The first poller of the team to finish a step starts the
    /// next one.
    fn next_step(&mut self, finished: &PolledStep) -> PolledStep {
        let next = finished.number + 1;
        let newest = self.finished[finished.slot].fetch_max(next, Ordering::Relaxed);
        self.step(finished.slot, newest.max(next))
    }

    /// Returns the time of a step's next poll, 0.3 to 1.0 s from now.
    fn due(&mut self) -> Instant {
        Instant::now() + Duration::from_millis(300 + u64::from(self.rng.below(701)))
    }
}

/// A step as one poller sees it, from the first poll to the last reread.
struct PolledStep {
    role: Role,
    slot: usize,
    /// How many steps the slot had before this one.
    number: u64,
    thread: String,
    run: String,
    id: String,
    /// The time of the next poll.
    due: Instant,
    /// `None` while the step is live.
    rereads_left: Option<u32>,
}

impl PolledStep {
    /// Derives the ids from `team`, `slot` and `number`, so that all pollers of a team poll the same
    /// step.
    fn new(team: usize, role: Role, slot: usize, number: u64, due: Instant) -> Self {
        let team = team.to_string();
        let mut rng = SeededRng::of(&["step", &team, &slot.to_string(), &number.to_string()]);
        Self {
            role,
            slot,
            number,
            thread: SeededRng::of(&["thread", &team]).id("thread_"),
            run: rng.id("run_"),
            id: rng.id("step_"),
            due,
            rereads_left: None,
        }
    }

    fn path(&self) -> String {
        let query = match self.role.include {
            true => "?include[]=step_details.tool_calls[*].file_search.results[*].content",
            false => "",
        };
        let (thread, run, id) = (&self.thread, &self.run, &self.id);
        format!("/v1/threads/{thread}/runs/{run}/steps/{id}{query}")
    }

    /// Returns the status in `body`, or `None` if it is not the upstream's body for that status, byte
    /// for byte.
    fn read(&mut self, body: &Bytes) -> Option<Status> {
        #[derive(Deserialize)]
        struct Body<'a> {
            status: &'a str,
        }
        let parsed: Body<'_> = serde_json::from_slice(body).ok()?;
        let status = Status::ALL
            .into_iter()
            .find(|status| status.as_str() == parsed.status)?;
        let (thread, run, id) = (&self.thread, &self.run, &self.id);
        if *body != Sandbox::body_for(thread, run, id, status, self.role.include) {
            return None;
        }
        self.rereads_left = match self.rereads_left {
            Some(left) => Some(left.saturating_sub(1)),
            None => status.is_final().then_some(self.role.rereads),
        };
        Some(status)
    }

    fn is_finished(&self) -> bool {
        self.rereads_left == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::sandbox;

    const CREDENTIALS: Headers = &[("x-portkey-api-key", "k"), ("x-portkey-virtual-key", "v")];

    async fn sandbox() -> Sandbox {
        let settings = sandbox::Settings {
            lifetime: Duration::ZERO..=Duration::ZERO,
            ..sandbox::Settings::default()
        };
        Sandbox::start(settings).await.unwrap()
    }

    fn poller(sandbox: &Sandbox, headers: Headers) -> Poller {
        Poller {
            team: 0,
            role: AUDITOR,
            rng: SeededRng::of(&["pace"]),
            finished: Arc::default(),
            checker: Arc::default(),
            connection: Connection::new(sandbox.address(), headers, TaskTracker::new()),
        }
    }

    fn step(role: Role) -> PolledStep {
        PolledStep::new(7, role, 1, 4, Instant::now())
    }

    fn body(step: &PolledStep, status: Status) -> Bytes {
        Sandbox::body_for(&step.thread, &step.run, &step.id, status, step.role.include)
    }

    #[tokio::test]
    async fn a_step_is_polled_until_it_is_finished_and_every_poll_is_counted() {
        let sandbox = sandbox().await;
        let mut poller = poller(&sandbox, CREDENTIALS);
        let mut step = poller.step(0, 0);
        sandbox.set_status(&step.id, Status::InProgress);
        for _ in 0..3 {
            poller.poll(&mut step).await;
        }
        assert_eq!(lock(&poller.checker).figures().live, 1);
        sandbox.set_status(&step.id, Status::Expired);
        while !step.is_finished() {
            poller.poll(&mut step).await;
        }
        let figures = lock(&poller.checker).figures();
        assert_eq!((figures.polls, sandbox.request_count()), (10, 10));
        assert_eq!((figures.hits, figures.errors, figures.live), (0, 0, 0));
        assert_eq!((figures.stale, figures.wrong), (0, 0));
        assert_eq!(figures.finished[&Status::Expired], 1);
    }

    #[tokio::test]
    async fn a_final_step_that_becomes_live_again_counts_as_stale() {
        let sandbox = sandbox().await;
        let mut poller = poller(&sandbox, CREDENTIALS);
        let mut step = poller.step(0, 0);
        poller.poll(&mut step).await;
        sandbox.set_status(&step.id, Status::InProgress);
        poller.poll(&mut step).await;
        assert_eq!(lock(&poller.checker).figures().stale, 1);
    }

    #[tokio::test]
    async fn another_status_than_200_counts_as_an_error() {
        let sandbox = sandbox().await;
        let mut poller = poller(&sandbox, &[]);
        let mut step = poller.step(0, 0);
        poller.poll(&mut step).await;
        let figures = lock(&poller.checker).figures();
        assert_eq!((figures.polls, figures.errors), (0, 1));
        assert_eq!(figures.last_error.unwrap(), "status 401 Unauthorized");
    }

    #[tokio::test]
    async fn a_slow_poller_continues_with_the_newest_step() {
        let sandbox = sandbox().await;
        let mut poller = poller(&sandbox, &[]);
        let first = poller.step(1, 0);
        assert_eq!(poller.next_step(&first).number, 1);
        poller.finished[1].store(5, Ordering::Relaxed);
        assert_eq!(poller.next_step(&first).number, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn stopped_pollers_leave_no_task_running() {
        let nowhere = ([127, 0, 0, 1], 1).into();
        let figures = Pollers::start(nowhere, 6, &[]).stop().await;
        assert_eq!((figures.polls, figures.errors), (0, 0));
    }

    #[test]
    fn a_team_polls_one_step_and_its_auditor_asks_for_content() {
        let [worker, dashboard, auditor] = ROLES.map(|role| step(role).path());
        assert_eq!(worker, dashboard);
        assert!(auditor.starts_with(&format!("{worker}?include[]=")));
    }

    #[test]
    fn a_final_step_is_reread_as_often_as_the_role_says() {
        let mut step = step(WORKER);
        for _ in 0..10 {
            let live = body(&step, Status::InProgress);
            assert_eq!(step.read(&live), Some(Status::InProgress));
        }
        let expired = body(&step, Status::Expired);
        let mut reads = 0;
        while !step.is_finished() {
            assert_eq!(step.read(&expired), Some(Status::Expired));
            reads += 1;
        }
        assert_eq!(reads, 1 + WORKER.rereads);
    }

    #[test]
    fn a_body_that_differs_in_one_byte_is_refused() {
        let mut step = step(WORKER);
        let failed = body(&step, Status::Failed);
        let other_team = PolledStep::new(8, WORKER, 1, 4, Instant::now());
        let mut altered = failed.to_vec();
        let digit = altered.iter().rposition(u8::is_ascii_digit).unwrap();
        altered[digit] ^= 1;
        for wrong in [
            altered.into(),
            body(&other_team, Status::Failed),
            failed.slice(1..),
            Bytes::from([&failed[..], b"\n"].concat()),
            Bytes::from_static(b"{}"),
        ] {
            assert_eq!(step.read(&wrong), None);
        }
        assert!(step.rereads_left.is_none());
    }
}
