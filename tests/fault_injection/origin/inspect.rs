//! Checks every request that reaches the upstream: each injected header exactly once, nothing of
//! the caller's, and no account's key at a host that is not its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Shared;
use crate::ledger::Verdict;
use crate::step::Step;

/// The headers that a fetch may have.
const ALLOWED: [&str; 12] = [
    "host",
    "accept",
    "accept-encoding",
    "openai-beta",
    "x-portkey-api-key",
    "x-portkey-virtual-key",
    "x-portkey-cache-force-refresh",
    "user-agent",
    "traceparent",
    "tracestate",
    "x-request-id",
    "x-portkey-trace-id",
];

/// Those that it must have, once.
const INJECTED: [(&str, Option<&str>); 6] = [
    ("accept", Some("application/json")),
    ("accept-encoding", Some("identity")),
    ("openai-beta", Some("assistants=v2")),
    ("x-portkey-cache-force-refresh", Some("true")),
    ("x-portkey-api-key", None),
    ("x-portkey-virtual-key", None),
];

/// In everything that a caller says of its own.
const CALLERS: &str = "canary-caller";

/// Whose keys are valid here.
#[derive(Debug)]
pub(crate) struct Accounts {
    /// Account names by virtual key.
    names: BTreeMap<String, String>,
    /// The API keys that may come: the one in use, and the one before it while it is rotated.
    keys: Mutex<Vec<String>>,
}

impl Accounts {
    pub(crate) fn new(key: &str, names: &[(&str, &str)]) -> Self {
        let owned = |(key, name): &(&str, &str)| ((*key).to_owned(), (*name).to_owned());
        Self {
            names: names.iter().map(owned).collect(),
            keys: Mutex::new(vec![key.to_owned()]),
        }
    }
}

/// A request as it should be.
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) step: Step,
    /// Whose body it is to get.
    pub(super) account: String,
    /// The injected key that it came with.
    pub(super) key: String,
}

impl Shared {
    /// Accepts a further key; only the newest two stay valid.
    pub(crate) fn rotate(&self, key: &str) {
        let keys = &self.accounts.keys;
        let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.push(key.to_owned());
        if keys.len() > 2 {
            keys.remove(0);
        }
    }

    /// From now on only the newest key is valid.
    pub(crate) fn expect_newest(&self) {
        let keys = &self.accounts.keys;
        let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
        let old = keys.len().saturating_sub(1);
        keys.drain(..old);
    }

    /// What is asked for; None, and a complaint, for what must not come.
    pub(super) fn inspect(
        &self,
        target: &str,
        headers: &[(String, String)],
        raw: &[u8],
    ) -> Option<Inspected> {
        match self.judge(target, headers) {
            Ok(known) => Some(known),
            Err(why) => {
                self.complain(&Verdict::Leaked(format!("upstream got {why}")), raw);
                None
            }
        }
    }

    fn judge(&self, target: &str, headers: &[(String, String)]) -> Result<Inspected, String> {
        let step = Step::of_target(target).ok_or_else(|| format!("a target {target:?}"))?;
        for (name, value) in headers {
            if !ALLOWED.contains(&name.as_str()) {
                return Err(format!("a header {name:?}"));
            }
            if value.contains(CALLERS) {
                return Err(format!("a caller's own {name:?}"));
            }
        }
        let host = once(headers, "host")?;
        if host != self.address.to_string() {
            return Err(format!("a host {host:?}"));
        }
        for (name, due) in INJECTED {
            let value = once(headers, name)?;
            if due.is_some_and(|due| due != value) {
                return Err(format!("{name:?} of another value"));
            }
        }
        let key = once(headers, "x-portkey-api-key")?;
        let keys = &self.accounts.keys;
        let keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.iter().any(|known| known == key) {
            return Err("a key that is not for this host, or was replaced".to_owned());
        }
        let account = self
            .accounts
            .names
            .get(once(headers, "x-portkey-virtual-key")?);
        let account = account.ok_or("a virtual key that is not for this host")?;
        Ok(Inspected {
            step,
            account: account.clone(),
            key: key.to_owned(),
        })
    }
}

fn once<'h>(headers: &'h [(String, String)], name: &str) -> Result<&'h str, String> {
    let mut found = headers.iter().filter(|(n, _)| n == name);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Ok(value),
        (None, _) => Err(format!("no {name:?}")),
        (Some(_), Some(_)) => Err(format!("{name:?} twice")),
    }
}
