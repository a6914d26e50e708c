//! What one configuration means to a request: which clients there are, what is injected, where requests
//! go.
//!
//! A request sees one runtime config from start to end.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use subtle::ConstantTimeEq;

use super::error::GatewayError;
use super::fetched_response::FetchedResponse;
use super::telemetry::metrics::{Metrics, RuleCounters};
use crate::coalesce::RetryAfterGate;
use crate::config::{self, Access, Config, Secret, Value};
use crate::policy::rule::NO_RULE;
use crate::policy::{Partition, Rule};
use crate::upstream::{
    ERROR_BODY_SCAN_LIMIT, HeaderPolicy, SecretScanner, SetupError, Upstream, presented_tokens,
};

/// How a connection reaches the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, which a browser could use.
    Tcp,
    /// TCP with TLS. The hash is that of the `client_ca` under which the client's certificate was
    /// accepted; `None` if no certificate was asked for.
    Tls(Option<blake3::Hash>),
    /// A unix socket, which no browser can use.
    Unix,
}

/// What is sent upstream for a configured client, and with which clients it shares. On an open listener
/// one profile serves all clients.
#[derive(Debug)]
pub(super) struct ClientProfile {
    /// The configured client's name. `None` on an open listener.
    pub(super) name: Option<Arc<str>>,
    tokens: Vec<Secret>,
    pub(super) headers: HeaderPolicy,
    /// Where a 429 blocks further fetches.
    pub(super) partition: Partition,
    /// Where bodies and fetches are shared, one for each rule. The partition of a rule covers the rule's
    /// definition, so that no body is served by another rule than the one that found it final.
    rule_partitions: Vec<Partition>,
}

impl ClientProfile {
    /// Returns the partition in which bodies and fetches of this rule are shared.
    pub(super) fn rule_partition(&self, rule: usize) -> Partition {
        self.rule_partitions[rule]
    }
}

/// A configuration, prepared for requests. Immutable.
#[derive(Debug)]
pub(super) struct RuntimeConfig {
    /// Counts the configurations since the start.
    pub(super) version: u64,
    pub(super) rules: Vec<Rule>,
    /// One for each rule, then one for requests without a rule.
    counters: Vec<Arc<RuleCounters>>,
    /// One for each configured client; a single one on an open listener.
    clients: Vec<Arc<ClientProfile>>,
    open: bool,
    /// The hash of `client_ca`. `None` if clients need no certificate.
    client_ca: Option<blake3::Hash>,
    allowed_hosts: Vec<String>,
    pub(super) upstream: Upstream,
    pub(super) upstream_query: Vec<(String, String)>,
    pub(super) secrets: SecretScanner,
    pub(super) forward: config::Forward,
    /// For a fetch: from a request's arrival to the end of its response. For a forwarded request: from the
    /// end of the request to the head of its response.
    pub(super) timeout: Duration,
    /// How long a forwarded body may be silent.
    pub(super) stream_idle_timeout: Duration,
    /// The longest time for which a 429 blocks further fetches. Zero disables it.
    pub(super) max_retry_after: Duration,
    /// Belongs to this configuration: a 429 to another key or host blocks no request after a reload.
    pub(super) retry_after_gate: RetryAfterGate<Partition, Arc<FetchedResponse>>,
    pub(super) cache: config::Cache,
    pub(super) access_log: Access,
    /// Whether log lines carry ids.
    pub(super) log_ids: bool,
    /// How many bytes of a body a fetch buffers. A longer body is streamed.
    pub(super) buffer_limit: usize,
}

