//! An upstream, a gateway in front of it, and what every injection needs of them.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fault::{CORRECT, Expected};
use crate::fixtures::certificates::Authority;
use crate::fixtures::client::{self, Version};
use crate::fixtures::origin::{Connections, Protocol};
use crate::fixtures::process::{FILE, Launch, Process, folder};
use crate::judge::{Outcome, Sent, is_rate_limited, raw};
use crate::ledger::{Case, Ledger, Verdict, print, shows_secret};
use crate::step::Step;
use crate::upstream::{Lifetime, Settings, Upstream};

/// How long a client waits for a response: `upstream.timeout` and five seconds, since what a busy
/// machine adds is no loss.
pub(crate) const DEADLINE: Duration = Duration::from_millis(6500);

/// The limit of every other wait.
pub(crate) const LIMIT: Duration = Duration::from_secs(6);

pub(crate) const MAX_CONNECTIONS: usize = 48;

/// The file with the injected API key, and what it holds at first.
pub(crate) const KEY_FILE: &str = "api.key";
pub(crate) const KEY: &str = "canary-api-key-1";
const OTHER_KEY: &str = "canary-other-api-key";

/// The variable with the injected virtual key, and what it holds.
pub(crate) const VIRTUAL_KEY: &str = "FAULTS_VIRTUAL_KEY";
const OWN_ACCOUNT: [(&str, &str); 1] = [("canary-virtual-key-1", ACCOUNT)];
const OTHER_ACCOUNT: [(&str, &str); 1] = [("canary-other-virtual-key", ACCOUNT)];

/// The account that the injected virtual key belongs to.
pub(crate) const ACCOUNT: &str = "account-1";

/// The headers that every client sends. Nothing of them may go up, or come back to any client.
pub(crate) const OWN_HEADERS: [(&str, &str); 6] = [
    ("authorization", "Bearer canary-client-bearer"),
    ("x-portkey-api-key", "canary-client-key"),
    ("x-portkey-virtual-key", "canary-client-virtual"),
    ("x-portkey-custom-host", "http://canary-client-host"),
    ("cookie", "session=canary-client-cookie"),
    ("x-forwarded-host", "canary-client-forwarded"),
];

/// `last_reload` of `/status`.
pub(crate) type Reload = serde_json::Value;

pub(crate) struct Testbed {
    authority: Authority,
    pub(crate) upstream: Upstream,
    pub(crate) gateway: Process,
    pub(crate) ledger: Ledger,
}

/// Returns a configuration in which every wait is short.
pub(crate) fn configuration(base_url: &str, authority: &Authority, more: &str) -> String {
    let ca_file = authority.file();
    format!(
        "[server]\nheader_timeout = \"1s\"\nidle_timeout = \"2s\"\n\
         max_connections = {MAX_CONNECTIONS}\n\n\
         [upstream]\nbase_url = \"{base_url}\"\nca_file = {ca_file:?}\ntimeout = \"1500ms\"\n\
         connect_timeout = \"1s\"\nmax_in_flight = 8\nqueue_timeout = \"500ms\"\n\
         coalesce_window = \"20ms\"\nmax_retry_after = \"150ms\"\n\n\
         [upstream.headers]\nx-portkey-api-key = {{ file = \"{KEY_FILE}\" }}\n\
         x-portkey-virtual-key = {{ env = \"{VIRTUAL_KEY}\" }}\n\n\
         [cache]\nmax_bytes = \"4MiB\"\nmax_entry_bytes = \"64KiB\"\n{more}"
    )
}

