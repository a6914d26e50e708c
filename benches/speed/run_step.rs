//! Names run steps by their paths: the path says what the origin responds.
//!
//! The step's id is `KIND-BYTES-DELAY-…`: `live-790-20-7` is a step in progress of 790 bytes, and the
//! response takes 20 ms. `KIND` is `live`, `done` or `ends`; `ends-790-20-1000-7` is live until
//! 1,000 ms after the first request for it.

use std::time::Duration;

use crate::samples::step_body;

/// Is the size of a message step's body, in bytes. Steps with tool output are larger.
pub(crate) const SMALL: usize = 790;

/// Is the response time of an upstream in the same region, in milliseconds.
pub(crate) const NEARBY: u32 = 20;

/// Returns the path of a step of thread 1. Another `id` is another step.
pub(crate) fn path(id: &str) -> String {
    path_in("thread_1", id)
}

pub(crate) fn path_in(thread: &str, id: &str) -> String {
    format!("/v1/threads/{thread}/runs/run_1/steps/{id}")
}

/// Returns the path of a final step of this size.
pub(crate) fn done(size: usize, word: &str) -> String {
    path(&format!("done-{size}-0-{word}"))
}

/// Returns the path of a step in progress whose response takes so many milliseconds.
pub(crate) fn live(size: usize, delay: u32, word: &str) -> String {
    path(&format!("live-{size}-{delay}-{word}"))
}

/// Holds what a path says of its step.
pub(crate) struct RunStep<'p> {
    ids: [&'p str; 3],
    size: usize,
    pub(crate) delay: Duration,
    /// Is how long the step is live after the first request for it; `None`: for ever.
    pub(crate) lifetime: Option<Duration>,
}

impl<'p> RunStep<'p> {
    pub(crate) fn parse(path: &'p str) -> Option<Self> {
        let mut segments = path.strip_prefix("/v1/threads/")?.split('/');
        let ids = [segments.next()?, segments.nth(1)?, segments.nth(1)?];
        let mut words = ids[2].split('-');
        let kind = words.next()?;
        let size = words.next()?.parse().ok()?;
        let mut milliseconds = || Some(Duration::from_millis(words.next()?.parse().ok()?));
        let delay = milliseconds()?;
        let lifetime = match kind {
            "live" => None,
            "done" => Some(Duration::ZERO),
            "ends" => Some(milliseconds()?),
            _ => return None,
        };
        Some(Self {
            ids,
            size,
            delay,
            lifetime,
        })
    }

    pub(crate) fn body(&self, is_final: bool) -> String {
        let status = if is_final { "completed" } else { "in_progress" };
        step_body(self.ids, status, self.size)
    }
}

/// Returns the body of a step that is live or final for good.
pub(crate) fn body_of(path: &str) -> Option<String> {
    let step = RunStep::parse(path)?;
    Some(step.body(step.lifetime == Some(Duration::ZERO)))
}