impl RuntimeConfig {
    /// Prepares `config`; connects to nothing.
    ///
    /// # Errors
    /// [`SetupError`] if the upstream's TLS cannot be prepared.
    pub(super) fn new(
        config: &Config,
        metrics: &Metrics,
        version: u64,
    ) -> Result<Self, SetupError> {
        let settings = &config.upstream;
        let upstream = Upstream::new(settings)?;
        let rules = &config.rules;
        let profile = |client: Option<&config::Client>| {
            let sent = sent_upstream(config, client);
            let partition = |rule: Option<&Rule>| {
                let definition = rule.map(Rule::definition);
                let parts = sent.iter().map(String::as_str);
                Partition::of(parts.chain(definition.as_deref()))
            };
            Arc::new(ClientProfile {
                name: client.map(|client| client.name.as_str().into()),
                tokens: client.map_or_else(Vec::new, |client| client.tokens.clone()),
                headers: HeaderPolicy::new(config.headers_for(client), &settings.vary_headers)
                    .with_host(upstream.host_header()),
                partition: partition(None),
                rule_partitions: rules.iter().map(|rule| partition(Some(rule))).collect(),
            })
        };
        let clients = if config.clients.is_empty() {
            vec![profile(None)]
        } else {
            let clients = config.clients.iter();
            clients.map(|client| profile(Some(client))).collect()
        };
        let injected = settings
            .headers
            .iter()
            .chain(config.clients.iter().flat_map(|client| &client.headers))
            .filter_map(|header| match &header.value {
                Value::Secret(secret) => Some(secret.expose()),
                Value::Literal(_) => None,
            });
        let max_entry = usize::try_from(config.cache.max_entry_bytes).unwrap_or(usize::MAX);
        Ok(Self {
            version,
            counters: rules
                .iter()
                .map(Rule::name)
                .chain([NO_RULE])
                .map(|name| metrics.rule(name))
                .collect(),
            rules: rules.clone(),
            clients,
            open: config.clients.is_empty(),
            client_ca: config
                .server
                .tls
                .as_ref()
                .and_then(config::Tls::client_ca_hash),
            allowed_hosts: config.server.allowed_hosts.clone(),
            upstream,
            upstream_query: settings.query.clone(),
            max_retry_after: settings.max_retry_after,
            retry_after_gate: RetryAfterGate::default(),
            secrets: SecretScanner::new(injected),
            forward: config.server.forward,
            timeout: settings.timeout,
            stream_idle_timeout: settings.stream_idle_timeout,
            cache: config.cache.clone(),
            access_log: config.log.access,
            log_ids: config.log.ids,
            buffer_limit: max_entry.max(ERROR_BODY_SCAN_LIMIT),
        })
    }

    /// Returns the counters of a rule, or those of requests without a rule.
    pub(super) fn counters(&self, rule: Option<usize>) -> &RuleCounters {
        &self.counters[rule.unwrap_or(self.rules.len())]
    }

    /// Returns how many clients are configured; 0 on an open listener.
    pub(super) fn configured_clients(&self) -> usize {
        if self.open { 0 } else { self.clients.len() }
    }

    /// Returns the Host names that an open listener answers to beside loopback. `None` if clients are
    /// configured.
    pub(super) fn open_to(&self) -> Option<&[String]> {
        self.open.then_some(self.allowed_hosts.as_slice())
    }

    /// Refuses a connection that was opened under another `client_ca`: it may not pass under this one.
    pub(super) fn check_transport(&self, transport: Transport) -> Result<(), GatewayError> {
        match transport {
            Transport::Tls(accepted) if self.client_ca.is_some() && accepted != self.client_ca => {
                Err(GatewayError::Reconnect)
            }
            Transport::Tls(_) | Transport::Tcp | Transport::Unix => Ok(()),
        }
    }

    /// Returns the profile of the client that presents a known token. Every presented token is compared
    /// with every known one, in constant time. A request may present two tokens, because the Portkey
    /// SDKs send both headers, one of them with a dummy; if both are known, they must be the same
    /// client's.
    pub(super) fn authenticate(
        &self,
        headers: &HeaderMap,
    ) -> Result<&Arc<ClientProfile>, GatewayError> {
        if self.open {
            return self.clients.first().ok_or(GatewayError::Unauthorized);
        }
        let mut found: Option<&Arc<ClientProfile>> = None;
        for token in presented_tokens(headers) {
            for client in &self.clients {
                let matches = client
                    .tokens
                    .iter()
                    .fold(subtle::Choice::from(0), |any, known| {
                        any | known.expose().as_bytes().ct_eq(token)
                    });
                if bool::from(matches) {
                    if found.is_some_and(|other| !Arc::ptr_eq(other, client)) {
                        return Err(GatewayError::Unauthorized);
                    }
                    found = Some(client);
                }
            }
        }
        found.ok_or(GatewayError::Unauthorized)
    }
}

/// Returns what makes fetches alike: the client, if it has headers of its own, where they go, and what is
/// injected. A secret counts by its source, so that its rotation keeps the cache warm.
fn sent_upstream(config: &Config, client: Option<&config::Client>) -> Vec<String> {
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
