//! A lane of the campaign: an origin, a gateway in front of it, and what every injection needs.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::caller::{self, Got, Manner, OWN};
use crate::gateway::Gateway;
use crate::kind::{Expect, RIGHT, Wire};
use crate::ledger::{Case, Ledger, Verdict};
use crate::origin::{Accounts, Authority, Lives, Origin, Setting};
use crate::step::Step;
use crate::verdict::Asked;

/// `upstream.timeout`.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1500);

/// What a busy machine may add before an answer counts as lost.
pub(crate) const SLACK: Duration = Duration::from_secs(5);

/// The longest that anything is waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(6);

pub(crate) const MAX_CONNECTIONS: usize = 48;

pub(crate) const KEY: &str = "canary-api-key-1";
const VIRTUAL_KEY: &str = "canary-virtual-key-1";
const OTHER_KEY: &str = "canary-other-api-key";
const OTHER_VIRTUAL_KEY: &str = "canary-other-virtual-key";
pub(crate) const ACCOUNT: &str = "account-1";

pub(crate) struct World {
    authority: Arc<Authority>,
    pub(crate) origin: Origin,
    pub(crate) gateway: Gateway,
    pub(crate) ledger: Ledger,
}

/// The configuration of a lane: everything that waits, waits shortly.
pub(crate) fn configuration(base_url: &str, authority: &Authority, more: &str) -> String {
    let ca_file = authority.file();
    format!(
        "[server]\nheader_timeout = \"1s\"\nidle_timeout = \"2s\"\n\
         max_connections = {MAX_CONNECTIONS}\n\n\
         [upstream]\nbase_url = \"{base_url}\"\nca_file = {ca_file:?}\ntimeout = \"1500ms\"\n\
         connect_timeout = \"1s\"\nmax_in_flight = 8\nqueue_timeout = \"500ms\"\n\
         coalesce_window = \"20ms\"\nmax_retry_after = \"150ms\"\n\n\
         [upstream.headers]\nx-portkey-api-key = {{ file = \"api.key\" }}\n\
         x-portkey-virtual-key = {{ env = \"RIG_VIRTUAL_KEY\" }}\n\n\
         [cache]\nmax_bytes = \"4MiB\"\nmax_entry_bytes = \"64KiB\"\n{more}"
    )
}

impl World {
    pub(crate) async fn new(
        wire: Wire,
        authority: &Arc<Authority>,
        ledger: &Ledger,
    ) -> Result<Self, Box<dyn Error>> {
        let origin = Origin::start(Setting {
            wire,
            authority: Arc::clone(authority),
            lives: Lives::Fetches,
            accounts: Accounts::new(KEY, &[(VIRTUAL_KEY, ACCOUNT)]),
            chance: None,
            ledger: ledger.clone(),
        })?;
        let toml = configuration(&origin.base_url(), authority, "");
        let env = [
            ("RIG_VIRTUAL_KEY", VIRTUAL_KEY),
            ("RIG_OTHER_VIRTUAL_KEY", OTHER_VIRTUAL_KEY),
            ("STEPGATE_LOG", "info,stepgate=trace"),
        ];
        let gateway = Gateway::start(
            &toml,
            &[("api.key", KEY), ("other.key", OTHER_KEY)],
            &env,
            ledger,
        )
        .await?;
        Ok(Self::of(authority, origin, gateway, ledger))
    }

    pub(crate) fn of(
        authority: &Arc<Authority>,
        origin: Origin,
        gateway: Gateway,
        ledger: &Ledger,
    ) -> Self {
        Self {
            authority: Arc::clone(authority),
            origin,
            gateway,
            ledger: ledger.clone(),
        }
    }

    /// Its configuration, as it was at the start.
    pub(crate) fn configuration(&self) -> String {
        configuration(&self.origin.base_url(), &self.authority, "")
    }

