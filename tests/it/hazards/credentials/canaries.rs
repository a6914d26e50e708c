//! Leaks of secrets (item 16). Every secret is a canary: if its prefix is found in an output, the
//! secret has leaked.

use std::fmt::Display;
use std::path::Path;

use serde::Serialize;
use stepgate::Server;
use stepgate::config::{Config, Flags, Secret, Sources};
use tempfile::TempDir;

use crate::support::H2Client;
use crate::support::certificates::Authority;
use crate::support::frames::{FrameClient, GOAWAY, HEADERS, frame};
use crate::support::gateway::ENVIRONMENT;
use crate::support::origin::StreamFault;
use crate::support::process::Launch;
use crate::support::process::run;
use crate::support::redis::Redis;
use crate::support::{
    Action, Origin, Process, STEP, client, client::Response, respond, step, until, within,
};

const API_KEY: &str = "canary-file-key-1d8e60";
const TOKEN: &str = "canary-file-token-77ab12";
const ADMIN: &str = "canary-admin-token-3390fe";
const REDIS: &str = "canary-redis-password-52cc7d";
const SEAL: &str = "canary-encryption-key-81f0be";

/// Returns a configuration, and its folder, with a secret of every kind from both sources: injected
/// for all, injected for one client, a client's token, the admin token, and those of the shared tier
/// at `redis`.
fn secrets(redis: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let toml = format!(
        r#"
[server]
header_timeout = "500ms"
[admin]
token = {{ file = {admin:?} }}
[upstream]
timeout = "2s"
[upstream.headers]
authorization = {{ file = {key:?} }}
x-portkey-api-key = {{ env = "PORTKEY_API_KEY" }}
x-portkey-virtual-key = {{ env = "PORTKEY_PROVIDER_VIRTUAL_KEY" }}
[cache.redis]
url = {{ file = {url:?} }}
prefix = "canaries"
encryption_key = {{ file = {seal:?} }}
[log]
access = "all"
[[client]]
name = "billing"
token = [{{ env = "BILLING_TOKEN" }}, {{ file = {token:?} }}]
[client.headers]
x-portkey-virtual-key = {{ env = "BILLING_KEY" }}
"#,
        admin = write("admin", ADMIN),
        key = write("key", &format!("Bearer {API_KEY}\n")),
        token = write("token", TOKEN),
        url = write("url", &format!("redis://:{REDIS}@{redis}")),
        seal = write("seal", SEAL),
    );
    (folder, toml)
}

/// An address at which nothing listens.
const NOWHERE: &str = "127.0.0.1:1";

fn assert_no_canary(text: &str, what: &str) {
    // All secrets begin with this word, the clients' own included.
    let line = text.lines().find(|line| line.contains("canary"));
    assert_eq!(line, None, "a secret leaked into {what}");
}

