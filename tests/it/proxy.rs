//! A proxy between the gateway and an upstream with TLS, named by the environment.

mod fixture;

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::certificates::{Authority, Flaw};
use crate::support::gateway::ENVIRONMENT;
use crate::support::process::Launch;
use crate::support::process::{self, folder};
use crate::support::{Origin, Process, STEP, body, client, step};
use fixture::{ESTABLISHED, Manner, Proxy};

/// `canary-user:canary-p@ss`
const BASIC: &str = "Basic Y2FuYXJ5LXVzZXI6Y2FuYXJ5LXBAc3M=";

const SHORT: &str = "connect_timeout = \"300ms\"\ntimeout = \"10s\"\n";

fn https(origin: &Origin) -> String {
    format!("https://{}/v1", origin.address)
}

/// Its URL with user and password.
fn with_credentials(address: impl std::fmt::Display) -> String {
    format!("http://canary-user:canary-p%40ss@{address}")
}

async fn start(upstream: &str, toml: &str, env: &[(&str, &str)]) -> Process {
    Launch::new(upstream, toml).env(env).start().await
}

/// Neither the proxy's credentials nor what is injected.
#[track_caller]
fn assert_no_canary(told: &str) {
    assert!(!told.contains("canary"), "{told}");
    assert!(!told.contains("Y2FuYXJ5"), "{told}");
}

#[tokio::test]
async fn it_is_asked_for_a_tunnel_and_sees_nothing_that_goes_through() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let proxy = Proxy::start(Manner::Tunnel(ESTABLISHED)).await;
    let url = with_credentials(proxy.address);
    let process = start(&https(&origin), &authority.toml(), &[("HTTPS_PROXY", &url)]).await;
    let answer = process.get(STEP, &[]).await;
    assert_eq!(answer.body, body("completed"), "{}", process.output());
    assert!(process.get(STEP, &[]).await.is_hit());
    let target = origin.address;
    assert_eq!(
        proxy.heads(),
        [format!(
            "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nproxy-authorization: {BASIC}\r\n\r\n"
        )]
    );
    // What the origin got is what it gets without a proxy, and nothing that was the proxy's.
    let request = &origin.requests()[0];
    assert_eq!(request.all("x-portkey-api-key").len(), 1);
    assert!(request.all("proxy-authorization").is_empty());
    let passed = proxy.passed();
    assert_eq!(passed[0], 22, "a TLS record of a handshake");
    assert_no_canary(&String::from_utf8_lossy(&passed));
    let metrics = client::send(process.admin, "GET", "/metrics", &[]).await;
    for told in [metrics.unwrap().text(), process.status().await.to_string()] {
        assert_no_canary(&told);
    }
    assert!(process.output().contains("***@"), "{}", process.output());
    assert_no_canary(&process.output());
}

#[tokio::test]
async fn any_2xx_opens_the_way_whatever_else_its_head_says() {
    let authority = Authority::new();
    for head in [
        "HTTP/1.0 200 Connection established\r\n\r\n",
        "HTTP/1.0 200 OK\r\nProxy-agent: old\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        // RFC 9110 section 9.3.6: a client ignores both.
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 201 Created\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        let origin = Origin::start_tls(&authority, Flaw::None).await;
        let proxy = Proxy::start(Manner::Tunnel(head)).await;
        let url = format!("http://{}", proxy.address);
        let env = [("HTTPS_PROXY", &*url)];
        let process = start(&https(&origin), &authority.toml(), &env).await;
        let answer = process.get(STEP, &[]).await;
        assert_eq!(answer.status, 200, "{head}: {}", process.output());
    }
}

