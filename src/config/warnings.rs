//! Warnings: valid settings that are probably a mistake.
//!
//! `stepgate check`, a start and a reload show them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hyper::header::AUTHORIZATION;

use super::table::nearest;
use super::{Config, Header, SecretSource, Value};

/// Is the prefix of the environment variables that configure stepgate.
const PREFIX: &str = "STEPGATE_";

/// Names the environment variables that configure stepgate, without their prefix.
const VARIABLES: [&str; 6] = ["CONFIG", "LISTEN", "ADMIN", "UPSTREAM", "LOG_FORMAT", "LOG"];

impl Config {
    /// Returns the warnings about the configuration itself, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let plaintext = self.plaintext_credentials().into_iter();
        plaintext.chain(self.missing_auth_schemes()).collect()
    }

    /// Returns a warning for each variable of `names` that has the prefix of stepgate, but is never read.
    pub fn environment_warnings(&self, names: &[String]) -> Vec<String> {
        let is_secret_source = |name: &str| {
            let mut sources = self.secrets().map(|secret| secret.source());
            sources.any(|source| *source == SecretSource::Env(name.to_owned()))
        };
        let prefixed = names
            .iter()
            .filter_map(|name| Some((name, name.strip_prefix(PREFIX)?)));
        let unread = prefixed.filter(|(name, rest)| {
            !VARIABLES.contains(rest)
                && !is_secret_source(name)
                && !is_set_by_kubernetes(name, names)
        });
        unread
            .map(|(name, rest)| match nearest(rest, &VARIABLES) {
                Some(near) => {
                    format!(
                        "{name}: stepgate does not read this variable; did you mean {PREFIX}{near}?"
                    )
                }
                None => format!(
                    "{name}: stepgate does not read this variable; after {PREFIX} it reads {}",
                    VARIABLES.join(", ")
                ),
            })
            .collect()
    }

    /// Warns of `Authorization` values without the scheme that RFC 9110 section 11.6.2 requires.
    fn missing_auth_schemes(&self) -> Vec<String> {
        let of_clients = self.clients.iter().flat_map(|client| {
            let table = move |header| (format!("the headers of client {:?}", client.name), header);
            client.headers.iter().map(table)
        });
        let injected = self.upstream.headers.iter();
        let all = injected.map(|header| ("upstream.headers".to_owned(), header));
        all.chain(of_clients)
            .filter_map(|(table, header)| match &header.value {
                Value::Secret(secret)
                    if header.name == AUTHORIZATION && !secret.expose().contains(' ') =>
                {
                    let source = secret.source();
                    Some(format!(
                        "{table}: the value of authorization from {source} has no scheme; is `Bearer ` \
                         missing before it?"
                    ))
                }
                Value::Secret(_) | Value::Literal(_) => None,
            })
            .collect()
    }

    /// Warns of credentials that leave this machine without TLS.
    fn plaintext_credentials(&self) -> Option<String> {
        let base = &self.upstream.base_url;
        if base.https || is_loopback(&base.host) {
            return None;
        }
        let of_clients = self.clients.iter().flat_map(|client| &client.headers);
        let secrets: BTreeSet<&str> = self
            .upstream
            .headers
            .iter()
            .chain(of_clients)
            .filter(|header| is_secret(header))
            .map(|header| header.name.as_str())
            .collect();
        if secrets.is_empty() {
            return None;
        }
        let names: Vec<&str> = secrets.into_iter().collect();
        Some(format!(
            "upstream.base_url: {base} has no TLS and is not on this machine, so others on the \
             network path can read the injected headers ({}); write https://, or write the loopback \
             address of a TLS proxy on this machine",
            names.join(", ")
        ))
    }
}

/// Returns whether Kubernetes sets the variable for a Service: `X_SERVICE_HOST`, `X_SERVICE_PORT…` or
/// `X_PORT…`.
fn is_set_by_kubernetes(name: &str, names: &[String]) -> bool {
    let services = names.iter().filter_map(|n| n.strip_suffix("_SERVICE_HOST"));
    let mut suffixes = services.filter_map(|service| name.strip_prefix(service));
    suffixes.any(|suffix| suffix.starts_with("_SERVICE_") || suffix.starts_with("_PORT"))
}

fn is_secret(header: &Header) -> bool {
    match header.value {
        Value::Secret(_) => true,
        Value::Literal(_) => false,
    }
}

/// Returns whether the host is on this machine. RFC 6761 section 6.3 reserves the names.
fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    address.map_or_else(
        |_| host == "localhost" || host.ends_with(".localhost"),
        |address| address.to_canonical().is_loopback(),
    )
}
