//! The faults of the gateway's process and of what surrounds it: signals, purges, scrapes, floods,
//! reloads and secrets.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client_faults::is_under_way;
use crate::fault::{CORRECT, Effect, Fault, Injection, faults};
use crate::fixtures::client::{RawClient, Version};
use crate::fixtures::origin::{Action, Connections, Protocol};
use crate::fixtures::process::FILE;
use crate::judge::{Sent, raw};
use crate::ledger::{Verdict, print};
use crate::step::Step;
use crate::testbed::{ACCOUNT, KEY, KEY_FILE, LIMIT, MAX_CONNECTIONS};
use crate::upstream::Material;
use crate::upstream_faults::whole;

pub(crate) const FAULTS: &[Fault] = faults! { Run:
    "process_stopped_for_a_moment" => stop_for_a_moment;
    "upstream_restarts" => restart_upstream;
    "pool_cut" => cut_pool;
    "purged" => purge_after_some;
    "purged_in_flight" => purge_in_flight;
    "scraped" => scrape;
    "scraped_slowly" => scrape_slowly;
    "flooded_with_connections" => flood;
    "reloaded" => reload;
    "reload_broken" => reload_broken;
    "reload_without_file" => reload_without_file;
    "reload_to_another_host" => reload_to_another_host;
    "secret_rotated" => rotate_secret;
    "secret_emptied" => empty_secret;
    "secret_removed" => remove_secret;
};

/// A time in which something else can happen.
const MOMENT: Duration = Duration::from_millis(100);

fn slow(m: &Material) -> Vec<Action> {
    let response = whole("200 OK", &[], &m.good);
    vec![Action::Pause(MOMENT), Action::Send(response)]
}

impl Injection<'_> {
    /// Sends a GET for the struck step, whose response must be correct.
    async fn expect_correct(&self) {
        let Self {
            testbed,
            case,
            version,
            step,
            ..
        } = self;
        testbed.expect_correct(case, *version, step).await;
    }

    /// Expects a correct response by a fetch, since what was stored is purged.
    async fn expect_fetch(&self) {
        let Self {
            testbed,
            case,
            step,
            ..
        } = self;
        let fetches = || testbed.upstream.fetches(ACCOUNT, step).count;
        let before = fetches();
        testbed.expect_correct(case, Version::Http1, step).await;
        if fetches() == before {
            let wrong = Verdict::Wrong("answered from before a purge".to_owned());
            testbed.note(case, &wrong, b"");
        }
    }

    async fn purge(&self) {
        let Step {
            thread, run, id, ..
        } = self.step;
        let id = id.as_deref().unwrap_or_default();
        let path = format!("/cache/run-step/{thread}/{run}/{id}");
        let outcome = self.testbed.admin("DELETE", &path).await;
        if !outcome
            .as_ref()
            .is_ok_and(|response| response.status == 200)
        {
            let lost = Verdict::Lost("a purge was not answered".to_owned());
            self.testbed.note(self.case, &lost, raw(&outcome));
        }
    }

    /// Expects correct responses whatever a reload has changed, and reloads the configuration of the
    /// start.
    async fn restore(&self) {
        let Self {
            testbed,
            case,
            step,
            other,
            ..
        } = self;
        testbed.expect_correct(case, Version::Http1, step).await;
        testbed.write(KEY_FILE, KEY);
        testbed
            .reload(case, &testbed.configuration(), "success")
            .await;
        testbed.expect_correct(case, Version::Http2, other).await;
    }
}

async fn stop_for_a_moment(injection: &Injection<'_>) {
    let gateway = &injection.testbed.gateway;
    gateway.signal("STOP").await;
    let resumes = async {
        sleep(MOMENT).await;
        gateway.signal("CONT").await;
    };
    tokio::join!(injection.expect_correct(), resumes);
}

async fn restart_upstream(injection: &Injection<'_>) {
    for connections in [Connections::Refuse, Connections::Serve] {
        injection.testbed.set_connections(connections).await;
    }
    injection.expect_correct().await;
}

async fn cut_pool(injection: &Injection<'_>) {
    injection.testbed.upstream.cut();
    injection.expect_correct().await;
}

async fn purge_after_some(injection: &Injection<'_>) {
    for _ in 0..injection.rng().u32(..6) {
        injection.expect_correct().await;
    }
    injection.purge().await;
    injection.expect_fetch().await;
}

async fn purge_in_flight(injection: &Injection<'_>) {
    let Injection { testbed, step, .. } = injection;
    testbed.upstream.plan(step, Effect::Response(slow));
    let purges = async {
        is_under_way(testbed, step).await;
        injection.purge().await;
    };
    tokio::join!(injection.expect_correct(), purges);
    testbed.upstream.unplan(step);
    injection.expect_fetch().await;
}

