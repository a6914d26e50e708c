//! A proxy from the environment, between the gateway and an upstream with TLS.

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
use fixture::{Behaviour, ESTABLISHED, Proxy};

/// `canary-user:canary-p@ss`
const BASIC: &str = "Basic Y2FuYXJ5LXVzZXI6Y2FuYXJ5LXBAc3M=";

const SHORT_TIMEOUT: &str = "connect_timeout = \"300ms\"\ntimeout = \"10s\"\n";

fn https(origin: &Origin) -> String {
    format!("https://{}/v1", origin.address)
}

/// Returns the URL of a proxy with user and password.
fn with_credentials(address: impl std::fmt::Display) -> String {
    format!("http://canary-user:canary-p%40ss@{address}")
}

async fn start(upstream: &str, toml: &str, env: &[(&str, &str)]) -> Process {
    Launch::new(upstream, toml).env(env).start().await
}

/// Asserts that a text contains neither the proxy's credentials nor an injected secret.
#[track_caller]
fn assert_no_canary(text: &str) {
    assert!(!text.contains("canary"), "{text}");
    assert!(!text.contains("Y2FuYXJ5"), "{text}");
}

#[tokio::test]
async fn proxy_gets_connect_and_sees_only_tls() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let proxy = Proxy::start(Behaviour::Tunnel(ESTABLISHED)).await;
    let url = with_credentials(proxy.address);
    let process = start(&https(&origin), &authority.toml(), &[("HTTPS_PROXY", &url)]).await;
    let response = process.get(STEP, &[]).await;
    assert_eq!(response.body, body("completed"), "{}", process.output());
    assert!(process.get(STEP, &[]).await.is_hit());
    let target = origin.address;
    assert_eq!(
        proxy.heads(),
        [format!(
            "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nproxy-authorization: {BASIC}\r\n\r\n"
        )]
    );
    // The upstream gets the same headers as without a proxy, and none that were for the proxy.
    let request = &origin.requests()[0];
    assert_eq!(request.all("x-portkey-api-key").len(), 1);
    assert!(request.all("proxy-authorization").is_empty());
    let tunnelled = proxy.tunnelled();
    assert_eq!(tunnelled[0], 22, "a TLS handshake record");
    assert_no_canary(&String::from_utf8_lossy(&tunnelled));
    let metrics = client::send(process.admin, "GET", "/metrics", &[]).await;
    for text in [metrics.unwrap().text(), process.status().await.to_string()] {
        assert_no_canary(&text);
    }
    assert!(process.output().contains("***@"), "{}", process.output());
    assert_no_canary(&process.output());
}

#[tokio::test]
async fn any_2xx_opens_the_tunnel() {
    let authority = Authority::new();
    for head in [
        "HTTP/1.0 200 Connection established\r\n\r\n",
        "HTTP/1.0 200 OK\r\nProxy-agent: old\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        // RFC 9110 section 9.3.6: a client ignores the length and the coding.
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 201 Created\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        let origin = Origin::start_tls(&authority, Flaw::None).await;
        let proxy = Proxy::start(Behaviour::Tunnel(head)).await;
        let url = format!("http://{}", proxy.address);
        let env = [("HTTPS_PROXY", &*url)];
        let process = start(&https(&origin), &authority.toml(), &env).await;
        let response = process.get(STEP, &[]).await;
        assert_eq!(response.status, 200, "{head}: {}", process.output());
    }
}

#[tokio::test]
async fn http2_upstream_needs_one_tunnel() {
    let authority = Authority::new();
    let origin = Origin::start_http2(&authority).await;
    let proxy = Proxy::start(Behaviour::Tunnel(ESTABLISHED)).await;
    let url = format!("http://{}", proxy.address);
    let env = [("ALL_PROXY", &*url)];
    let process = start(&origin.url(), &authority.toml(), &env).await;
    let mut responses = JoinSet::new();
    for n in 0..10 {
        let (address, path) = (process.data, step(&format!("step_{n}")));
        responses.spawn(async move {
            client::send(address, "GET", &path, &[])
                .await
                .unwrap()
                .status
        });
    }
    assert_eq!(responses.join_all().await, [200; 10]);
    assert_eq!(proxy.targets(), [origin.address.to_string()]);
}