/// Returns the responses of both listeners to many requests, of which most fail.
async fn responses_of_a_busy_gateway(process: &Process, origin: &Origin) -> Vec<Response> {
    let bearer = format!("Bearer {TOKEN}");
    let client = [
        ("Authorization", bearer.as_str()),
        ("Cookie", "canary-cookie"),
    ];
    let stranger = [("x-portkey-api-key", "canary-stranger")];
    let echo = format!("{{\"error\":\"no such key {API_KEY}\"}}");
    let location = format!("https://h/?key={API_KEY}");
    let whole = [("content-length", "1000")];
    let broken_head = format!("HTTP/1.1 200 OK\r\nx {API_KEY}: 1\r\n\r\n");
    let mut responses = Vec::new();
    for (id, act, headers, status) in [
        ("a", Action::Respond, client, 200),
        (
            "b",
            Action::Send(respond("401 No", &[("x-echo", API_KEY)], &echo)),
            client,
            502,
        ),
        (
            "c",
            Action::Send(respond("302 Go", &[("location", &location)], "")),
            client,
            302,
        ),
        ("d", Action::Send(broken_head.into_bytes()), client, 502),
        ("e", Action::Reset, client, 502),
        (
            "f",
            Action::Send(respond("429 Slow", &[("x-echo", API_KEY)], "{}")),
            client,
            429,
        ),
    ] {
        origin.next(vec![act, Action::Close]);
        let response = process.get(&step(id), &headers).await;
        assert_eq!(response.status, status, "{id}: {}", response.text());
        responses.push(response);
    }
    origin.next(vec![
        Action::Send(respond("200 OK", &whole, "{")),
        Action::Close,
    ]);
    let cut = client::send(process.data, "GET", &step("g"), &client).await;
    responses.extend(cut);
    let waits = [client[0], ("Prefer", "wait=1")];
    responses.push(process.get(STEP, &waits).await);
    for path in [STEP, "/v1/nowhere", "/v1/threads/%00/runs/r/steps/s"] {
        responses.push(process.get(path, &stranger).await);
        responses.push(process.get(path, &client).await);
    }
    let h2 = H2Client::connect(process.data).await;
    let uri = format!("http://{}{}", process.data, step("h2"));
    let request = hyper::Request::get(uri).header("authorization", &bearer);
    assert_eq!(h2.send(request).await.status, 200);
    // Malformed requests with the client's token in them.
    let mut malformed = process.connect().await;
    malformed
        .send(format!(
            "GET {STEP} HTTP/1.1\r\nAuthorization : {bearer}\r\n\r\n"
        ))
        .await;
    responses.extend(malformed.responses().await);
    let mut peer = FrameClient::connect(process.data, 65_535).await;
    peer.send(&frame(HEADERS, 5, 1, bearer.as_bytes())).await;
    within("a GOAWAY", peer.read_until(|heard| heard.kind == GOAWAY)).await;

    let admin = [("Authorization", format!("Bearer {ADMIN}"))];
    let admin = admin
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    for (method, path) in [
        ("GET", "/metrics"),
        ("GET", "/status"),
        ("GET", "/"),
        ("GET", "/ready"),
        ("DELETE", "/cache/run-step"),
        ("DELETE", "/cache/nothing"),
    ] {
        for headers in [&admin[..], &client, &[]] {
            responses.push(
                client::send(process.admin, method, path, headers)
                    .await
                    .unwrap(),
            );
        }
    }
    responses
}

/// Waits until the shared tier is in this state.
async fn has_tier(process: &Process, state: &str) {
    let admin = format!("Bearer {ADMIN}");
    let is = async || {
        let headers = [("Authorization", admin.as_str())];
        let response = client::send(process.admin, "GET", "/status", &headers).await;
        let status = response.unwrap();
        assert_no_canary(&status.everything(), "the status");
        status.json()["shared"]["state"] == state
    };
    until(state, is).await;
}

#[tokio::test]
async fn c16_secret_leak_none_in_logs_responses_or_the_shared_tier() {
    let mut redis = Redis::start().await;
    redis.require_password(REDIS).await;
    let (_folder, toml) = secrets(&redis.address());
    let origin = Origin::start().await;
    let process = Process::start(&origin, &toml, "trace").await;
    has_tier(&process, "up").await;
    for response in responses_of_a_busy_gateway(&process, &origin).await {
        assert_no_canary(&response.everything(), "a response");
    }
    let seen: String = origin.requests().iter().map(|r| r.text()).collect();
    assert!(seen.contains(API_KEY), "the key was not injected");
    // By now the shared tier holds steps.
    let stored = redis.everything().await;
    assert!(stored.len() > 4, "only {} keys and values", stored.len());
    for bytes in stored {
        assert_no_canary(&String::from_utf8_lossy(&bytes), "the shared tier");
    }
    // With another password, the log tells what Redis says of the wrong one.
    redis.require_password("another").await;
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    has_tier(&process, "circuit_open").await;
    process.signal("HUP").await;
    process.terminate().await;
    let (_, log) = process.exit().await;
    for level in ["TRACE", "outcome=\"error\"", "outcome=\"rejected\""] {
        assert!(log.contains(level), "no {level} in the log");
    }
    assert_no_canary(&log, "the log");
}

/// Covers the libraries for HTTP/2 and TLS, which log much at trace level.
#[tokio::test]
async fn c16_secret_leak_none_in_tls_and_http2_trace_logs() {
    let (_folder, toml) = secrets(NOWHERE);
    let authority = Authority::new();
    let origin = Origin::start_http2(&authority).await;
    origin.set_status("in_progress");
    let bearer_key = format!("Bearer {API_KEY}");
    let roots = authority.toml().replace("[upstream]\n", "");
    let toml = toml.replace("[upstream]\n", &format!("[upstream]\n{roots}"));
    let process = Launch::new(&origin.url(), &toml).log("trace").start().await;
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("Authorization", bearer.as_str())];
    for ending in [
        None,
        Some(StreamFault::Cut),
        Some(StreamFault::GoAwayAfterResponse),
        None,
    ] {
        if let Some(ending) = ending {
            origin.next_fault(ending);
        }
        assert_eq!(process.get(STEP, &headers).await.status, 200);
    }
    for request in origin.requests() {
        assert_eq!(request.all("authorization"), [bearer_key.as_str()]);
    }
    process.terminate().await;
    let (_, log) = process.exit().await;
    assert!(log.contains("TRACE"), "the log was not at trace level");
    assert!(!log.contains("frame="), "a library logged its frames");
    assert_no_canary(&log, "the log");
}