impl Testbed {
    /// Starts an upstream of this protocol, and a gateway in front of it.
    pub(crate) async fn start(
        protocol: Protocol,
        authority: &Authority,
        ledger: &Ledger,
    ) -> io::Result<Self> {
        let upstream = Upstream::start(Settings {
            protocol,
            authority,
            lifetime: Lifetime::Fetches,
            key: KEY,
            accounts: &OWN_ACCOUNT,
            chance: None,
            ledger,
        })?;
        let toml = configuration(&upstream.base_url(), authority, "");
        let files = [(KEY_FILE, KEY), ("other.key", OTHER_KEY)];
        let env = [
            (VIRTUAL_KEY, OWN_ACCOUNT[0].0),
            ("FAULTS_OTHER_VIRTUAL_KEY", OTHER_ACCOUNT[0].0),
            ("STEPGATE_LOG", "info,stepgate=trace"),
        ];
        Ok(Self::around(upstream, authority, ledger, &toml, &files, &env).await)
    }

    /// Starts a gateway with this configuration, these files beside it, and this environment alone.
    pub(crate) async fn around(
        upstream: Upstream,
        authority: &Authority,
        ledger: &Ledger,
        toml: &str,
        files: &[(&str, &str)],
        env: &[(&str, &str)],
    ) -> Self {
        let folder = folder(&[&[(FILE, toml)], files].concat());
        let log = ledger.clone();
        let gateway = Launch::new_in(
            folder,
            &["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        )
        .only_env(env)
        .observe(move |line| {
            if shows_secret(line.as_bytes()) {
                let leaked = Verdict::Leaked("a secret in the log".to_owned());
                log.note(&Case::new(0, 0, "log"), &leaked, line.as_bytes());
            }
        })
        .start()
        .await;
        Self {
            authority: authority.clone(),
            upstream,
            gateway,
            ledger: ledger.clone(),
        }
    }

    /// Returns the configuration of the start.
    pub(crate) fn configuration(&self) -> String {
        configuration(&self.upstream.base_url(), &self.authority, "")
    }

    /// Starts another host, where only keys of its own are valid, and returns it with the
    /// configuration that leads there.
    pub(crate) fn other_host(&self) -> io::Result<(Upstream, String)> {
        let upstream = Upstream::start(Settings {
            protocol: Protocol::Http1,
            authority: &self.authority,
            lifetime: Lifetime::Fetches,
            key: OTHER_KEY,
            accounts: &OTHER_ACCOUNT,
            chance: None,
            ledger: &self.ledger,
        })?;
        let text = configuration(&upstream.base_url(), &self.authority, "")
            .replace(KEY_FILE, "other.key")
            .replace(VIRTUAL_KEY, "FAULTS_OTHER_VIRTUAL_KEY");
        Ok((upstream, text))
    }

    /// Sets what new connections to the upstream meet.
    pub(crate) async fn set_connections(&self, connections: Connections) {
        if let Err(error) = self.upstream.set_connections(connections).await {
            print(&format!("cannot set {connections:?}: {error}"));
        }
    }

    /// Sends a GET for `step`, with all that a client carries.
    pub(crate) async fn get(&self, version: Version, step: &Step) -> Outcome {
        let target = step.target();
        let data = self.gateway.data;
        client::try_send(data, version, "GET", &target, &OWN_HEADERS, DEADLINE).await
    }

    /// Sends a request to the admin listener.
    pub(crate) async fn admin(&self, method: &str, path: &str) -> Outcome {
        let close = [("connection", "close")];
        let admin = self.gateway.admin;
        client::try_send(admin, Version::Http1, method, path, &close, DEADLINE).await
    }

    /// Returns `/status`, or `None` if it does not come.
    pub(crate) async fn status(&self) -> Option<serde_json::Value> {
        let response = self.admin("GET", "/status").await.ok()?;
        serde_json::from_slice(&response.body).ok()
    }

    /// Takes note of the fetches of a step before a request is sent.
    pub(crate) fn sent<'a>(&'a self, step: &'a Step) -> Sent<'a> {
        Sent::now(&self.upstream, ACCOUNT, step)
    }

    pub(crate) fn note(&self, case: &Case, verdict: &Verdict, bytes: &[u8]) {
        self.ledger.note(case, verdict, bytes);
    }

    /// Sends a GET, whose response must be correct.
    pub(crate) async fn expect_correct(&self, case: &Case, version: Version, step: &Step) {
        let sent = self.sent(step);
        let outcome = self.get(version, step).await;
        let verdict = sent.judge(&outcome, CORRECT, &[]).await;
        self.note(case, &verdict, raw(&outcome));
    }

    /// Sends a GET without any fault, whose response must be correct. If others may be rate limited
    /// for a moment, the response counts that comes after that.
    pub(crate) async fn probe(&self, case: &Case, step: &Step, what: &str, expected: Expected) {
        let deadline = Instant::now() + LIMIT;
        let (outcome, verdict) = loop {
            let sent = self.sent(step);
            let outcome = self.get(Version::Http1, step).await;
            let waits = expected.rate_limited && Instant::now() < deadline;
            if !(waits && is_rate_limited(&outcome)) {
                let verdict = sent.judge(&outcome, CORRECT, &[]).await;
                break (outcome, verdict);
            }
            sleep(Duration::from_millis(15)).await;
        };
        self.note(case, &verdict.of(what), raw(&outcome));
    }

    /// Waits until nothing is under way. A fetch or a long poll that stays is a permit that was lost.
    pub(crate) async fn settle(&self, case: &Case) {
        let deadline = Instant::now() + LIMIT;
        let mut status = None;
        while Instant::now() < deadline {
            status = self.status().await;
            let is_quiet =
                |status: &serde_json::Value| status["in_flight"] == 0 && status["long_polls"] == 0;
            if status.as_ref().is_some_and(is_quiet) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let why = "a permit was never given back".to_owned();
        let text = status.map_or_else(String::new, |status| status.to_string());
        self.note(case, &Verdict::Lost(why), text.as_bytes());
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        if let Err(error) = std::fs::write(self.gateway.path(name), text) {
            print(&format!("cannot write {name}: {error}"));
        }
    }

    /// Returns the last reload, as `/status` has it.
    pub(crate) async fn last_reload(&self) -> Reload {
        let status = self.status().await;
        status.map_or(Reload::Null, |mut status| status["last_reload"].take())
    }

    /// Writes this configuration, sends SIGHUP, and waits for this result of the reload.
    pub(crate) async fn reload(&self, case: &Case, text: &str, result: &str) {
        let before = self.last_reload().await;
        self.write(FILE, text);
        self.gateway.signal("HUP").await;
        self.expect_reload(case, &before, result).await;
    }

    /// Writes the secret's file, and waits for this result of the reload that follows by itself.
    pub(crate) async fn write_key(&self, case: &Case, key: &str, result: &str) {
        let before = self.last_reload().await;
        self.write(KEY_FILE, key);
        self.expect_reload(case, &before, result).await;
    }

    /// Waits for a further reload with this result.
    pub(crate) async fn expect_reload(&self, case: &Case, before: &Reload, result: &str) {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let now = self.last_reload().await;
            if now["timestamp_seconds"] != before["timestamp_seconds"] && now["result"] == result {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let why = format!("no {result} of a reload");
        self.note(case, &Verdict::Wrong(why), before.to_string().as_bytes());
    }

    /// Ends the gateway: no secret shows in what an operator sees, nothing is left open, and it exits
    /// with 0.
    pub(crate) async fn end(self, case: &Case) {
        self.settle(case).await;
        for path in ["/metrics", "/status"] {
            let outcome = self.admin("GET", path).await;
            let verdict = match &outcome {
                Ok(response) if shows_secret(&response.raw) => {
                    Verdict::Leaked(format!("a secret in {path}"))
                }
                Ok(_) => Verdict::Correct,
                Err(error) => Verdict::Lost(format!("{path}: {error}")),
            };
            self.note(case, &verdict, raw(&outcome));
        }
        self.gateway.terminate().await;
        let (status, output) = self.gateway.exit().await;
        if !status.success() {
            let why = format!("the gateway ended with {status}");
            self.ledger
                .note(case, &Verdict::Lost(why), output.as_bytes());
        }
    }
}
