//! Error messages of the tier, in the log and in `/status`: which server failed, how, and what to change,
//! without a secret.

use super::{Fleet, tier, tier_at, tier_with_default_timeout, wait_process_state};
use crate::support::redis::Redis;
use crate::support::{Origin, Process, until};

/// Starts a gateway and returns why its circuit is open. Asserts that log and status show the same reason
/// and no password.
async fn reason(origin: &Origin, toml: &str) -> String {
    let process = Process::start(origin, toml, "info").await;
    let is_logged = async || {
        process
            .output()
            .contains("the circuit of the shared tier is open")
    };
    until("a warning about the tier", is_logged).await;
    let reason = process.status().await["shared"]["reason"].clone();
    process.terminate().await;
    let (_, log) = process.exit().await;
    let reason = reason.as_str().unwrap_or_default().to_owned();
    assert!(!log.contains("canary"), "{log}");
    let logged = log.replace('\\', "");
    assert!(
        logged.contains(&format!("reason=\"{reason}\"")),
        "{reason}: {log}"
    );
    reason
}

/// Returns a configuration with this user and a secret password.
fn with_user(redis: &Redis, name: &str) -> String {
    let url = format!("redis://{name}:canary@{}", redis.address());
    tier_at(&format!("{{ file = {:?} }}", redis.write(name, &url)))
}

#[tokio::test]
async fn c39_a_refusal_of_redis_is_logged_with_its_cause_and_remedy() {
    let mut fleet = Fleet::start().await;
    for (user, acl) in [
        ("nothing", &["+ping"][..]),
        ("elsewhere", &["+@all", "~canary:*"]),
    ] {
        let mut rules = vec!["ACL", "SETUSER", user, "on", ">canary", "-@all"];
        rules.extend(acl);
        assert_eq!(fleet.redis.cli(&rules).await.trim(), "OK");
    }
    let address = fleet.redis.address();
    let (plain, listed) = (fleet.redis.url(), format!("[{:?}]", fleet.redis.url()));
    let tls = plain.replace("redis:", "rediss:");
    let user = |name| with_user(&fleet.redis, name);
    let cases = [
        (
            user("nothing"),
            "refuses `hgetall` to this user: give it the ACL",
        ),
        (user("elsewhere"), "refuses its keys to this user"),
        (user("stranger"), "refuses the user or the password"),
        (tier_with_default_timeout(&tls), "TLS: does it speak it?"),
        (tier_at(&listed), "is no cluster"),
    ];
    for (toml, words) in cases {
        let reason = reason(&fleet.origin, &toml).await;
        assert!(reason.contains(&address), "{reason}");
        assert!(reason.contains(words), "{reason}\nexpected {words}");
    }
    fleet.redis.require_password("canary").await;
    for toml in [tier(&plain), tier_at(&listed)] {
        let reason = reason(&fleet.origin, &toml).await;
        assert!(reason.contains(&address), "{reason}");
        assert!(
            reason.contains("needs a password: put it into the URL"),
            "{reason}"
        );
    }
    fleet.redis.kill();
    let reason = reason(&fleet.origin, &with_user(&fleet.redis, "anyone")).await;
    assert!(
        reason.contains(&format!("{address} takes no connections")),
        "{reason}"
    );
}

#[tokio::test]
async fn c39_a_clean_stop_logs_no_warning() {
    let fleet = Fleet::start().await;
    let process = Process::start(&fleet.origin, &tier(&fleet.redis.url()), "info").await;
    wait_process_state(&process, "up").await;
    process.terminate().await;
    let (status, log) = process.exit().await;
    assert!(status.success(), "{status}");
    assert!(!log.contains("WARN") && !log.contains("circuit"), "{log}");
    let draining: Vec<&str> = log.lines().filter(|l| l.contains("draining")).collect();
    assert!(
        draining.len() == 1 && draining[0].ends_with("draining"),
        "{draining:?}"
    );
}
