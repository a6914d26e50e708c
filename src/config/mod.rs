//! The configuration: loaded from file, environment and flags, validated, and printed.
//!
//! This module owns the keys, their defaults and their error messages. A [`Config`] is complete and
//! valid: every secret is loaded, every address is parsed, and every rule is built. If anything is
//! wrong, [`Problems`] lists all of it at once, each problem with its place.

mod address;
mod diagnostics;
mod header;
mod key_hints;
mod load;
mod print;
mod proxy;
mod redis;
mod reload;
mod rules;
mod secret;
mod secret_ref;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod validate;
mod value;
mod warnings;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};

pub use self::redis::{Redis, RedisUrl};
pub use address::{Address, BaseUrl};
pub use diagnostics::{Problem, Problems};
pub(crate) use header::is_credential;
pub use proxy::Proxy;
pub use reload::ReloadPlan;
pub use secret::{Secret, SecretError, SecretSource};
pub use tls::Tls;

use crate::policy::Rule;

/// Names where a configuration is read from. A flag overrides the environment, the environment
/// overrides the file, and the file overrides the default.
pub struct Sources<'a> {
    /// Names the file: `--config`, else `STEPGATE_CONFIG`. `None` if there is none.
    pub file: Option<PathBuf>,
    /// Holds the flags of the command line.
    pub flags: Flags,
    /// Reads an environment variable. Tests pass a map.
    pub env: &'a (dyn Fn(&str) -> Option<String> + Sync),
}

/// Holds the flags that configure the gateway, not parsed yet.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Holds each `--listen`.
    pub listen: Vec<String>,
    /// Holds `--admin`.
    pub admin: Option<String>,
    /// Holds `--upstream`.
    pub upstream: Option<String>,
    /// Holds `--log-format`.
    pub log_format: Option<LogFormat>,
}

/// Holds the complete, valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Configures the data listener and its limits.
    pub server: Server,
    /// Configures the admin listener.
    pub admin: Admin,
    /// Configures the upstream, and what requests to it carry.
    pub upstream: Upstream,
    /// Configures the cache.
    pub cache: Cache,
    /// Configures the log.
    pub log: Log,
    /// Holds the configured clients. If it is empty, the listener needs no token.
    pub clients: Vec<Client>,
    /// Holds the cacheable resources, the built-in rule first.
    pub rules: Vec<Rule>,
}

/// Configures the data listener and its limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Holds the addresses to listen on; never empty.
    pub listen: Vec<Address>,
    /// Holds the host names, in lower case, that an open listener accepts besides localhost and
    /// loopback addresses.
    pub allowed_hosts: Vec<String>,
    /// Whether a listener beyond loopback may be open, because something else guards it.
    pub allow_unauthenticated: bool,
    /// Says which requests are forwarded.
    pub forward: Forward,
    /// Limits the open connections.
    pub max_connections: usize,
    /// Limits the requests that wait because of `Prefer: wait`.
    pub max_long_polls: usize,
    /// Limits the time from accepting a connection to its first whole request head, and from the first
    /// byte of a later head to its end.
    pub header_timeout: Duration,
    /// Limits how long a connection may stay idle between requests.
    pub idle_timeout: Duration,
    /// Limits the time from the signal to the exit.
    pub drain_timeout: Duration,
    /// Delays the drain: for this time after the signal the gateway accepts, but is not ready.
    pub lame_duck: Duration,
    /// Configures TLS for clients over TCP. `None` if they use plain HTTP.
    pub tls: Option<Tls>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![Address::Tcp(loopback(8180))],
            allowed_hosts: Vec::new(),
            allow_unauthenticated: false,
            forward: Forward::Rules,
            max_connections: 10_000,
            max_long_polls: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            drain_timeout: Duration::from_secs(30),
            lame_duck: Duration::ZERO,
            tls: None,
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Says which requests go to the upstream besides the fetches of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Forwards nothing else.
    Rules,
    /// Forwards every other request below `/v1`.
    All,
}

/// Configures the admin listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Holds the address to listen on.
    pub listen: SocketAddr,
    /// Holds the token that `DELETE` and `/status` require. `None` is valid on loopback only.
    pub token: Option<Secret>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: loopback(8181),
            token: None,
        }
    }
}

