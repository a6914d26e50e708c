//! One row: a gateway made ready for its work, and who asks it for what.

use crate::Fallible;
use crate::contender::{Contender, Kind, Stage};
use crate::line::ask_all;
use crate::process::LOAD;
use crate::steps::{SMALL, done, forward, keep, live};
use crate::upstream::Upstream;
use crate::wrk::{Others, Wrk};

/// How far away a step that is polled is, in milliseconds: as an upstream in the same region.
pub(super) const AWAY: u32 = 20;

/// What the callers ask for.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// One stored step of so many bytes.
    Hits(usize),
    /// One of so many stored steps, another one each time.
    Drawn(u32),
    /// One live step.
    Polls,
}

pub(super) struct Row {
    pub(super) callers: u32,
    pub(super) work: Work,
    pub(super) stepgate: Contender,
}

impl Row {
    pub(super) fn start(
        callers: u32,
        work: Work,
        stage: &Stage,
        upstream: &Upstream,
    ) -> Fallible<Self> {
        let stepgate = Contender::start(Kind::Stepgate(1), stage, upstream)?;
        match work {
            Work::Hits(size) => keep(&stepgate, upstream, &done(size, "1"))?,
            Work::Drawn(count) => {
                ask_all(stepgate.address, &done(SMALL, ""), count)?;
                let entries = stepgate.counted("stepgate_cache_entries")?;
                if entries != u64::from(count) {
                    return Err(format!("of {count} entries {entries} are stored").into());
                }
                keep(&stepgate, upstream, &done(SMALL, "1"))?;
            }
            Work::Polls => forward(&stepgate, upstream, &live(SMALL, AWAY, "0"))?,
        }
        Ok(Self {
            callers,
            work,
            stepgate,
        })
    }

    /// The load of one round.
    pub(super) fn load(&self, round: u32, seconds: u32) -> Wrk {
        let (path, others) = match self.work {
            Work::Hits(size) => (done(size, "1"), None),
            Work::Polls => (live(SMALL, AWAY, &round.to_string()), None),
            Work::Drawn(count) => {
                let others = Others {
                    prefix: done(SMALL, ""),
                    drawn: Some((count, round)),
                };
                (String::new(), Some(others))
            }
        };
        Wrk {
            connections: self.callers,
            seconds,
            place: LOAD,
            url: self.stepgate.url(&path),
            others,
        }
    }

    /// Whether so many fetches for so many answers are right.
    pub(super) fn is_right(&self, fetches: u64, answers: u64) -> bool {
        match self.work {
            Work::Hits(_) | Work::Drawn(_) => fetches == 0,
            Work::Polls => fetches > 0 && answers > 0,
        }
    }
}
