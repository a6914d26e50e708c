//! Harm that is planned for a step, or comes by chance, and what became of it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Origin, Shared, lock};
use crate::caller::{Answer, Read};
use crate::kind::{Expect, Harm};
use crate::step::Step;

/// The harm that is planned for a step, or has struck it.
#[derive(Default)]
pub(crate) struct Plan {
    harm: Option<Harm>,
    /// What its callers may see.
    pub(crate) expect: Expect,
    /// When it struck first.
    pub(crate) since: Option<Instant>,
    /// How often it struck.
    pub(crate) struck: u64,
    /// How often all of it was done.
    done: u64,
    /// The whole answers that were given, to compare.
    pub(crate) told: Vec<Answer>,
}

impl Origin {
    pub(crate) fn plan(&self, step: &Step, harm: Harm) {
        let plan = Plan {
            harm: Some(harm),
            ..Plan::default()
        };
        lock(&self.shared.plans).insert(step.clone(), plan);
    }

    /// Waits until the harm has run its course wherever it struck.
    pub(crate) async fn is_done(&self, step: &Step, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            let done = |plan: &Plan| plan.done == plan.struck;
            if lock(&self.shared.plans).get(step).is_none_or(done) {
                return true;
            }
            sleep(Duration::from_millis(3)).await;
        }
        false
    }

    /// What has struck `step` by chance between these moments, and what it told.
    pub(crate) fn struck(&self, step: &Step, from: Instant) -> Option<(Expect, Vec<Answer>)> {
        let plans = lock(&self.shared.plans);
        let plan = plans.get(step)?;
        let since = plan.since.filter(|since| *since >= from);
        since.map(|_| (plan.expect, plan.told.clone()))
    }

    /// Forgets all about a step that nobody asks for any more.
    pub(crate) fn forget(&self, step: &Step) {
        self.shared.shelf.forget(step);
        lock(&self.shared.plans).remove(step);
    }

    /// Ends the harm, and says what it did.
    pub(crate) fn unplan(&self, step: &Step) -> Plan {
        lock(&self.shared.plans).remove(step).unwrap_or_default()
    }
}

impl Shared {
    /// The harm for this fetch, if there is one; `reused`: the connection was.
    pub(super) fn harm(&self, step: &Step, reused: bool) -> Option<Harm> {
        let fetch = self.fetches.fetch_add(1, Ordering::Relaxed);
        let mut plans = lock(&self.plans);
        let Some(plan) = plans.get_mut(step) else {
            let kind = self
                .chance
                .as_ref()
                .and_then(|chance| chance(step, fetch))?;
            let struck = Plan {
                expect: kind.expect,
                since: Some(Instant::now()),
                struck: 1,
                ..Plan::default()
            };
            plans.insert(step.clone(), struck);
            return Some(kind.harm);
        };
        let once = match plan.harm? {
            Harm::Reused(_) => true,
            Harm::Stream(stream) => stream.strikes_once(),
            Harm::Door(_) | Harm::Answer(_) | Harm::Caller(_) | Harm::Deed(_) => false,
        };
        if once && !reused {
            return None;
        }
        plan.struck += 1;
        plan.since.get_or_insert_with(Instant::now);
        if once { plan.harm.take() } else { plan.harm }
    }

    /// All of a harm is done, or its connection is gone.
    pub(super) fn done(&self, step: &Step) {
        if let Some(plan) = lock(&self.plans).get_mut(step) {
            plan.done += 1;
        }
    }

    /// Remembers a whole answer that a harm gave.
    pub(super) fn told(&self, step: &Step, bytes: &[u8]) {
        if let Read::Whole(answer, _) = Answer::read(bytes, true, false)
            && let Some(plan) = lock(&self.plans).get_mut(step)
        {
            plan.told.push(answer);
        }
    }
}