/// Configures the upstream, and what requests to it carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Holds the base URL, such as `https://api.portkey.ai/v1`.
    pub base_url: BaseUrl,
    /// Limits name resolution, the TCP connection and the TLS handshake together.
    pub connect_timeout: Duration,
    /// Limits the time from a request's arrival to the end of its response. For a forwarded request, it
    /// limits the time to the head of the response.
    pub timeout: Duration,
    /// Limits the time between two parts of a forwarded body.
    pub stream_idle_timeout: Duration,
    /// Limits the fetches in flight.
    pub max_in_flight: usize,
    /// Limits how long a fetch waits for one of the `max_in_flight` permits.
    pub queue_timeout: Duration,
    /// Limits a key to one fetch in this time. Zero disables coalescing.
    pub coalesce_window: Duration,
    /// Limits how long a 429 blocks further fetches. Zero disables blocking.
    pub max_retry_after: Duration,
    /// Names further request headers that are sent on rule paths and become part of the key.
    pub vary_headers: Vec<HeaderName>,
    /// Names a PEM file of roots to trust besides the system's. `None` if there is none.
    pub ca_file: Option<PathBuf>,
    /// Holds the proxy that the environment names. `None` for an upstream without TLS.
    pub proxy: Option<Proxy>,
    /// Holds the headers injected into every request, each name once, sorted by name.
    pub headers: Vec<Header>,
    /// Holds the decoded parameters added to every query, sorted.
    pub query: Vec<(String, String)>,
}

impl Default for Upstream {
    /// Returns the settings for Portkey without any header, because those need the environment.
    fn default() -> Self {
        Self {
            base_url: BaseUrl {
                https: true,
                host: "api.portkey.ai".to_owned(),
                port: 443,
                path: "/v1".to_owned(),
            },
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
            stream_idle_timeout: Duration::from_secs(300),
            max_in_flight: 256,
            queue_timeout: Duration::from_secs(1),
            coalesce_window: Duration::from_millis(100),
            max_retry_after: Duration::from_secs(30),
            vary_headers: Vec::new(),
            ca_file: None,
            proxy: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }
}

/// Holds an injected header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Holds the name.
    pub name: HeaderName,
    /// Holds the value.
    pub value: Value,
}

/// Holds the value of an injected header.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Holds a value that is written in the configuration, and is no secret.
    Literal(HeaderValue),
    /// Holds a value from the environment or a file.
    Secret(Secret),
}

/// Configures the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// Limits bodies, keys and overhead together, in bytes.
    pub max_bytes: u64,
    /// Limits a stored body, in bytes. A larger body is streamed and not stored.
    pub max_entry_bytes: u64,
    /// Limits how long a final body is stored.
    pub ttl: Duration,
    /// Whether `Cache-Control: no-store` of the upstream prevents storing.
    pub honor_no_store: bool,
    /// Configures the tier that a fleet shares. `None` if the cache is memory alone.
    pub redis: Option<Redis>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_bytes: 256 * bytesize::MIB,
            max_entry_bytes: bytesize::MIB,
            ttl: Duration::from_secs(24 * 60 * 60),
            honor_no_store: true,
            redis: None,
        }
    }
}

/// Configures the log, which goes to standard error.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Sets the format of a line.
    pub format: LogFormat,
    /// Says which requests are logged.
    pub access: Access,
    /// Whether lines hold the ids of their path. At debug level they always do.
    pub ids: bool,
    /// Holds the filter directives from `STEPGATE_LOG`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            access: Access::Upstream,
            ids: false,
            filter: "info".to_owned(),
        }
    }
}

/// Sets the format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Writes text for people.
    Text,
    /// Writes one JSON object a line.
    Json,
}

/// Says which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Logs no request.
    Off,
    /// Logs the requests that start a fetch, and errors.
    Upstream,
    /// Logs all requests.
    All,
}

/// Describes a configured client.
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    /// Holds the name: a log field, and part of the partition if the client has its own headers.
    pub name: String,
    /// Holds the tokens. The client may present any of them.
    pub tokens: Vec<Secret>,
    /// Holds the headers that replace or extend `upstream.headers`, each name once, sorted by name.
    pub headers: Vec<Header>,
    /// Names the `upstream.headers` that are not sent for this client.
    pub removed_headers: Vec<HeaderName>,
}

impl Config {
    /// Returns the headers that are injected for `client`, sorted by name.
    ///
    /// `client` is `None` if the listener is open.
    pub fn headers_for<'c>(&'c self, client: Option<&'c Client>) -> Vec<&'c Header> {
        let (own, removed) =
            client.map_or((&[][..], &[][..]), |c| (&c.headers, &c.removed_headers));
        let is_replaced = |h: &&Header| own.iter().any(|o| o.name == h.name);
        let mut headers: Vec<&Header> = self
            .upstream
            .headers
            .iter()
            .filter(|h| !removed.contains(&h.name) && !is_replaced(h))
            .chain(own)
            .collect();
        headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        headers
    }
}
