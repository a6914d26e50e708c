//! What is valid, and yet may not be what was meant: told at a start, at a reload and by `check`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hyper::header::AUTHORIZATION;

use super::table::nearest;
use super::{Config, Header, SecretSource, Value};

/// What stands before the names of our variables.
const OURS: &str = "STEPGATE_";

/// The variables that are ours, without that.
const VARIABLES: [&str; 6] = ["CONFIG", "LISTEN", "ADMIN", "UPSTREAM", "LOG_FORMAT", "LOG"];

impl Config {
    /// What to think about, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut cautions: Vec<String> = self.in_the_clear().into_iter().collect();
        cautions.extend(self.without_scheme());
        cautions
    }

    /// What to think about in an environment with variables of these `names`: those that are named
    /// like ours, and that nobody reads.
    pub fn environment_warnings(&self, names: &[String]) -> Vec<String> {
        let is_named = |name: &str| {
            let mut sources = self.secrets().map(|secret| secret.source());
            sources.any(|source| *source == SecretSource::Env(name.to_owned()))
        };
        let ours = names
            .iter()
            .filter_map(|name| Some((name, name.strip_prefix(OURS)?)));
        let unread = ours.filter(|(name, rest)| {
            !VARIABLES.contains(rest) && !is_named(name) && !is_of_kubernetes(name, names)
        });
        unread
            .map(|(name, rest)| match nearest(rest, &VARIABLES) {
                Some(near) => {
                    format!("{name}: nothing reads this variable; did you mean {OURS}{near}?")
                }
                None => format!(
                    "{name}: nothing reads this variable; behind {OURS} there may be {}",
                    VARIABLES.join(", ")
                ),
            })
            .collect()
    }

    /// `Authorization` has a scheme before the credentials (RFC 9110 section 11.6.2).
    fn without_scheme(&self) -> Vec<String> {
        let of_clients = self.clients.iter().flat_map(|client| {
            let place = move |header| (format!("the headers of client {:?}", client.name), header);
            client.headers.iter().map(place)
        });
        let injected = self.upstream.headers.iter();
        let all = injected.map(|header| ("upstream.headers".to_owned(), header));
        all.chain(of_clients)
            .filter_map(|(place, header)| match &header.value {
                Value::Secret(secret)
                    if header.name == AUTHORIZATION && !secret.expose().contains(' ') =>
                {
                    let source = secret.source();
                    Some(format!(
                        "{place}: authorization from {source} is one word, without a scheme: is \
                         `Bearer ` missing before it?"
                    ))
                }
                Value::Secret(_) | Value::Literal(_) => None,
            })
            .collect()
    }

    /// Credentials that leave this machine without TLS.
    fn in_the_clear(&self) -> Option<String> {
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
            "upstream.base_url: {base} has no TLS and is not on this machine: whoever is on the way \
             can read what is injected ({}); write https://, or let something on this machine speak \
             TLS for it, and name its loopback address",
            names.join(", ")
        ))
    }
}

/// Whether Kubernetes set it, for a Service: `X_SERVICE_HOST`, and with it `X_SERVICE_PORT…` and
/// `X_PORT…`.
fn is_of_kubernetes(name: &str, names: &[String]) -> bool {
    let services = names.iter().filter_map(|n| n.strip_suffix("_SERVICE_HOST"));
    let mut rests = services.filter_map(|service| name.strip_prefix(service));
    rests.any(|rest| rest.starts_with("_SERVICE_") || rest.starts_with("_PORT"))
}

fn is_secret(header: &Header) -> bool {
    match header.value {
        Value::Secret(_) => true,
        Value::Literal(_) => false,
    }
}

/// RFC 6761 section 6.3 for the name.
fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    address.map_or_else(
        |_| host == "localhost" || host.ends_with(".localhost"),
        |address| address.to_canonical().is_loopback(),
    )
}