#[tokio::test]
async fn no_proxy_and_plain_upstreams_bypass_the_proxy() {
    let authority = Authority::new();
    let proxy = Proxy::start(Behaviour::Tunnel(ESTABLISHED)).await;
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
async fn refusing_proxy_is_a_502_and_logged_with_its_response() {
    let authority = Authority::new();
    let responses: [(&[u8], &str); 6] = [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n\
              content-length: 2\r\n\r\nno",
            "asks for credentials (407)",
        ),
        (
            b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
            "refuses to connect to the upstream: 403 Forbidden",
        ),
        (
            b"\x1b[31mno\r\n\r\n\r\n",
            "does not answer CONNECT with a valid HTTP response",
        ),
        (
            b"HTTP/1.1 2",
            "does not answer CONNECT with a valid HTTP response",
        ),
        (b"", "does not answer CONNECT with a valid HTTP response"),
        (
            b"HTTP/1.1 200 OK\r\n\r\n\x15\x03\x03",
            "sends data before the TLS handshake",
        ),
    ];
    for (response, logged) in responses {
        let origin = Origin::start_tls(&authority, Flaw::None).await;
        let proxy = Proxy::start(Behaviour::Send(response)).await;
        let url = with_credentials(proxy.address);
        let env = [("HTTPS_PROXY", &*url)];
        let process = start(&https(&origin), &authority.toml(), &env).await;
        let response = process.get(STEP, &[]).await;
        assert_eq!(response.status, 502, "{logged}");
        assert_eq!(response.code().as_deref(), Some("upstream_unreachable"));
        assert_no_canary(&response.text());
        process.terminate().await;
        let (_, output) = process.exit().await;
        let named = format!("the proxy {} {logged}", proxy.address);
        assert!(output.contains(&named), "{named}\n{output}");
        assert_no_canary(&output);
        assert!(!output.contains('\x1b'), "{output}");
        assert_eq!(origin.count(), 0);
    }
}

#[tokio::test]
async fn unreachable_proxy_is_a_502_and_named_in_the_log() {
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
async fn silent_proxy_is_a_504_after_connect_timeout_and_named_in_the_log() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let toml = authority.toml() + SHORT_TIMEOUT;
    let proxy = Proxy::start(Behaviour::Hang).await;
    let url = format!("http://{}", proxy.address);
    let process = start(&https(&origin), &toml, &[("HTTPS_PROXY", &url)]).await;
    let start = Instant::now();
    let response = process.get(STEP, &[]).await;
    assert_eq!(response.status, 504);
    assert_eq!(response.code().as_deref(), Some("upstream_timeout"));
    assert!(start.elapsed() >= Duration::from_millis(290));
    assert!(start.elapsed() < Duration::from_secs(5));
    process.terminate().await;
    let (_, output) = process.exit().await;
    let named = format!("the proxy {} does not answer CONNECT", proxy.address);
    assert!(output.contains(&named), "{output}");
    assert_eq!(proxy.heads().len(), 1);
}

#[tokio::test]
async fn upstream_certificate_is_verified_through_the_proxy() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::OtherName).await;
    let proxy = Proxy::start(Behaviour::Tunnel(ESTABLISHED)).await;
    let url = format!("http://{}", proxy.address);
    let process = start(&https(&origin), &authority.toml(), &[("HTTPS_PROXY", &url)]).await;
    assert_eq!(process.get(STEP, &[]).await.status, 502);
    assert_eq!((proxy.heads().len(), origin.count()), (1, 0));
}

#[tokio::test]
async fn reload_keeps_the_proxy_and_connects_to_the_new_upstream() {
    let authority = Authority::new();
    let (first, second) = (
        Origin::start_tls(&authority, Flaw::None).await,
        Origin::start_tls(&authority, Flaw::None).await,
    );
    let proxy = Proxy::start(Behaviour::Tunnel(ESTABLISHED)).await;
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
    assert_eq!(
        proxy.targets(),
        [first.address.to_string(), second.address.to_string()]
    );
}

#[tokio::test]
async fn check_shows_the_proxy_without_its_credentials() {
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
async fn unsupported_proxy_is_a_configuration_error_unless_it_is_unused() {
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
