//! Other configurations and other secrets, while it runs.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::caller::Manner;
use crate::kind::{Deed, RIGHT};
use crate::ledger::{Case, Verdict, say};
use crate::process_faults::is_right;
use crate::step::Step;
use crate::verdict::Asked;
use crate::world::{ACCOUNT, KEY, LIMIT, World};

/// `last_reload` of the status.
pub(crate) type Reload = serde_json::Value;

pub(crate) async fn befall(deed: Deed, world: &World, case: &Case, (step, other): (&Step, &Step)) {
    let good = world.configuration();
    match deed {
        Deed::ReloadBroken => {
            reload(
                world,
                case,
                "[upstream]\ntimeout = \"a while\"\n",
                "failure",
            )
            .await;
        }
        Deed::ReloadVanished => {
            let before = last(world).await;
            // What cannot be removed will not be noted as missing.
            let _ = std::fs::remove_file(world.gateway.file("stepgate.toml"));
            world.gateway.signal("HUP").await;
            is_noted(world, case, &before, "failure").await;
        }
        Deed::ReloadElsewhere => {
            if let Err(error) = elsewhere(world, case, step).await {
                say(&format!("the rig has no other host: {error}"));
            }
        }
        Deed::SecretSwapped => {
            let key = format!("canary-api-key-{}-{}", case.seed, case.number);
            world.origin.shared.rotate(&key);
            secret(world, case, &key, "success").await;
            world.origin.shared.expect_newest();
            is_right(world, case, Manner::Http1, other).await;
            world.origin.shared.rotate(KEY);
            secret(world, case, KEY, "success").await;
        }
        Deed::SecretEmptied => secret(world, case, "", "failure").await,
        Deed::SecretVanished => {
            let before = last(world).await;
            let _ = std::fs::remove_file(world.gateway.file("api.key"));
            is_noted(world, case, &before, "failure").await;
        }
        _ => {}
    }
    // As it was, or as it stayed.
    is_right(world, case, Manner::Http1, step).await;
    write(world, "api.key", KEY);
    reload(world, case, &good, "success").await;
    is_right(world, case, Manner::Http2, other).await;
}

/// There and back, with questions all the way: each is answered by one of the hosts, and no key of
/// one reaches the other.
async fn elsewhere(
    world: &World,
    case: &Case,
    step: &Step,
) -> Result<(), Box<dyn std::error::Error>> {
    let (there, text) = world.elsewhere()?;
    there.set_case(case);
    let travel = async {
        reload(world, case, &text, "success").await;
        let asked = Asked::now(&there, ACCOUNT, step);
        let got = world.ask(Manner::Http1, step).await;
        world.note(case, &asked.judge(&got, RIGHT, &[]), got.raw());
        reload(world, case, &world.configuration(), "success").await;
    };
    let questions = async {
        for _ in 0..12 {
            let (here, away) = (world.asked(step), Asked::now(&there, ACCOUNT, step));
            let got = world.ask(Manner::Http1, step).await;
            let verdict = match here.judge(&got, RIGHT, &[]) {
                Verdict::Right => Verdict::Right,
                _ => away.judge(&got, RIGHT, &[]),
            };
            world.note(case, &verdict, got.raw());
        }
    };
    tokio::join!(travel, questions);
    Ok(())
}

/// SIGHUP with this configuration, and then this result.
async fn reload(world: &World, case: &Case, text: &str, result: &str) {
    let before = last(world).await;
    write(world, "stepgate.toml", text);
    world.gateway.signal("HUP").await;
    is_noted(world, case, &before, result).await;
}

/// This content of the secret's file, and then this result.
async fn secret(world: &World, case: &Case, text: &str, result: &str) {
    let before = last(world).await;
    write(world, "api.key", text);
    is_noted(world, case, &before, result).await;
}

fn write(world: &World, name: &str, text: &str) {
    if let Err(error) = std::fs::write(world.gateway.file(name), text) {
        say(&format!("the rig cannot write {name}: {error}"));
    }
}

pub(crate) async fn last(world: &World) -> Reload {
    let status = world.gateway.status().await;
    status.map_or(Reload::Null, |mut status| status["last_reload"].take())
}

/// Waits for a further reload with this result.
pub(crate) async fn is_noted(world: &World, case: &Case, before: &Reload, result: &str) {
    let patience = Instant::now() + LIMIT;
    while Instant::now() < patience {
        let now = last(world).await;
        if now["timestamp_seconds"] != before["timestamp_seconds"] && now["result"] == result {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let why = format!("no {result} of a reload");
    world.note(case, &Verdict::Wrong(why), before.to_string().as_bytes());
}
