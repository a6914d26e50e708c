//! Failures that were found by attacking the gateway. Each test states the right behaviour.

mod connections;
mod http2;
mod sharing;
mod upstream;

use std::sync::{Arc, Barrier};

use stepgate::cache::{Cache, Entry};
use stepgate::policy::{CacheKey, Partition, PurgeScope};
use tokio::time::Instant;

use crate::support::client::head;
use crate::support::{Action, Gateway, Origin, STEP, body, respond};

/// A purge removes every variant from before it, although another one is stored meanwhile.
#[test]
fn a_purge_racing_with_a_store_of_another_variant_leaves_no_old_entry() {
    let toml =
        "[upstream.headers]\nx-portkey-api-key = { env = \"K\" }\nx-portkey-virtual-key = false\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, toml).unwrap();
    let env = |name: &str| (name == "K").then(|| "canary-secret-1234".to_owned());
    let config = stepgate::config::Config::load(&stepgate::config::Sources {
        file: Some(file),
        flags: stepgate::config::Flags::default(),
        env: &env,
    })
    .unwrap();
    let cache = Arc::new(Cache::new(config.cache.max_bytes));
    let key =
        |variant: &str| CacheKey::new(Partition::of(["p"]), "run-step", &["t", "r", "s"], variant);
    let rounds = 40_000;
    let barrier = Arc::new(Barrier::new(2));
    let other = {
        let (cache, barrier) = (Arc::clone(&cache), Arc::clone(&barrier));
        let options = config.cache.clone();
        std::thread::spawn(move || {
            for _ in 0..rounds {
                barrier.wait();
                let after = cache.begin_fetch();
                let _ = cache.store(
                    &after,
                    &key("new"),
                    Entry::new(b"new", None),
                    &options,
                    Instant::now(),
                );
                drop(after);
                barrier.wait();
            }
        })
    };
    let mut survived = 0;
    for _ in 0..rounds {
        let before = cache.begin_fetch();
        cache
            .store(
                &before,
                &key("old"),
                Entry::new(b"old", None),
                &config.cache,
                Instant::now(),
            )
            .unwrap();
        drop(before);
        barrier.wait();
        cache.purge(&PurgeScope::prefix("run-step", &["t"]));
        barrier.wait();
        survived += usize::from(cache.lookup(&key("old"), Instant::now()).is_some());
    }
    other.join().unwrap();
    assert_eq!(survived, 0, "of {rounds} purges");
}

/// The canonical query may be three times as long as the client's, and the base path and the configured
/// query are added. If the target becomes too long, the gateway answers with an error, not a panic.
#[tokio::test]
async fn a_query_that_becomes_too_long_upstream_is_an_error_response() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let target = format!("{STEP}?include[]={}", "*".repeat(25_000));
    let response = gateway.try_request("GET", &target, &[]).await;
    let response = response.unwrap_or_else(|broken| panic!("no answer: {broken}"));
    assert!(response.code().is_some(), "{}", response.status);
}

const TENANTS: &str = "[upstream]\nvary_headers = [\"x-tenant\"]\n";

/// If `Connection` names a vary header, that header does not go upstream, so it must not be in the key.
#[tokio::test]
async fn a_vary_header_named_in_connection_is_not_in_the_cache_key() {
    let origin = Origin::start().await;
    origin.set_status("completed");
    let gateway = Gateway::start(&origin, TENANTS).await;
    let away = [("x-tenant", "acme"), ("connection", "x-tenant")];
    assert!(gateway.get_with(STEP, &away).await.is_stored());
    assert!(origin.last().all("x-tenant").is_empty());
    let response = gateway.get_with(STEP, &[("x-tenant", "acme")]).await;
    assert!(
        !response.is_hit(),
        "acme got a body that was fetched without its header"
    );
}

/// Two different values that are not UTF-8 have two keys.
#[tokio::test]
async fn vary_header_values_that_are_not_utf_8_have_different_cache_keys() {
    let origin = Origin::start().await;
    origin.set_status("completed");
    let gateway = Gateway::start(&origin, TENANTS).await;
    let ask = async |byte: u8| {
        let text = head("GET", STEP, "127.0.0.1", &[("x-tenant", "?")]);
        let bytes: Vec<u8> = text
            .bytes()
            .map(|b| if b == b'?' { byte } else { b })
            .collect();
        let mut client = gateway.connect().await;
        client.send(bytes).await;
        client.response().await
    };
    assert!(ask(0xfe).await.is_stored());
    assert!(
        !ask(0xff).await.is_hit(),
        "0xff got the body that was fetched for 0xfe"
    );
}