#[tokio::test]
async fn c16_secret_leak_none_in_check_or_configuration_errors() {
    let (folder, toml) = secrets(NOWHERE);
    let file = folder.path().join("stepgate.toml");
    let at = file.display().to_string();
    std::fs::write(&file, &toml).unwrap();
    let (code, printed) = run(&["check", "--config", &at], &ENVIRONMENT).await;
    assert_eq!(code, Some(0), "{printed}");
    for source in [
        "PORTKEY_API_KEY",
        "BILLING_TOKEN",
        "/admin",
        "/token",
        "/url",
        "/seal",
    ] {
        assert!(
            printed.contains(source),
            "{source} is not named:\n{printed}"
        );
    }
    assert_no_canary(&printed, "the output of check");

    // Each of these secrets is invalid, and the file has mistakes of other kinds.
    std::fs::write(folder.path().join("key"), "canary\u{7}bell").unwrap();
    std::fs::write(folder.path().join("token"), "canary\nof two lines").unwrap();
    std::fs::write(folder.path().join("url"), "canary://:canary@canary").unwrap();
    std::fs::write(folder.path().join("seal"), "canary").unwrap();
    let literal = toml.replace("{ env = \"BILLING_KEY\" }", "\"canary-literal\"");
    std::fs::write(&file, literal + "\nnonsense = 1\n").unwrap();
    for command in ["check", "serve"] {
        let (code, errors) = run(&[command, "--config", &at], &ENVIRONMENT).await;
        assert_eq!(code, Some(78), "{errors}");
        for mistake in [
            "control character",
            "nonsense",
            "x-portkey-virtual-key",
            "begins with none of",
            "fewer than 16 bytes",
        ] {
            assert!(errors.contains(mistake), "{mistake} is not in:\n{errors}");
        }
        assert_no_canary(&errors, "the errors");
    }
}

/// Covers panics and careless log lines, which show what `Debug` shows.
#[tokio::test]
async fn c16_secret_leak_none_in_debug_output() {
    let (folder, toml) = secrets(NOWHERE);
    let config = load(folder.path(), &toml);
    let printed = [format!("{config:?}"), format!("{config:#?}")];
    let server = Box::pin(Server::start(config, &stepgate::server::Workers::current()))
        .await
        .unwrap();
    let all = [
        &printed[..],
        &[format!("{server:?}"), format!("{server:#?}")],
    ]
    .concat();
    for text in &all {
        assert!(
            text.contains("BILLING_TOKEN") || text.contains("SecretScanner"),
            "{text}"
        );
        assert_no_canary(text, "Debug");
    }
    within("the drain", server.drain()).await;
}

fn load(folder: &Path, toml: &str) -> Config {
    let file = folder.join("stepgate.toml");
    std::fs::write(&file, toml).unwrap();
    let config = Config::load(&Sources {
        file: Some(file),
        flags: Flags {
            listen: vec!["127.0.0.1:0".to_owned()],
            admin: Some("127.0.0.1:0".to_owned()),
            upstream: Some("http://127.0.0.1:1/v1".to_owned()),
            log_format: None,
        },
        env: &|name| {
            let found = ENVIRONMENT.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        },
    });
    config.unwrap_or_else(|problems| panic!("the test's file:\n{problems}"))
}

/// Compiles only while a secret can be neither displayed nor serialised: with either trait, two
/// implementations would apply, and inference would fail.
#[test]
fn c16_secret_leak_secrets_implement_neither_display_nor_serialize() {
    struct Displayed;
    struct Serialised;
    trait Choice<By> {
        fn choose() {}
    }
    impl<T> Choice<()> for T {}
    impl<T: Display> Choice<Displayed> for T {}
    impl<T: Serialize> Choice<Serialised> for T {}
    <Secret as Choice<_>>::choose();

    let env = |_: &str| Some("canary".to_owned());
    let from = stepgate::config::SecretSource::Env("NAME".to_owned());
    let secret = Secret::load(from, &env).unwrap();
    assert_eq!(
        format!("{secret:?} {secret:#?}"),
        "Secret(env:NAME) Secret(env:NAME)"
    );
}
