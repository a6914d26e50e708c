//! A time taken out of the middle of a load: what it takes to open ten thousand connections is not in
//! it. The gateway's own counters say how much was answered meanwhile.

use std::time::Duration;

use super::row::Row;
use crate::Fallible;
use crate::clock::{now, pause};
use crate::report::{Series, as_figure, mebibytes};
use crate::upstream::Upstream;

/// All of a load's connections are open sooner.
const OPENING: u32 = 20;

/// From then on until time is taken.
const SETTLING: Duration = Duration::from_millis(500);

const ANSWERS: &str = "stepgate_requests_total";

/// One of each in every round.
#[derive(Default)]
pub(super) struct Figures {
    /// Processor time per request, in microseconds.
    pub(super) cpu: Series,
    /// A second.
    pub(super) requests: Series,
    /// A second.
    pub(super) fetches: Series,
    /// MiB.
    pub(super) resident: Series,
}

impl Figures {
    pub(super) fn take(
        &mut self,
        row: &Row,
        upstream: &Upstream,
        round: u32,
        seconds: u32,
    ) -> Fallible<()> {
        let stepgate = &row.stepgate;
        // It is stopped before its time.
        let load = row.load(round, 2 * OPENING + seconds).start()?;
        let begun = now();
        while stepgate.counted("stepgate_connections")? < u64::from(row.callers) {
            if begun.elapsed() > Duration::from_secs(u64::from(OPENING)) {
                return Err(format!("not all of {} connections are open", row.callers).into());
            }
            pause(SETTLING / 10);
        }
        pause(SETTLING);
        let asked = upstream.asked()?;
        let answered = stepgate.counted(ANSWERS)?;
        let (used, begun) = (stepgate.used(), now());
        pause(Duration::from_secs(u64::from(seconds)));
        let (length, used) = (begun.elapsed(), stepgate.used().since(&used));
        let answered = stepgate.counted(ANSWERS)? - answered;
        let fetches = upstream.asked()? - asked;
        let resident = stepgate.resident();
        load.stop()?;
        if !row.is_right(fetches, answered) {
            let why = format!("{fetches} fetches for {answered} answers");
            return Err(why.into());
        }
        let answered = as_figure(answered);
        self.cpu.push(used.as_secs_f64() * 1e6 / answered);
        self.requests.push(answered / length.as_secs_f64());
        self.fetches.push(as_figure(fetches) / length.as_secs_f64());
        self.resident.push(mebibytes(resident));
        Ok(())
    }
}
