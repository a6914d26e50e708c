//! Callers that must be refused: with the right status, or a goodbye, in time.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::caller::Line;
use crate::ledger::{Case, Verdict, shows_secret};
use crate::world::{LIMIT, World};

/// `bytes` are answered with one of these statuses, or with a goodbye, in time, and nothing goes up.
pub(crate) async fn is_refused(world: &World, case: &Case, bytes: &[u8], statuses: &[&str]) {
    let fetches = world.origin.shared.fetches.load(Relaxed);
    let Ok(mut line) = Line::connect(world.gateway.data).await else {
        let why = Verdict::Lost("no connection".to_owned());
        return world.note(case, &why, b"");
    };
    // The gateway may hang up before it has read all.
    let _ = line.write(bytes).await;
    let verdict = match line.rest(LIMIT).await {
        None => (Verdict::Lost("not ended in time".to_owned()), Vec::new()),
        Some(said) => (refusal(&said, statuses), said),
    };
    world.note(case, &verdict.0, &verdict.1);
    if world.origin.shared.fetches.load(Relaxed) != fetches {
        let why = "it went up".to_owned();
        world.note(case, &Verdict::Wrong(why), bytes);
    }
}

fn refusal(said: &[u8], statuses: &[&str]) -> Verdict {
    if shows_secret(said) {
        return Verdict::Leaked("a secret in a refusal".to_owned());
    }
    let allowed = statuses.iter().any(|status| {
        let line = format!("HTTP/1.1 {status}");
        said.starts_with(line.as_bytes())
    });
    // An HTTP/2 goodbye begins with SETTINGS (type 4).
    let http2 = said.get(3) == Some(&4);
    let strict = statuses.len() == 1;
    if allowed || (!strict && (said.is_empty() || http2)) {
        Verdict::Error
    } else {
        Verdict::Wrong("not refused as it should be".to_owned())
    }
}

/// `head` comes a byte at a time, and is not waited for to its end.
pub(crate) async fn drip_a_head(world: &World, case: &Case, head: &[u8]) {
    let started = Instant::now();
    let Ok(mut line) = Line::connect(world.gateway.data).await else {
        return;
    };
    for byte in head {
        if line.write(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(40)).await;
        if started.elapsed() > LIMIT {
            break;
        }
    }
    let verdict = match line.rest(LIMIT).await {
        Some(said) => refusal(&said, &["400 ", "408 "]),
        None => Verdict::Lost("not ended in time".to_owned()),
    };
    world.note(case, &verdict, b"");
}
