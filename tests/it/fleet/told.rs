//! What an operator reads of a tier that is not to be had: which server, what it does, and what would
//! be right; in the log and in `/status`, without a secret.

use super::{Fleet, brisk_tier, process_is, tier, tier_at};
use crate::support::redis::Redis;
use crate::support::{Origin, Process, until};

/// What a gateway says, to the log and in its status, whose tier rests.
async fn reason(origin: &Origin, toml: &str) -> String {
    let process = Process::start(origin, toml, "info").await;
    let is_told = async || process.output().contains("the shared tier rests");
    until("a word on the tier", is_told).await;
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

/// With this user, whose password nobody may see.
fn with_user(redis: &Redis, name: &str) -> String {
    let url = format!("redis://{name}:canary@{}", redis.address());
    tier_at(&format!("{{ file = {:?} }}", redis.write(name, &url)))
}

#[tokio::test]
async fn c39_why_redis_refuses_is_told_with_what_would_be_right() {
    let mut fleet = Fleet::start().await;
    for (user, may) in [
        ("nothing", &["+ping"][..]),
        ("elsewhere", &["+@all", "~canary:*"]),
    ] {
        let mut rules = vec!["ACL", "SETUSER", user, "on", ">canary", "-@all"];
        rules.extend(may);
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
        (brisk_tier(&tls), "TLS: does it speak it?"),
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
    let reason = reason(&fleet.origin, &with_user(&fleet.redis, "nobody")).await;
    assert!(
        reason.contains(&format!("{address} takes no connections")),
        "{reason}"
    );
}

#[tokio::test]
async fn c39_a_clean_stop_warns_of_nothing() {
    let fleet = Fleet::start().await;
    let process = Process::start(&fleet.origin, &tier(&fleet.redis.url()), "info").await;
    process_is(&process, "up").await;
    process.terminate().await;
    let (status, log) = process.exit().await;
    assert!(status.success(), "{status}");
    assert!(!log.contains("WARN") && !log.contains("rests"), "{log}");
    let told = log.lines().filter(|line| line.contains("draining"));
    let told: Vec<&str> = told.collect();
    assert!(told.len() == 1 && told[0].ends_with("draining"), "{told:?}");
}
