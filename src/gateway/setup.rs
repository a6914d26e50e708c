//! What one configuration means to a request: who may ask, what is injected, where it goes.
//!
//! A request sees one setup from start to end.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use subtle::ConstantTimeEq;

use super::guard::Transport;
use super::metrics::{Metrics, RuleCounters};
use super::news::Arrived;
use super::refusal::GatewayError;
use crate::coalesce::RetryAfterGate;
use crate::config::{self, Access, Config, Secret, Value};
use crate::policy::rule::NO_RULE;
use crate::policy::{Partition, Rule};
use crate::upstream::{
    ERROR_BODY_SCAN_LIMIT, HeaderPolicy, SecretScanner, SetupError, Upstream, presented_tokens,
};

/// Whose request it is: what it is sent with, and with whom it may share.
#[derive(Debug)]
pub(super) struct Account {
    /// The client's name; none on an open listener.
    pub(super) name: Option<Arc<str>>,
    tokens: Vec<Secret>,
    pub(super) header_policy: HeaderPolicy,
    /// Within it a 429 is held.
    pub(super) partition: Partition,
    /// One a rule: within it bodies and fetches are shared. It covers what the rule says, so that a
    /// body is never taken for final by another rule than the one that judged it.
    by_rule: Vec<Partition>,
}

impl Account {
    /// Within which bodies and fetches of this rule are shared.
    pub(super) fn partition_of(&self, rule: usize) -> Partition {
        self.by_rule[rule]
    }
}

/// Built once for a configuration, immutable.
#[derive(Debug)]
pub(super) struct Setup {
    /// Counts the configurations that were in force.
    pub(super) number: u64,
    pub(super) rules: Vec<Rule>,
    /// One a rule, then the one of none.
    counters: Vec<Arc<RuleCounters>>,
    /// Of an open listener: the one account of everybody. Else one a client.
    accounts: Vec<Arc<Account>>,
    open: bool,
    /// The roots that a caller's certificate must have passed, where there is TLS.
    roots: Option<blake3::Hash>,
    hosts: Vec<String>,
    pub(super) upstream: Upstream,
    pub(super) upstream_query: Vec<(String, String)>,
    pub(super) redactor: SecretScanner,
    /// Whether what no rule answers goes through.
    pub(super) forward: config::Forward,
    /// From a request's arrival to the end of its answer; of a forwarded one, from its end to the head of
    /// its answer.
    pub(super) timeout: Duration,
    /// The longest that a forwarded body may be silent.
    pub(super) idle_timeout: Duration,
    /// How long a 429 is held for everyone, at most; zero: never.
    pub(super) max_retry_after: Duration,
    /// Of this configuration: what was said to another key, or held under another limit, holds
    /// nobody who comes after a reload.
    pub(super) holds: RetryAfterGate<Partition, Arc<Arrived>>,
    pub(super) cache: config::Cache,
    pub(super) access: Access,
    /// The log's lines carry ids.
    pub(super) log_ids: bool,
    /// Bytes of a body that a fetch may hold.
    pub(super) held: usize,
}