/// Transfer-Encoding overrides Content-Length (RFC 9112 section 6.3), so the length must not truncate a
/// streamed body.
#[tokio::test]
async fn a_content_length_beside_chunked_does_not_cut_a_large_body() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let large = vec![b' '; 2 << 20];
    let mut response =
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    response.extend_from_slice(format!("{:x}\r\n", large.len()).as_bytes());
    response.extend_from_slice(&large);
    response.extend_from_slice(b"\r\n0\r\n\r\n");
    origin.next(vec![Action::Send(response), Action::Stall]);
    if let Ok(response) = gateway.try_request("GET", STEP, &[]).await {
        assert!(
            response.status == 502 || response.body == large,
            "{} with {} of {} bytes",
            response.status,
            response.body.len(),
            large.len()
        );
    }
}

/// A directive counts although the header has bytes beyond ASCII.
#[tokio::test]
async fn no_store_beside_bytes_beyond_ascii_is_honored() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let body = body("completed");
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Cache-Control: no-store, x=\"",
        body.len()
    )
    .into_bytes();
    response.extend_from_slice(b"\xe9\"\r\n\r\n");
    response.extend_from_slice(&body);
    origin.next(vec![Action::Send(response)]);
    let response = gateway.get(STEP).await;
    assert_eq!(response.status, 200);
    assert!(!response.is_stored(), "{}", response.cache_status());
}

/// A client that reads nothing of a streamed body is cut at the latest after its deadline and the idle
/// timeout, which frees the upstream connection.
#[tokio::test]
async fn a_client_that_does_not_read_a_streamed_body_is_cut() {
    let origin = Origin::start().await;
    let toml = "[server]\nheader_timeout = \"300ms\"\nidle_timeout = \"300ms\"\n\
                [upstream]\ntimeout = \"500ms\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let coding = [("transfer-encoding", "chunked")];
    let chunk = [&b"100000\r\n"[..], &[b' '; 0x10_0000], b"\r\n"].concat();
    origin.next(vec![
        Action::Send(respond("200 OK", &coding, "")),
        Action::Repeat(chunk, 64),
    ]);
    let mut client = gateway.connect().await;
    client.send(head("GET", STEP, "127.0.0.1", &[])).await;
    gateway.wait_for_connections(1).await;
    gateway.wait_for_connections(0).await;
    drop(client);
}

/// `check` and `serve` accept the same hosts in a base URL.
#[tokio::test]
async fn check_rejects_every_host_that_serve_rejects() {
    for url in ["https://a..b/v1", "https://./v1"] {
        let config = stepgate::config::Config::load(&stepgate::config::Sources {
            file: None,
            flags: stepgate::config::Flags {
                upstream: Some(url.to_owned()),
                ..stepgate::config::Flags::default()
            },
            env: &|name| {
                name.starts_with("PORTKEY")
                    .then(|| "canary-secret-1234".to_owned())
            },
        });
        assert!(config.is_err(), "{url}");
    }
}

/// JSON and URLs have several escapes for one character, and an upstream may use any.
#[test]
fn the_secret_scanner_finds_every_escaped_spelling() {
    let scanner = stepgate::upstream::SecretScanner::new(["abc+def/ghi-123=="]);
    for text in [
        r#"{"e":"abc+def\/ghi-123=="}"#,
        r#"{"e":"abc\u002Bdef/ghi-123=="}"#,
        r#"{"e":"abc+def/ghi-123\u003d\u003d"}"#,
        "https://x/?k=abc%2bdef%2fghi-123%3d%3d",
        "https://x/?k=abc%2Bdef%2Fghi-123%3D%3D",
    ] {
        assert!(scanner.finds_in(text.as_bytes()), "{text}");
    }
}

/// A 404 invalidates every variant, although the response to this query could not be stored.
#[tokio::test]
async fn a_no_cache_404_with_an_unknown_query_invalidates_every_variant() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    assert!(gateway.get(STEP).await.is_stored());
    assert!(gateway.get(STEP).await.is_hit());
    origin.always(vec![Action::Send(respond("404 Gone", &[], "{}"))]);
    let fresh = [("cache-control", "no-cache")];
    let response = gateway.get_with(&format!("{STEP}?x=1"), &fresh).await;
    assert_eq!(response.status, 404);
    assert_eq!(gateway.get(STEP).await.status, 404);
}
