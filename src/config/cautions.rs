//! What is valid, and yet may not be what was meant: told at a start, at a reload and by `check`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Config, Header, Value};

impl Config {
    /// What to think about, a line each.
    pub fn cautions(&self) -> Vec<String> {
        self.in_the_clear().into_iter().collect()
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
