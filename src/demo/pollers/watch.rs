//! A step, as one service looks at it: from its first poll until it has read enough.

use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;

use crate::demo::sandbox::{Sandbox, Status};
use crate::demo::seeded_rng::SeededRng;

/// Three services look at each step.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// Waits for the step, to go on with its result.
    Worker,
    /// Shows the step to somebody, and goes on refreshing.
    Dashboard,
    /// Checks what was found, with the content.
    Auditor,
}

impl Role {
    /// The roles take turns.
    pub(super) fn of(index: usize) -> Self {
        match index % 3 {
            0 => Self::Worker,
            1 => Self::Dashboard,
            2.. => Self::Auditor,
        }
    }

    /// How often it reads a step again that it has seen final.
    pub(super) fn rereads(self) -> u32 {
        match self {
            Self::Worker => 3,
            Self::Auditor => 6,
            Self::Dashboard => 12,
        }
    }

    /// Whether it wants the content of what a file search found.
    fn include(self) -> bool {
        match self {
            Self::Auditor => true,
            Self::Worker | Self::Dashboard => false,
        }
    }
}

/// A step that a poller looks at.
pub(super) struct Watch {
    role: Role,
    /// Where on the desk.
    pub(super) place: usize,
    /// How many steps there were in that place before it.
    pub(super) turn: u64,
    thread: String,
    run: String,
    pub(super) step: String,
    /// When it is polled next.
    pub(super) due: Instant,
    /// None while it is live.
    rereads: Option<u32>,
}

impl Watch {
    /// A team's services come to the same step, for they name it alike.
    pub(super) fn new(team: usize, role: Role, place: usize, turn: u64, due: Instant) -> Self {
        let team = team.to_string();
        let mut dice = SeededRng::of(&["step", &team, &place.to_string(), &turn.to_string()]);
        Self {
            role,
            place,
            turn,
            thread: SeededRng::of(&["thread", &team]).id("thread_"),
            run: dice.id("run_"),
            step: dice.id("step_"),
            due,
            rereads: None,
        }
    }

    /// What is asked for.
    pub(super) fn path(&self) -> String {
        let query = match self.role.include() {
            true => "?include[]=step_details.tool_calls[*].file_search.results[*].content",
            false => "",
        };
        let (thread, run, step) = (&self.thread, &self.run, &self.step);
        format!("/v1/threads/{thread}/runs/{run}/steps/{step}{query}")
    }

    /// What a body says, if it is the upstream's body for that, byte for byte.
    pub(super) fn read(&mut self, body: &Bytes) -> Option<Status> {
        #[derive(Deserialize)]
        struct Says<'a> {
            status: &'a str,
        }
        let says: Says<'_> = serde_json::from_slice(body).ok()?;
        let status = Status::ALL
            .into_iter()
            .find(|status| status.as_str() == says.status)?;
        let (thread, run, step) = (&self.thread, &self.run, &self.step);
        let right = Sandbox::body_as(thread, run, step, status, self.role.include());
        if right != *body {
            return None;
        }
        self.rereads = match self.rereads {
            Some(left) => Some(left.saturating_sub(1)),
            None => status.is_final().then(|| self.role.rereads()),
        };
        Some(status)
    }

    /// Whether the step is final and was read often enough.
    pub(super) fn is_over(&self) -> bool {
        self.rereads == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(index: usize) -> Watch {
        Watch::new(7, Role::of(index), 1, 4, Instant::now())
    }

    fn body(watch: &Watch, status: Status) -> Bytes {
        let include = watch.role.include();
        Sandbox::body_as(&watch.thread, &watch.run, &watch.step, status, include)
    }

    #[test]
    fn a_team_looks_at_one_step_and_its_auditor_asks_for_content() {
        let [worker, dashboard, auditor] = [0, 1, 2].map(|index| watch(index).path());
        assert_eq!(worker, dashboard);
        assert!(auditor.starts_with(&format!("{worker}?include[]=")));
    }

    #[test]
    fn a_step_is_read_a_few_times_more_once_it_is_final() {
        let mut watch = watch(0);
        for _ in 0..10 {
            let live = body(&watch, Status::InProgress);
            assert_eq!(watch.read(&live), Some(Status::InProgress));
        }
        let ended = body(&watch, Status::Expired);
        let mut reads = 0;
        while !watch.is_over() {
            assert_eq!(watch.read(&ended), Some(Status::Expired));
            reads += 1;
        }
        assert_eq!(reads, 1 + Role::Worker.rereads());
    }

    #[test]
    fn only_the_upstreams_own_bytes_say_anything() {
        let mut watch = watch(0);
        let foreign = body(
            &Watch::new(8, Role::Worker, 1, 4, Instant::now()),
            Status::Failed,
        );
        let shortened = body(&watch, Status::Failed).slice(1..);
        let spaced = Bytes::from([&body(&watch, Status::Failed)[..], b"\n"].concat());
        let mut touched = body(&watch, Status::Failed).to_vec();
        let digit = touched.iter().rposition(u8::is_ascii_digit).unwrap();
        touched[digit] ^= 1;
        for wrong in [
            touched.into(),
            foreign,
            shortened,
            spaced,
            Bytes::from_static(b"{}"),
        ] {
            assert_eq!(watch.read(&wrong), None);
        }
        assert!(watch.rereads.is_none());
    }
}