async fn scrape(injection: &Injection<'_>) {
    let testbed = injection.testbed;
    let scrapes = async {
        for _ in 0..4 {
            let metrics = || testbed.admin("GET", "/metrics");
            let _ = tokio::join!(metrics(), testbed.status(), metrics(), testbed.status());
        }
    };
    tokio::join!(injection.expect_correct(), scrapes);
}

async fn scrape_slowly(injection: &Injection<'_>) {
    let Injection {
        testbed,
        case,
        version,
        other,
        ..
    } = injection;
    let mut scrape = RawClient::try_connect(testbed.gateway.admin).await;
    if let Ok(scrape) = &mut scrape {
        let _ = scrape.try_send("GET /metrics HTTP/1.1\r\nhost: loc").await;
    }
    injection.expect_correct().await;
    testbed.expect_correct(case, *version, other).await;
    drop(scrape);
}

/// Opens more silent connections than the gateway takes. A client that comes then waits until one of
/// them has timed out, and no longer.
async fn flood(injection: &Injection<'_>) {
    let mut connects = JoinSet::new();
    for _ in 0..MAX_CONNECTIONS + 8 {
        let data = injection.testbed.gateway.data;
        connects.spawn(timeout(LIMIT, TcpStream::connect(data)));
    }
    let silent: Vec<_> = connects.join_all().await;
    injection.expect_correct().await;
    drop(silent);
}

async fn reload(injection: &Injection<'_>) {
    injection.restore().await;
}

async fn reload_broken(injection: &Injection<'_>) {
    let Injection { testbed, case, .. } = injection;
    let broken = "[upstream]\ntimeout = \"a while\"\n";
    testbed.reload(case, broken, "failure").await;
    injection.restore().await;
}

async fn reload_without_file(injection: &Injection<'_>) {
    let Injection { testbed, case, .. } = injection;
    let before = testbed.last_reload().await;
    // If the file could not be removed, the reload does not fail.
    let _ = std::fs::remove_file(testbed.gateway.path(FILE));
    testbed.gateway.signal("HUP").await;
    testbed.expect_reload(case, &before, "failure").await;
    injection.restore().await;
}

/// Reloads to another host with other keys and back, with requests all the way. One of both hosts
/// answers each, and no key of one reaches the other.
async fn reload_to_another_host(injection: &Injection<'_>) {
    let Injection {
        testbed,
        case,
        step,
        ..
    } = injection;
    let (there, text) = match testbed.other_host() {
        Ok(other) => other,
        Err(error) => return print(&format!("no other host: {error}")),
    };
    there.set_case(case);
    let reloads = async {
        testbed.reload(case, &text, "success").await;
        let sent = Sent::now(&there, ACCOUNT, step);
        let outcome = testbed.get(Version::Http1, step).await;
        let verdict = sent.judge(&outcome, CORRECT, &[]).await;
        testbed.note(case, &verdict, raw(&outcome));
        testbed
            .reload(case, &testbed.configuration(), "success")
            .await;
    };
    let requests = async {
        for _ in 0..12 {
            let (from_here, from_there) = (testbed.sent(step), Sent::now(&there, ACCOUNT, step));
            let outcome = testbed.get(Version::Http1, step).await;
            let mut verdict = from_here.judge(&outcome, CORRECT, &[]).await;
            if verdict != Verdict::Correct {
                verdict = from_there.judge(&outcome, CORRECT, &[]).await;
            }
            testbed.note(case, &verdict, raw(&outcome));
        }
    };
    tokio::join!(reloads, requests);
    injection.restore().await;
}

async fn rotate_secret(injection: &Injection<'_>) {
    let Injection {
        testbed,
        case,
        other,
        ..
    } = injection;
    let key = format!("canary-api-key-{}-{}", case.seed, case.number);
    testbed.upstream.rotate_key(&key);
    testbed.write_key(case, &key, "success").await;
    testbed.upstream.expect_newest_key();
    testbed.expect_correct(case, Version::Http1, other).await;
    testbed.upstream.rotate_key(KEY);
    testbed.write_key(case, KEY, "success").await;
    injection.restore().await;
}

async fn empty_secret(injection: &Injection<'_>) {
    let Injection { testbed, case, .. } = injection;
    testbed.write_key(case, "", "failure").await;
    injection.restore().await;
}

async fn remove_secret(injection: &Injection<'_>) {
    let Injection { testbed, case, .. } = injection;
    let before = testbed.last_reload().await;
    // If the file could not be removed, the reload does not fail.
    let _ = std::fs::remove_file(testbed.gateway.path(KEY_FILE));
    testbed.expect_reload(case, &before, "failure").await;
    injection.restore().await;
}
