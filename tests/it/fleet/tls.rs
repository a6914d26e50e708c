//! Redis over TLS: the fleet shares with trusted certificates, and does not connect with others.

use super::{
    Fleet, assert_serves, assert_shares, completed, expect_shared_hit, start_pair, step_of_thread,
    store_in_tier, tier, tier_at, wait_circuit_open,
};
use crate::support::certificates::{Authority, Flaw, Identity};
use crate::support::redis::{Redis, free_port};
use crate::support::{Gateway, Origin, Process, until};

/// Returns the arguments of a server with this certificate.
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

/// Starts a server and returns its TLS URL.
async fn server(authority: &Authority, flaw: Flaw, more: &[&str]) -> (Redis, String) {
    let (identity, port) = (authority.identity("redis", flaw), free_port());
    let mut all = arguments(&identity, port);
    all.extend(more.iter().map(|argument| (*argument).to_owned()));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    // Not every build of Valkey has TLS.
    let redis = Redis::run("redis-server", &all).await;
    (redis, format!("rediss://127.0.0.1:{port}"))
}

fn trusting(url: &str, authority: &Authority) -> String {
    format!("{}ca_file = {:?}\n", tier_at(url), authority.file())
}

async fn assert_fleet(origin: &Origin, toml: &str) {
    let (a, b) = start_pair(origin, toml).await;
    let path = step_of_thread("over_tls");
    store_in_tier(&a, &[&path]).await;
    let shared = expect_shared_hit(&b, &path).await;
    assert_eq!(shared.text(), completed("over_tls", "step_1"));
    assert_shares(origin, &a, &b, "tls").await;
}

#[tokio::test]
async fn a_fleet_shares_over_tls() {
    let (origin, authority) = (Origin::start().await, Authority::new());
    let (_redis, url) = server(&authority, Flaw::None, &[]).await;
    assert_fleet(&origin, &trusting(&format!("{url:?}"), &authority)).await;
}

/// One node with all slots is a cluster.
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
async fn c39_an_untrusted_certificate_fails_no_request() {
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
        wait_circuit_open(&gateway).await;
        let status = gateway.admin("GET", "/status").await.text();
        assert!(status.contains("certificate"), "{flaw:?}, {toml}: {status}");
        assert_eq!(redis.keys().await, [[0; 0]; 0], "{flaw:?}, {toml}");
    }
}

/// The URL names TLS and the server speaks plain text, or the other way round.
#[tokio::test]
async fn c39_tls_on_one_side_only_fails_no_request() {
    let (origin, authority) = (Origin::start().await, Authority::new());
    let (redis, url) = server(&authority, Flaw::None, &[]).await;
    let plain = url.replace("rediss", "redis");
    let wrong = format!("\"rediss://127.0.0.1:{}\"", redis.port());
    // The handshake takes five command timeouts, so the test uses a short one.
    let wrong = trusting(&wrong, &authority).replace("\"1s\"", "\"50ms\"");
    for (toml, words) in [(tier(&plain), "write rediss://"), (wrong, "write redis://")] {
        let gateway = Gateway::start(&origin, &toml).await;
        assert_serves(&gateway, "one_side").await;
        wait_circuit_open(&gateway).await;
        let is_shown = async || {
            let status = gateway.admin("GET", "/status").await.text();
            status.contains("TLS") && status.contains(words)
        };
        until(words, is_shown).await;
    }
}

#[tokio::test]
async fn the_start_warns_if_bodies_are_sent_in_the_clear() {
    const WARNING: &str = "in the clear";
    let fleet = Fleet::start().await;
    let key = tempfile::tempdir().unwrap();
    std::fs::write(key.path().join("key"), "0123456789abcdef").unwrap();
    let sealed = format!(
        "encryption_key = {{ file = {:?} }}\n",
        key.path().join("key")
    );
    let remote = "redis://nowhere.invalid:6379";
    for (toml, warns) in [
        (tier(remote), true),
        (tier(remote) + &sealed, false),
        (tier(&remote.replace("redis:", "rediss:")), false),
        (tier(&fleet.redis.url()), false),
    ] {
        let process = Process::start(&fleet.origin, &toml, "info").await;
        process.terminate().await;
        let (_, written) = process.exit().await;
        assert_eq!(written.contains(WARNING), warns, "{toml}\n{written}");
        assert_eq!(written.contains(remote), warns, "{toml}\n{written}");
    }
}
