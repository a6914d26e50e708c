//! The gateway in this process, on port 0, with canaries for secrets.

use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::Request;
use stepgate::Server;
use stepgate::config::{Address, Config, Flags, Sources};
use stepgate::server::Workers;
use tempfile::TempDir;

use super::raw::{self, Raw, head};
use super::{Answer, Broken, Origin, until, within};

pub(crate) const API_KEY: &str = "canary-api-key-7f3a91";
pub(crate) const VIRTUAL_KEY: &str = "canary-virtual-key-c02d5e";
pub(crate) const BILLING_TOKEN: &str = "canary-billing-token-19bb40";
pub(crate) const BILLING_KEY: &str = "canary-billing-key-e8d6a2";
pub(crate) const SUPPORT_TOKEN: &str = "canary-support-token-5c71f0";
pub(crate) const SUPPORT_KEY: &str = "canary-support-key-a94e3d";

/// The environment of every gateway here, in this process or spawned.
pub(crate) const ENVIRONMENT: [(&str, &str); 6] = [
    ("PORTKEY_API_KEY", API_KEY),
    ("PORTKEY_PROVIDER_VIRTUAL_KEY", VIRTUAL_KEY),
    ("BILLING_TOKEN", BILLING_TOKEN),
    ("BILLING_KEY", BILLING_KEY),
    ("SUPPORT_TOKEN", SUPPORT_TOKEN),
    ("SUPPORT_KEY", SUPPORT_KEY),
];

/// Two clients, each with a virtual key of its own.
pub(crate) const TWO_CLIENTS: &str = r#"
[[client]]
name = "billing"
token = { env = "BILLING_TOKEN" }
[client.headers]
x-portkey-virtual-key = { env = "BILLING_KEY" }

[[client]]
name = "support"
token = { env = "SUPPORT_TOKEN" }
[client.headers]
x-portkey-virtual-key = { env = "SUPPORT_KEY" }
"#;

pub(crate) struct Gateway {
    server: Server,
    pub(crate) folder: TempDir,
}

impl Gateway {
    /// In front of `origin`, with this text as its configuration file.
    pub(crate) async fn start(origin: &Origin, toml: &str) -> Self {
        Self::start_at(&origin.url(), toml).await
    }

    pub(crate) async fn start_at(upstream: &str, toml: &str) -> Self {
        // Both ends of every connection are in this process.
        rlimit::increase_nofile_limit(u64::MAX).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self::start_with(folder, upstream, "127.0.0.1:0", toml).await
    }

    /// On a socket `s.sock` in its folder.
    pub(crate) async fn start_unix(origin: &Origin, toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = format!("unix:{}", folder.path().join("s.sock").display());
        Self::start_with(folder, &origin.url(), &listen, toml).await
    }

    async fn start_with(folder: TempDir, upstream: &str, listen: &str, toml: &str) -> Self {
        let config = configuration(&folder, upstream, listen, toml);
        let started = within(
            "the gateway to start",
            Box::pin(Server::start(config, &Workers::current())),
        )
        .await;
        let server = started.unwrap_or_else(|e| panic!("the gateway did not start: {e}"));
        Self { server, folder }
    }

    /// Takes up this text as its configuration file, still in front of `origin`.
    pub(crate) fn take_up(&self, origin: &Origin, toml: &str) {
        let config = configuration(&self.folder, &origin.url(), "127.0.0.1:0", toml);
        self.server.take_up(&config).unwrap();
    }

    /// The data listener.
    pub(crate) fn address(&self) -> SocketAddr {
        match &self.server.data()[0] {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("a unix socket: {}", path.display()),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s.sock")
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.server.admin()
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.address()).await
    }

    /// Asks and goes on: the answer is read from the connection later.
    pub(crate) async fn question(&self, path: &str, headers: &[(&str, &str)]) -> Raw {
        let mut raw = self.connect().await;
        raw.send(head("GET", path, "127.0.0.1", headers)).await;
        raw
    }

    /// Returns when what was sent before must have been read: later questions were answered.
    pub(crate) async fn has_read_all(&self) {
        for _ in 0..3 {
            assert_eq!(self.get("/v1/nowhere").await.status, 404);
        }
    }

    /// Waits until so many connections are open on the data listener.
    pub(crate) async fn has_open(&self, connections: usize) {
        let open = async || self.metric("stepgate_connections").await == connections as f64;
        until("connections to come or go", open).await;
    }

    /// Requests of the built-in rule with that outcome.
    pub(crate) async fn outcomes(&self, outcome: &str) -> f64 {
        let labels = format!("{{rule=\"run-step\",outcome=\"{outcome}\"}}");
        self.metric(&format!("stepgate_requests_total{labels}"))
            .await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = self.try_ask(method, path, headers).await;
        answer.unwrap_or_else(|broken| panic!("{method} {path}: no whole answer: {broken}"))
    }

    pub(crate) async fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, Broken> {
        raw::ask(self.address(), method, path, headers).await
    }

    pub(crate) async fn admin(&self, method: &str, path: &str) -> Answer {
        let answer = raw::ask(self.server.admin(), method, path, &[]).await;
        answer.unwrap_or_else(|broken| panic!("admin {path}: no whole answer: {broken}"))
    }

    /// The sample of that name and these labels; 0 where there is none.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        self.admin("GET", "/metrics").await.sample(sample)
    }

    /// The same request as hyper's types.
    pub(crate) fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        let uri = format!("http://{}{path}", self.address());
        Request::builder().method(method).uri(uri)
    }

    pub(crate) async fn drain(self) {
        within("the drain", self.server.drain()).await;
    }
}

fn configuration(folder: &TempDir, upstream: &str, listen: &str, toml: &str) -> Config {
    let file = folder.path().join("stepgate.toml");
    // A file without a word is refused as half written.
    std::fs::write(&file, format!("# {}\n{toml}", file!())).unwrap();
    let config = Config::load(&Sources {
        file: Some(file),
        flags: Flags {
            listen: vec![listen.to_owned()],
            admin: Some("127.0.0.1:0".to_owned()),
            upstream: Some(upstream.to_owned()),
            log_format: None,
        },
        env: &|name| {
            let found = ENVIRONMENT.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        },
    });
    config.unwrap_or_else(|problems| panic!("the test's file:\n{problems}"))
}
