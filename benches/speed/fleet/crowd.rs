//! Pollers of steps that end, through all gateways of a fleet.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::caller::{Caller, Tally, run};
use crate::Fallible;
use crate::contender::Contender;
use crate::origin::Step;
use crate::steps::SMALL;

pub(super) const STEPS: u32 = 200;

/// How far away the upstream is, in milliseconds: as one in the same region.
pub(super) const AWAY: u32 = 20;

/// How long a step is live from its first poll, in milliseconds.
pub(super) const LIFE: u32 = 1000;

/// Between an answer and the next poll, in milliseconds: anywhere in here.
pub(super) const PACE: std::ops::Range<u64> = 100..250;

/// Until what one gateway has stored is written for the others.
const WRITTEN: Duration = Duration::from_millis(50);

/// Who polls when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowd {
    /// Every gateway's poller from a step's beginning.
    Together,
    /// One gateway's poller; when it has done, one through each of the others.
    Later,
}

struct Polled {
    path: String,
    live: String,
    done: String,
    /// Somebody was told that it is final.
    has_ended: Cell<bool>,
}

impl Polled {
    fn new(word: &str, number: u32) -> Self {
        let path = format!(
            "/v1/threads/thread_{word}_{number}/runs/run_1/steps/ends-{SMALL}-{AWAY}-{LIFE}-{number}"
        );
        let body = |is_final| Step::of_path(&path).map(|step| step.body(is_final));
        let (live, done) = (body(false), body(true));
        Self {
            live: live.unwrap_or_default(),
            done: done.unwrap_or_default(),
            path,
            has_ended: Cell::new(false),
        }
    }

    /// Polls until it is final and then twice more.
    async fn poll(&self, caller: &Caller, tally: &RefCell<Tally>, seed: u64) -> io::Result<()> {
        let mut left = 3;
        for turn in 0.. {
            // Whoever asks from now on must not be told that it is live.
            let has_ended = self.has_ended.get();
            let told = caller.ask(&self.path).await?;
            let is_final = told.body == self.done.as_bytes();
            let is_live = !has_ended && told.body == self.live.as_bytes();
            let is_right = told.status == 200 && (is_final || is_live);
            tally.borrow_mut().count(&told, is_right);
            if is_final {
                self.has_ended.set(true);
                left -= 1;
            }
            if left == 0 {
                break;
            }
            sleep(drawn(seed + turn, PACE)).await;
        }
        Ok(())
    }
}

/// All steps, beginning one after the other over `span`. `word` makes them others than before.
pub(super) fn poll_all(
    gateways: &[Contender],
    crowd: Crowd,
    word: &str,
    span: Duration,
) -> Fallible<Tally> {
    let callers: Vec<_> = gateways
        .iter()
        .map(|gateway| Rc::new(Caller::of(gateway.address)))
        .collect();
    let tally = Rc::<RefCell<Tally>>::default();
    let result = Rc::clone(&tally);
    run(async move {
        let mut steps = JoinSet::new();
        for number in 0..STEPS {
            let step = Rc::new(Polled::new(word, number));
            let (mut callers, tally) = (callers.clone(), Rc::clone(&tally));
            steps.spawn_local(async move {
                sleep(span * number / STEPS).await;
                let seed = u64::from(number) << 32;
                if crowd == Crowd::Later {
                    let first = callers.remove(number as usize % callers.len());
                    step.poll(&first, &tally, seed).await?;
                    sleep(WRITTEN).await;
                }
                let mut pollers = JoinSet::new();
                for (seed, caller) in (seed + (1 << 16)..).step_by(1 << 16).zip(callers) {
                    let (step, tally) = (Rc::clone(&step), Rc::clone(&tally));
                    pollers.spawn_local(async move {
                        sleep(drawn(seed, 0..PACE.end)).await;
                        step.poll(&caller, &tally, seed + 1).await
                    });
                }
                while let Some(ended) = pollers.join_next().await {
                    ended.map_err(io::Error::other)??;
                }
                io::Result::Ok(())
            });
        }
        while let Some(ended) = steps.join_next().await {
            ended??;
        }
        Ok(())
    })?;
    Ok(result.take())
}

/// The same for the same seed, so that every run polls alike.
fn drawn(seed: u64, range: std::ops::Range<u64>) -> Duration {
    // The mixer of splitmix64.
    let mut mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    Duration::from_millis(range.start + mixed % (range.end - range.start))
}