    /// Another host, where only keys of its own are valid; and the configuration that leads there.
    pub(crate) fn elsewhere(&self) -> Result<(Origin, String), Box<dyn Error>> {
        let origin = Origin::start(Setting {
            wire: Wire::Plain,
            authority: Arc::clone(&self.authority),
            lives: Lives::Fetches,
            accounts: Accounts::new(OTHER_KEY, &[(OTHER_VIRTUAL_KEY, ACCOUNT)]),
            chance: None,
            ledger: self.ledger.clone(),
        })?;
        let text = configuration(&origin.base_url(), &self.authority, "")
            .replace("api.key", "other.key")
            .replace("RIG_VIRTUAL_KEY", "RIG_OTHER_VIRTUAL_KEY");
        Ok((origin, text))
    }

    /// A request for `step`, with all that a caller carries.
    pub(crate) async fn ask(&self, manner: Manner, step: &Step) -> Got {
        caller::ask(
            self.gateway.data,
            manner,
            "GET",
            step,
            &OWN,
            TIMEOUT + SLACK,
        )
        .await
    }

    pub(crate) fn asked<'a>(&'a self, step: &'a Step) -> Asked<'a> {
        Asked::now(&self.origin, ACCOUNT, step)
    }

    pub(crate) fn note(&self, case: &Case, verdict: &Verdict, bytes: &[u8]) {
        self.ledger.note(case, verdict, bytes);
    }

    /// A request without any fault, which must be right; where others may be held off for a moment,
    /// once that is over.
    pub(crate) async fn probe(&self, case: &Case, step: &Step, what: &str, expect: Expect) {
        let patience = Instant::now() + LIMIT;
        let (got, verdict) = loop {
            let asked = self.asked(step);
            let got = self.ask(Manner::Http1, step).await;
            let held = matches!(&got, Got::Whole(answer) if answer.is_held());
            if !(held && expect.holds && Instant::now() < patience) {
                let verdict = asked.judge(&got, RIGHT, &[]);
                break (got, verdict);
            }
            sleep(Duration::from_millis(15)).await;
        };
        let verdict = match verdict {
            Verdict::Lost(why) => Verdict::Lost(format!("{what}: {why}")),
            Verdict::Wrong(why) => Verdict::Wrong(format!("{what}: {why}")),
            Verdict::Leaked(why) => Verdict::Leaked(format!("{what}: {why}")),
            fine @ (Verdict::Right | Verdict::Error | Verdict::Cut) => fine,
        };
        self.note(case, &verdict, got.raw());
    }

    /// Makes sure that the gateway has a connection to the upstream in its pool.
    pub(crate) async fn warm(&self, case: &Case, step: &Step) {
        self.probe(
            case,
            step,
            "a request before the fault",
            Expect {
                holds: true,
                ..RIGHT
            },
        )
        .await;
    }

    /// Waits until nothing is under way; a fetch or a waiter that stays is a place that was lost.
    pub(crate) async fn settle(&self, case: &Case) {
        let patience = Instant::now() + LIMIT;
        let mut status = None;
        while Instant::now() < patience {
            status = self.gateway.status().await;
            let quiet =
                |status: &serde_json::Value| status["in_flight"] == 0 && status["long_polls"] == 0;
            if status.as_ref().is_some_and(quiet) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let why = "a place among the fetches was never given back".to_owned();
        let text = status.map_or_else(String::new, |status| status.to_string());
        self.note(case, &Verdict::Lost(why), text.as_bytes());
    }

    /// The end: no secret in what an operator sees, nothing left open, a clean exit.
    pub(crate) async fn end(self, case: &Case) {
        self.settle(case).await;
        for path in ["/metrics", "/status"] {
            match self.gateway.admin("GET", path).await {
                Got::Whole(answer) => {
                    let verdict = if crate::ledger::shows_secret(&answer.raw) {
                        Verdict::Leaked(format!("a secret in {path}"))
                    } else {
                        Verdict::Right
                    };
                    self.note(case, &verdict, &answer.raw);
                }
                got @ (Got::Cut(_) | Got::Closed(_) | Got::Late(_) | Got::Garbled(..)) => {
                    let why = format!("{path} did not answer");
                    self.note(case, &Verdict::Lost(why), got.raw());
                }
            }
        }
        let lines = self.gateway.last_lines();
        if !self.gateway.end().await {
            let why = "the gateway did not end well".to_owned();
            self.ledger
                .note(case, &Verdict::Lost(why), lines.as_bytes());
        }
    }
}
