//! Redis over TLS: with the right roots as without TLS, with any others not at all.

use super::{
    Fleet, assert_serves, assert_shares, completed, elsewhere, is_resting, is_shared, is_up,
    spread, tier, tier_at,
};
use crate::support::certificates::{Authority, Flaw, Identity};
use crate::support::redis::{Redis, free_port};
use crate::support::{Gateway, Origin, Process, until};

/// What a server with this certificate is started with.
fn arguments(identity: &Identity, port: u16) -> Vec<String> {
    let file = |path: &std::path::Path| path.display().to_string();
    let port = port.to_string();
    [
        ("--tls-port", port),
        ("--tls-cert-file", file(&identity.cert)),
        ("--tls-key-file", file(&identity.key)),
        ("--tls-ca-cert-file", file(&identity.cert)),
        ("--tls-auth-clients", "no".to_owned()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect()
}

/// A server and where it is to be found by TLS.
async fn server(authority: &Authority, flaw: Flaw, more: &[&str]) -> (Redis, String) {
    let (identity, port) = (authority.identity("redis", flaw), free_port());
    let mut all = arguments(&identity, port);
    all.extend(more.iter().map(|argument| (*argument).to_owned()));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    // Not every build of another server has TLS.
    let redis = Redis::run("redis-server", &all).await;
    (redis, format!("rediss://127.0.0.1:{port}"))
}

fn trusting(url: &str, authority: &Authority) -> String {
    format!("{}ca_file = {:?}\n", tier_at(url), authority.file())
}

async fn assert_fleet(origin: &Origin, toml: &str) {
    let (a, b) = (
        Gateway::start(origin, toml).await,
        Gateway::start(origin, toml).await,
    );
    is_up(&a).await;
    is_up(&b).await;
    let path = elsewhere("over_tls");
    spread(&a, &[&path]).await;
    let shared = b.get(&path).await;
    assert!(is_shared(&shared), "{}", shared.cache_status());
    assert_eq!(shared.text(), completed("over_tls", "step_1"));
    assert_shares(origin, &a, &b, "tls").await;
}

#[tokio::test]
async fn a_fleet_shares_over_tls() {
    let (origin, authority) = (Origin::start().await, Authority::new());
    let (_redis, url) = server(&authority, Flaw::None, &[]).await;
    assert_fleet(&origin, &trusting(&format!("{url:?}"), &authority)).await;
}

/// One node that has all slots is a cluster.
#[tokio::test]
async fn a_fleet_shares_on_a_cluster_over_tls() {
    let (origin, authority) = (Origin::start().await, Authority::new());
    let bus = free_port().to_string();
    let more = [
        ["--cluster-enabled", "yes"],
        ["--cluster-port", &bus],
        ["--tls-cluster", "yes"],
    ];
    let (redis, url) = server(&authority, Flaw::None, more.as_flattened()).await;
    let added = redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    assert_eq!(added.trim(), "OK");
    assert_fleet(&origin, &trusting(&format!("[{url:?}]"), &authority)).await;
}

#[tokio::test]
async fn c39_a_certificate_that_is_not_trusted_costs_no_answer() {
    let (origin, authority) = (Origin::start().await, Authority::new());
    let stranger = Authority::new();
    for (flaw, toml) in [
        (Flaw::None, "other roots"),
        (Flaw::None, "the system's"),
        (Flaw::OtherName, "its own"),
        (Flaw::Expired, "its own"),
    ] {
        let (redis, url) = server(&authority, flaw, &[]).await;
        let url = format!("{url:?}");
        let text = match toml {
            "other roots" => trusting(&url, &stranger),
            "its own" => trusting(&url, &authority),
            _ => tier_at(&url),
        };
        let gateway = Gateway::start(&origin, &text).await;
        assert_serves(&gateway, "untrusted").await;
        is_resting(&gateway).await;
        let status = gateway.admin("GET", "/status").await.text();
        assert!(status.contains("certificate"), "{flaw:?}, {toml}: {status}");
        assert_eq!(redis.keys().await, [[0; 0]; 0], "{flaw:?}, {toml}");
    }
}

/// Who writes a URL as of old to a server that speaks TLS, or the other way round.
#[tokio::test]
async fn c39_tls_on_one_side_alone_costs_no_answer() {
    let (origin, authority) = (Origin::start().await, Authority::new());
    let (redis, url) = server(&authority, Flaw::None, &[]).await;
    let plain = url.replace("rediss", "redis");
    let wrong = format!("\"rediss://127.0.0.1:{}\"", redis.port());
    // Nobody waits for the end of a handshake here that goes on for five budgets.
    let wrong = trusting(&wrong, &authority).replace("\"1s\"", "\"50ms\"");
    for (toml, words) in [(tier(&plain), "write rediss://"), (wrong, "write redis://")] {
        let gateway = Gateway::start(&origin, &toml).await;
        assert_serves(&gateway, "one_side").await;
        is_resting(&gateway).await;
        let is_told = async || {
            let status = gateway.admin("GET", "/status").await.text();
            status.contains("TLS") && status.contains(words)
        };
        until(words, is_told).await;
    }
}

#[tokio::test]
async fn who_sends_bodies_in_the_clear_is_told_at_the_start() {
    const TOLD: &str = "in the clear";
    let fleet = Fleet::start().await;
    let key = tempfile::tempdir().unwrap();
    std::fs::write(key.path().join("key"), "0123456789abcdef").unwrap();
    let sealed = format!(
        "encryption_key = {{ file = {:?} }}\n",
        key.path().join("key")
    );
    let away = "redis://nowhere.invalid:6379";
    for (toml, is_told) in [
        (tier(away), true),
        (tier(away) + &sealed, false),
        (tier(&away.replace("redis:", "rediss:")), false),
        (tier(&fleet.redis.url()), false),
    ] {
        let process = Process::start(&fleet.origin, &toml, "info").await;
        process.terminate().await;
        let (_, written) = process.exit().await;
        assert_eq!(written.contains(TOLD), is_told, "{toml}\n{written}");
        assert_eq!(written.contains(away), is_told, "{toml}\n{written}");
    }
}
