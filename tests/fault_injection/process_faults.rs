//! What befalls the gateway and what surrounds it.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::caller::{Got, Manner};
use crate::dice::Dice;
use crate::kind::{Deed, Harm, RIGHT};
use crate::ledger::{Case, Verdict, say};
use crate::origin::script::whole;
use crate::origin::{Door, Material, Move};
use crate::reloads;
use crate::step::Step;
use crate::world::{ACCOUNT, LIMIT, MAX_CONNECTIONS, World};

/// Time enough for something else to happen meanwhile.
const MOMENT: Duration = Duration::from_millis(100);

fn slow(m: &Material) -> Vec<Move> {
    vec![
        Move::Pause(MOMENT),
        Move::Send(whole("200 OK", &[], &m.good)),
    ]
}

pub(crate) async fn befall(
    deed: Deed,
    world: &World,
    case: &Case,
    dice: &mut Dice,
    (step, other): (&Step, &Step),
) {
    let manner = if dice.one_in(3) {
        Manner::Http2
    } else {
        Manner::Http1
    };
    match deed {
        Deed::Stopped => {
            if !world.gateway.signal("STOP").await {
                say("the rig cannot stop its gateway");
            }
            let goes_on = async {
                sleep(MOMENT).await;
                world.gateway.signal("CONT").await
            };
            tokio::join!(is_right(world, case, manner, step), goes_on);
        }
        Deed::UpstreamRestarts => {
            for door in [Door::Refused, Door::Open] {
                if let Err(error) = world.origin.set_door(door).await {
                    say(&format!("the rig cannot set {door:?}: {error}"));
                }
            }
            is_right(world, case, manner, step).await;
        }
        Deed::PoolCut => {
            world.origin.cut();
            is_right(world, case, manner, step).await;
        }
        Deed::Purged => {
            for _ in 0..dice.below(6) {
                is_right(world, case, manner, step).await;
            }
            purge(world, case, step).await;
            is_fetched(world, case, step).await;
        }
        Deed::PurgedInFlight => {
            world.origin.plan(step, Harm::Answer(slow));
            let purged = async {
                is_under_way(world, step).await;
                purge(world, case, step).await;
            };
            tokio::join!(is_right(world, case, manner, step), purged);
            world.origin.unplan(step);
            is_fetched(world, case, step).await;
        }
        Deed::Scraped => {
            let scrapes = async {
                for _ in 0..4 {
                    let (a, b) = (
                        world.gateway.admin("GET", "/metrics"),
                        world.gateway.status(),
                    );
                    let (c, d) = (
                        world.gateway.admin("GET", "/metrics"),
                        world.gateway.status(),
                    );
                    tokio::join!(a, b, c, d);
                }
            };
            tokio::join!(is_right(world, case, manner, step), scrapes);
        }
        Deed::SlowScrape => {
            let mut scrape = TcpStream::connect(world.gateway.admin).await;
            if let Ok(scrape) = &mut scrape {
                let _ = scrape
                    .write_all(b"GET /metrics HTTP/1.1\r\nhost: loc")
                    .await;
            }
            is_right(world, case, manner, step).await;
            is_right(world, case, manner, other).await;
            drop(scrape);
        }
        Deed::Flooded => flood(world, case, manner, step).await,
        Deed::Reloaded
        | Deed::ReloadBroken
        | Deed::ReloadVanished
        | Deed::ReloadElsewhere
        | Deed::SecretSwapped
        | Deed::SecretEmptied
        | Deed::SecretVanished => reloads::befall(deed, world, case, (step, other)).await,
    }
}

pub(crate) async fn is_right(world: &World, case: &Case, manner: Manner, step: &Step) {
    let asked = world.asked(step);
    let got = world.ask(manner, step).await;
    let verdict = asked.judge(&got, RIGHT, &[]);
    world.note(case, &verdict, got.raw());
}

/// Right, and by a fetch: what was stored is gone.
async fn is_fetched(world: &World, case: &Case, step: &Step) {
    let fetches = || world.origin.shared.shelf.now(ACCOUNT, step).fetches;
    let before = fetches();
    is_right(world, case, Manner::Http1, step).await;
    if fetches() == before {
        let why = "answered from before a purge".to_owned();
        world.note(case, &Verdict::Wrong(why), b"");
    }
}

async fn is_under_way(world: &World, step: &Step) {
    let patience = Instant::now() + LIMIT;
    let fetches = || world.origin.shared.shelf.now(ACCOUNT, step).fetches;
    while fetches() == 0 && Instant::now() < patience {
        sleep(Duration::from_millis(2)).await;
    }
}

async fn purge(world: &World, case: &Case, step: &Step) {
    let Step { thread, run, .. } = step;
    let id = step.id.as_deref().unwrap_or_default();
    let path = format!("/cache/run-step/{thread}/{run}/{id}");
    let got = world.gateway.admin("DELETE", &path).await;
    let fine = matches!(&got, Got::Whole(answer) if answer.status == 200);
    if !fine {
        let why = "a purge was not answered".to_owned();
        world.note(case, &Verdict::Lost(why), got.raw());
    }
}

/// As many silent connections as the gateway takes: who comes then waits until they have run out of
/// patience, and no longer.
async fn flood(world: &World, case: &Case, manner: Manner, step: &Step) {
    let mut connects = JoinSet::new();
    for _ in 0..MAX_CONNECTIONS + 8 {
        connects.spawn(timeout(LIMIT, TcpStream::connect(world.gateway.data)));
    }
    let mut silent = Vec::new();
    while let Some(connected) = connects.join_next().await {
        if let Ok(Ok(Ok(stream))) = connected {
            silent.push(stream);
        }
    }
    is_right(world, case, manner, step).await;
    drop(silent);
}
