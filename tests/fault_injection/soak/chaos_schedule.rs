//! What befalls a soak: faults by chance, outages and reloads by the clock; and who was touched.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::redis::{Redis, Trouble};
use super::{FIRST_KEY, health};
use crate::dice::Dice;
use crate::kind::{Harm, Kind, Wire};
use crate::kinds::life::UNASKED;
use crate::ledger::{Case, say};
use crate::origin::{Chance, Door};
use crate::reloads::{self, Reload};
use crate::world::World;

/// Of so many fetches, one is harmed.
const ONE_IN: usize = 150;

/// An outage lasts this part of the time between two, and at most [`LONGEST`].
const OUTAGE: u32 = 12;
const LONGEST: Duration = Duration::from_millis(1500);

/// In a round there is one outage, a good and a broken reload, and a new secret.
const ROUND: Duration = Duration::from_secs(20);

/// The log of a soak's weather.
#[derive(Debug)]
pub(crate) struct Weather {
    began: Instant,
    calm: [Range<Duration>; 2],
    round: Duration,
    outages: Mutex<Vec<(Instant, Option<Instant>)>>,
    reloads: AtomicU64,
    keys: AtomicU64,
    troubles: AtomicU64,
}

/// The harm of the fetch with this number.
pub(super) fn chance(seed: u64) -> Chance {
    let mut kinds = Kind::all();
    kinds.retain(|kind| {
        kind.wire == Wire::Plain
            && matches!(kind.harm, Harm::Answer(_))
            && !UNASKED.contains(&kind.word)
    });
    Box::new(move |step, fetch| {
        let mut dice = Dice::of(seed, &["weather", &fetch.to_string()]);
        // A list has no id to lie about.
        (step.id.is_some() && dice.one_in(ONE_IN)).then(|| kinds[dice.below(kinds.len())])
    })
}

impl Weather {
    pub(super) fn new(duration: Duration) -> Self {
        Self {
            began: Instant::now(),
            calm: health::calm(duration),
            round: ROUND.min(duration / 2),
            outages: Mutex::default(),
            reloads: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            troubles: AtomicU64::new(0),
        }
    }

    /// What befalls Redis meanwhile, twice a round: it touches no request.
    pub(super) async fn blow_on(&self, redis: &Redis) {
        let troubles = [Trouble::Stopped, Trouble::Killed, Trouble::Paused];
        for trouble in troubles.into_iter().cycle() {
            self.outlast_calm().await;
            sleep(self.round / 4).await;
            redis.befall(trouble, self.outage_lasts()).await;
            self.troubles.fetch_add(1, Ordering::Relaxed);
            sleep(self.round / 4).await;
        }
    }

    fn outage_lasts(&self) -> Duration {
        (self.round / OUTAGE).min(LONGEST)
    }

    /// Round after round, until it is dropped; none while it is to be calm.
    pub(super) async fn blow(&self, world: &World, text: &str) {
        let part = self.round / 5;
        for round in 0_usize.. {
            self.outlast_calm().await;
            sleep(part).await;
            self.outage(world, [Door::Refused, Door::Silent, Door::Reset][round % 3])
                .await;
            sleep(part).await;
            let hold = if round.is_multiple_of(2) {
                "160ms"
            } else {
                "150ms"
            };
            self.reload(world, &text.replace("150ms", hold), "success")
                .await;
            sleep(part).await;
            self.reload(world, "[server]\nlisten = nothing", "failure")
                .await;
            self.reload(world, text, "success").await;
            sleep(part).await;
            self.rotate(world).await;
        }
    }

    /// Also of what would begin in the round.
    async fn outlast_calm(&self) {
        for spell in &self.calm {
            let now = self.began.elapsed();
            if spell.start < now + self.round && now < spell.end {
                sleep(spell.end - now).await;
            }
        }
    }

    async fn outage(&self, world: &World, door: Door) {
        self.note_outage(true);
        for (door, pause) in [(door, self.outage_lasts()), (Door::Open, Duration::ZERO)] {
            if let Err(error) = world.origin.set_door(door).await {
                say(&format!("the rig cannot set {door:?}: {error}"));
            }
            sleep(pause).await;
        }
        self.note_outage(false);
    }

    fn note_outage(&self, begins: bool) {
        let mut outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if begins {
            outages.push((now, None));
        } else if let Some((_, end)) = outages.last_mut() {
            *end = Some(now);
        }
    }

    /// Whether an outage touched a request of this time.
    pub(super) fn touched(&self, sent: Instant, answered: Instant) -> bool {
        let outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outages = outages.iter().rev();
        outages.any(|(start, end)| *start <= answered && end.is_none_or(|end| sent <= end))
    }

    /// SIGHUP with this text as configuration, and then `result`.
    async fn reload(&self, world: &World, text: &str, result: &str) {
        let before = reloads::last(world).await;
        if let Err(error) = std::fs::write(world.gateway.file("stepgate.toml"), text) {
            return say(&format!("the rig cannot write a configuration: {error}"));
        }
        world.gateway.signal("HUP").await;
        self.is_reloaded(world, &before, result).await;
    }

    /// Another API key; the old one stays valid for a while.
    async fn rotate(&self, world: &World) {
        let before = reloads::last(world).await;
        let number = self.keys.fetch_add(1, Ordering::Relaxed) + 1;
        let key = FIRST_KEY.replace('0', &number.to_string());
        world.origin.shared.rotate(&key);
        if let Err(error) = std::fs::write(world.gateway.file("api.key"), &key) {
            return say(&format!("the rig cannot write a secret: {error}"));
        }
        self.is_reloaded(world, &before, "success").await;
    }

    async fn is_reloaded(&self, world: &World, before: &Reload, result: &str) {
        let case = Case {
            seed: 0,
            number: self.reloads.load(Ordering::Relaxed),
            kind: "reload".to_owned(),
        };
        reloads::is_noted(world, &case, before, result).await;
        self.reloads.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines of a table.
    pub(super) fn report(&self) -> String {
        let outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys.load(Ordering::Relaxed);
        let reloads = self.reloads.load(Ordering::Relaxed).saturating_sub(keys);
        format!(
            "| outages of the upstream, of Redis | {}, {} |\n\
             | reloads, rotated secrets | {reloads}, {keys} |\n",
            outages.len(),
            self.troubles.load(Ordering::Relaxed),
        )
    }
}