impl Setup {
    pub(super) fn new(config: &Config, metrics: &Metrics, number: u64) -> Result<Self, SetupError> {
        let upstream = &config.upstream;
        let client_side = Upstream::new(upstream)?;
        let rules = &config.rules;
        let account = |client: Option<&config::Client>| Account {
            name: client.map(|client| client.name.as_str().into()),
            tokens: client.map_or_else(Vec::new, |client| client.tokens.clone()),
            header_policy: HeaderPolicy::new(config.headers_for(client), &upstream.vary_headers)
                .with_host(client_side.host_header()),
            partition: Partition::of(sent(config, client).iter().map(String::as_str)),
            by_rule: rules
                .iter()
                .map(|rule| {
                    let mut parts = sent(config, client);
                    parts.push(rule.definition());
                    Partition::of(parts.iter().map(String::as_str))
                })
                .collect(),
        };
        let accounts = if config.clients.is_empty() {
            vec![Arc::new(account(None))]
        } else {
            config
                .clients
                .iter()
                .map(|client| Arc::new(account(Some(client))))
                .collect()
        };
        let injected = upstream
            .headers
            .iter()
            .chain(config.clients.iter().flat_map(|client| &client.headers))
            .filter_map(|header| match &header.value {
                Value::Secret(secret) => Some(secret.expose()),
                Value::Literal(_) => None,
            });
        let stored = usize::try_from(config.cache.max_entry_bytes).unwrap_or(usize::MAX);
        Ok(Self {
            number,
            counters: rules
                .iter()
                .map(Rule::name)
                .chain([NO_RULE])
                .map(|name| metrics.of_rule(name))
                .collect(),
            rules: rules.clone(),
            accounts,
            open: config.clients.is_empty(),
            roots: config
                .server
                .tls
                .as_ref()
                .and_then(config::Tls::client_ca_hash),
            hosts: config.server.allowed_hosts.clone(),
            upstream: client_side,
            upstream_query: upstream.query.clone(),
            max_retry_after: upstream.max_retry_after,
            holds: RetryAfterGate::default(),
            redactor: SecretScanner::new(injected),
            forward: config.server.forward,
            timeout: upstream.timeout,
            idle_timeout: upstream.stream_idle_timeout,
            cache: config.cache.clone(),
            access: config.log.access,
            log_ids: config.log.ids,
            held: stored.max(ERROR_BODY_SCAN_LIMIT),
        })
    }

    /// The counters of a rule, or of requests that match none.
    pub(super) fn counters(&self, rule: Option<usize>) -> &RuleCounters {
        &self.counters[rule.unwrap_or(self.rules.len())]
    }

    /// How many clients it knows; none on an open listener.
    pub(super) fn clients(&self) -> usize {
        if self.open { 0 } else { self.accounts.len() }
    }

    /// The Host names that it answers to beside loopback, if it is open to everybody.
    pub(super) fn open_to(&self) -> Option<&[String]> {
        self.open.then_some(self.hosts.as_slice())
    }

    /// A connection that was opened under other roots is not let in by these, whatever else is asked
    /// for: it could have passed neither configuration.
    pub(super) fn knows(&self, door: Transport) -> Result<(), GatewayError> {
        match door {
            Transport::Tls(passed) if self.roots.is_some() && passed != self.roots => {
                Err(GatewayError::Reconnect)
            }
            Transport::Tls(_) | Transport::Tcp | Transport::Unix => Ok(()),
        }
    }

    /// The account of whoever presents a known token. Every token is compared with every known one,
    /// in constant time. Two tokens may be presented (the Portkey SDKs send both headers, one of
    /// them with a dummy); if both are known they must be the same client's.
    pub(super) fn authorise(&self, headers: &HeaderMap) -> Result<&Arc<Account>, GatewayError> {
        if self.open {
            return self.accounts.first().ok_or(GatewayError::Unauthorized);
        }
        let mut found: Option<&Arc<Account>> = None;
        for token in presented_tokens(headers) {
            for account in &self.accounts {
                let matches = account
                    .tokens
                    .iter()
                    .fold(subtle::Choice::from(0), |any, known| {
                        any | known.expose().as_bytes().ct_eq(token)
                    });
                if bool::from(matches) {
                    if found.is_some_and(|other| !Arc::ptr_eq(other, account)) {
                        return Err(GatewayError::Unauthorized);
                    }
                    found = Some(account);
                }
            }
        }
        found.ok_or(GatewayError::Unauthorized)
    }
}

/// Whose fetches are alike: the client where it has headers of its own, where they go, what is
/// injected. A secret counts by its source: rotating it keeps the cache warm.
fn sent(config: &Config, client: Option<&config::Client>) -> Vec<String> {
    let own = client.filter(|c| !c.headers.is_empty() || !c.removed_headers.is_empty());
    let mut parts = vec![
        own.map_or_else(String::new, |client| client.name.clone()),
        config.upstream.base_url.to_string(),
        format!("{:?}", config.upstream.query),
    ];
    for header in config.headers_for(client) {
        parts.push(header.name.to_string());
        parts.push(match &header.value {
            Value::Literal(value) => format!("={}", String::from_utf8_lossy(value.as_bytes())),
            Value::Secret(secret) => format!("<{}", secret.source()),
        });
    }
    parts
}