#[tokio::test]
async fn an_upstream_with_http2_has_one_tunnel_for_all() {
    let authority = Authority::new();
    let origin = Origin::start_http2(&authority).await;
    let proxy = Proxy::start(Manner::Tunnel(ESTABLISHED)).await;
    let url = format!("http://{}", proxy.address);
    let env = [("ALL_PROXY", &*url)];
    let process = start(&origin.url(), &authority.toml(), &env).await;
    let mut asks = JoinSet::new();
    for n in 0..10 {
        let (address, path) = (process.data, step(&format!("step_{n}")));
        asks.spawn(async move {
            client::send(address, "GET", &path, &[])
                .await
                .unwrap()
                .status
        });
    }
    assert_eq!(asks.join_all().await, [200; 10]);
    assert_eq!(proxy.targets(), [origin.address.to_string()]);
}

#[tokio::test]
async fn no_proxy_goes_around_it_and_a_plain_upstream_never_through_it() {
    let authority = Authority::new();
    let proxy = Proxy::start(Manner::Tunnel(ESTABLISHED)).await;
    let url = format!("http://{}", proxy.address);
    for except in ["127.0.0.1", "example.com, 127.0.0.0/8", "*"] {
        let origin = Origin::start_tls(&authority, Flaw::None).await;
        let env = [("HTTPS_PROXY", &*url), ("NO_PROXY", except)];
        let process = start(&https(&origin), &authority.toml(), &env).await;
        assert_eq!(process.get(STEP, &[]).await.status, 200, "{except}");
    }
    let origin = Origin::start().await;
    let env = ["HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY"].map(|name| (name, &*url));
    let process = start(&origin.url(), "", &env).await;
    assert_eq!(process.get(STEP, &[]).await.status, 200);
    assert_eq!(proxy.heads(), [""; 0]);
}

#[tokio::test]
async fn one_that_refuses_is_a_502_and_the_log_says_what_it_said() {
    let authority = Authority::new();
    let answers: [(&[u8], &str); 6] = [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n\
              content-length: 2\r\n\r\nno",
            "asks for credentials (407)",
        ),
        (
            b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
            "refuses to connect to the upstream: 403 Forbidden",
        ),
        (b"\x1b[31mno\r\n\r\n\r\n", "does not answer CONNECT as HTTP"),
        (b"HTTP/1.1 2", "does not answer CONNECT as HTTP"),
        (b"", "does not answer CONNECT as HTTP"),
        (
            b"HTTP/1.1 200 OK\r\n\r\n\x15\x03\x03",
            "speaks before TLS does",
        ),
    ];
    for (answer, told) in answers {
        let origin = Origin::start_tls(&authority, Flaw::None).await;
        let proxy = Proxy::start(Manner::Say(answer)).await;
        let url = with_credentials(proxy.address);
        let env = [("HTTPS_PROXY", &*url)];
        let process = start(&https(&origin), &authority.toml(), &env).await;
        let got = process.get(STEP, &[]).await;
        assert_eq!(got.status, 502, "{told}");
        assert_eq!(got.code().as_deref(), Some("upstream_unreachable"));
        assert_no_canary(&got.text());
        process.terminate().await;
        let (_, output) = process.exit().await;
        let named = format!("the proxy {} {told}", proxy.address);
        assert!(output.contains(&named), "{named}\n{output}");
        assert_no_canary(&output);
        assert!(!output.contains('\x1b'), "{output}");
        assert_eq!(origin.count(), 0);
    }
}

#[tokio::test]
async fn one_that_cannot_be_reached_is_a_502_that_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = with_credentials(address);
    let env = [("HTTPS_PROXY", &*url)];
    let process = start("https://upstream.invalid/v1", "", &env).await;
    assert_eq!(process.get(STEP, &[]).await.status, 502);
    process.terminate().await;
    let (_, output) = process.exit().await;
    let named = format!("the proxy {address} cannot be reached: ");
    assert!(output.contains(&named), "{output}");
    assert_no_canary(&output);
}

