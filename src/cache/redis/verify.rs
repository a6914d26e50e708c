//! Doubts: steps that a fresh answer found live or gone, of which the tier may have a body.
//!
//! Who finds that out need not know of any: another gateway may have written it, or another variant.
//! So the tier is asked, behind, whether it has anything of that step, and only then is the step purged:
//! fresh answers about live steps must not become a stream of purges. While the tier rests, doubts wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::log::{Forget, Mark};
use super::{Purged, SharedTier, lock, scripts};
use crate::policy::PrimaryKey;
use crate::policy::key::rule_and_ids;

/// Doubts at once: some hundred KiB. A further step is purged without being asked for.
const MOST: usize = 4096;

/// Questions on their way at once.
const ABREAST: usize = 32;

/// Steps in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Whether each is being settled.
    steps: Mutex<HashMap<PrimaryKey, bool>>,
    /// There are some, or the tier may be asked again.
    pub(super) call: Notify,
}

impl Doubts {
    /// Whether there was room; a step that is in doubt already takes none. One that is being settled is
    /// to be settled once more.
    fn add(&self, step: &PrimaryKey) -> bool {
        let mut steps = lock(&self.steps);
        let has_room = steps.len() < MOST || steps.contains_key(step);
        if has_room {
            steps.insert(step.clone(), false);
        }
        has_room
    }

    /// Whether nothing is to be believed of a step that the tier has.
    pub(super) fn has(&self, step: &PrimaryKey) -> bool {
        lock(&self.steps).contains_key(step)
    }

    /// Those to be settled; until they are, they stay in doubt.
    fn take(&self) -> Vec<PrimaryKey> {
        let mut steps = lock(&self.steps);
        let waiting = steps.iter_mut().filter(|(_, is_taken)| !**is_taken);
        let taken = waiting.map(|(step, is_taken)| {
            *is_taken = true;
            step.clone()
        });
        taken.collect()
    }

    fn settled(&self, step: &PrimaryKey) {
        let mut steps = lock(&self.steps);
        if steps.get(step) == Some(&true) {
            steps.remove(step);
        }
    }
}

impl SharedTier {
    /// A fresh answer found this step live or gone: whatever the tier has of it is purged, soon. Returns
    /// whether it was purged at once.
    pub(in crate::cache) fn doubt(&self, step: &PrimaryKey) -> bool {
        let has_room = self.doubts.add(step);
        if has_room {
            self.doubts.call.notify_one();
        } else {
            self.purge_step(step);
        }
        !has_room
    }

    /// Purges all variants of a step, in all partitions.
    pub(in crate::cache) fn purge_step(&self, step: &PrimaryKey) {
        if let Some((rule, ids)) = path(step).split_first() {
            // The fleet learns of it when it does: nobody waits for that.
            drop(self.purge(rule, ids));
        }
    }

    /// Settles doubts for ever. `forget` is the keeper's.
    pub(super) async fn settle_doubts<F>(self: &Arc<Self>, forget: F)
    where
        F: Fn(Purged) + Clone + Send + 'static,
    {
        let mut under_way = JoinSet::new();
        loop {
            self.doubts.call.notified().await;
            if self.in_use().is_none() {
                // The keeper calls again.
                continue;
            }
            for step in self.doubts.take() {
                if under_way.len() >= ABREAST {
                    under_way.join_next().await;
                }
                let (tier, forget) = (Arc::clone(self), forget.clone());
                under_way.spawn(async move { tier.settle(&step, forget).await });
            }
            while under_way.join_next().await.is_some() {}
        }
    }

    /// If it cannot be settled now, it stays a doubt until the keeper calls again.
    async fn settle<F>(&self, step: &PrimaryKey, forget: F)
    where
        F: FnOnce(Purged) + Send + 'static,
    {
        let Some(up) = self.in_use() else {
            self.doubts.add(step);
            return;
        };
        let thread = self.thread(&up.view, step);
        if self.parts.rests(thread.as_bytes()) {
            self.doubts.add(step);
            return;
        }
        let command = scripts::has(thread.as_bytes(), &self.names.step(step));
        match up.link.ask::<bool>(&command).await {
            Ok(false) => {}
            Err(trouble) if trouble.is_the_servers() => {
                self.failed(thread.as_bytes(), &trouble);
                self.doubts.add(step);
            }
            // Something that is no hash goes, too.
            Ok(true) | Err(_) => {
                // Nothing is read from the tier from here on until the fleet knows; what was read of it
                // before is forgotten.
                self.purge_step(step);
                if let Some((rule, ids)) = path(step).split_first() {
                    let mark = Mark::of(&self.names, *rule, ids);
                    // It fails only where the gateway ends.
                    let _ = self.forget(Forget::Marked(vec![mark]), forget).await;
                }
            }
        }
        self.doubts.settled(step);
    }
}

/// Rule and ids: text, as they came in a path.
fn path(step: &PrimaryKey) -> SmallVec<[&str; 4]> {
    let parts = rule_and_ids(step.as_ref()).map(std::str::from_utf8);
    parts.collect::<Result<_, _>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CacheKey, Partition};

    #[test]
    fn a_step_is_in_doubt_until_it_is_settled_as_often_as_it_was_doubted() {
        let step = CacheKey::new(Partition::of(["p"]), "rule", &["thread"], "").primary;
        let doubts = Doubts::default();
        assert!(doubts.take().is_empty() && !doubts.has(&step));
        assert!(doubts.add(&step) && doubts.add(&step));
        assert_eq!(doubts.take().len(), 1);
        assert!(doubts.has(&step), "nothing is known of it yet");
        assert!(doubts.take().is_empty(), "it is being settled");
        // CacheHit live once more meanwhile.
        doubts.add(&step);
        doubts.settled(&step);
        assert!(doubts.has(&step));
        assert_eq!(doubts.take().len(), 1);
        doubts.settled(&step);
        assert!(!doubts.has(&step));
    }
}