#[tokio::test]
async fn silence_is_a_504_after_connect_timeout_and_the_log_says_whose() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let toml = authority.toml() + SHORT;
    let proxy = Proxy::start(Manner::Silence).await;
    let url = format!("http://{}", proxy.address);
    let process = start(&https(&origin), &toml, &[("HTTPS_PROXY", &url)]).await;
    let asked = Instant::now();
    let answer = process.get(STEP, &[]).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.code().as_deref(), Some("upstream_timeout"));
    assert!(asked.elapsed() >= Duration::from_millis(290));
    assert!(asked.elapsed() < Duration::from_secs(5));
    process.terminate().await;
    let (_, output) = process.exit().await;
    let named = format!("the proxy {} does not answer CONNECT", proxy.address);
    assert!(output.contains(&named), "{output}");
    assert_eq!(proxy.heads().len(), 1);
}

#[tokio::test]
async fn behind_it_a_certificate_is_checked_as_without_it() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::OtherName).await;
    let proxy = Proxy::start(Manner::Tunnel(ESTABLISHED)).await;
    let url = format!("http://{}", proxy.address);
    let process = start(&https(&origin), &authority.toml(), &[("HTTPS_PROXY", &url)]).await;
    assert_eq!(process.get(STEP, &[]).await.status, 502);
    assert_eq!((proxy.heads().len(), origin.count()), (1, 0));
}

#[tokio::test]
async fn a_reload_keeps_it_and_asks_it_for_the_new_upstream() {
    let authority = Authority::new();
    let (first, second) = (
        Origin::start_tls(&authority, Flaw::None).await,
        Origin::start_tls(&authority, Flaw::None).await,
    );
    let proxy = Proxy::start(Manner::Tunnel(ESTABLISHED)).await;
    let url = format!("http://{}", proxy.address);
    let toml = |origin: &Origin| {
        let (ca, base) = (authority.toml(), https(origin));
        format!("{ca}base_url = \"{base}\"\n")
    };
    let folder = folder(&[(process::FILE, &toml(&first))]);
    let any = "127.0.0.1:0";
    let arguments = ["--listen", any, "--admin", any];
    let env = [("https_proxy", &*url)];
    let process = Launch::new_in(folder, &arguments).env(&env).start().await;
    assert_eq!(process.get(STEP, &[]).await.status, 200);
    process.configure(&toml(&second)).await;
    assert_eq!(process.get(STEP, &[]).await.status, 200);
    assert_eq!((first.count(), second.count()), (1, 1));
    let asked: Vec<String> = proxy.targets();
    assert_eq!(
        asked,
        [first.address.to_string(), second.address.to_string()]
    );
}

#[tokio::test]
async fn check_shows_it_without_its_credentials() {
    let url = with_credentials("Proxy.Internal:3128");
    let mut env = ENVIRONMENT.to_vec();
    env.push(("HTTPS_PROXY", &url));
    let (code, text) = process::run(&["check"], &env).await;
    assert_eq!(code, Some(0), "{text}");
    let line = "# proxy: http://***@proxy.internal:3128 (HTTPS_PROXY)\n";
    assert!(text.contains(line), "{text}");
    assert_no_canary(&text);

    env.push(("NO_PROXY", "portkey.ai"));
    let (_, text) = process::run(&["check"], &env).await;
    assert!(text.contains("# proxy: none\n"), "{text}");

    let (_, text) = process::run(&["check", "--upstream", "http://127.0.0.1:1/v1"], &env).await;
    assert!(text.contains("# proxy: none\n"), "{text}");
}

#[tokio::test]
async fn one_that_cannot_be_used_is_a_bad_configuration_unless_it_is_not_asked() {
    let mut env = ENVIRONMENT.to_vec();
    env.push(("ALL_PROXY", "socks5://canary-user:canary-pass@proxy:1080"));
    let (code, text) = process::run(&["check"], &env).await;
    assert_eq!(code, Some(78), "{text}");
    assert!(text.starts_with("ALL_PROXY: names a SOCKS proxy"), "{text}");
    assert_no_canary(&text);
    let plain = ["check", "--upstream", "http://127.0.0.1:1/v1"];
    let (code, text) = process::run(&plain, &env).await;
    assert_eq!(code, Some(0), "{text}");
}
