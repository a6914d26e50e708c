//! The configuration, twice: as it is written (`file`), and as it is meant ([`Config`]).
//!
//! [`Config`] is whole and valid: every secret is loaded, every address parsed, every rule built.
//! Everything that can be wrong with it is said at once, with its place, before anything starts.

mod address;
mod client;
mod defaults;
mod diagnostics;
mod file;
mod header;
mod key_hints;
mod overrides;
mod print;
mod proxy;
mod redis;
mod redis_url;
mod reload;
mod rules;
mod secret;
mod secret_ref;
mod server;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod upstream;
mod validate;
mod value;
mod warnings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};

pub use self::redis::Redis;
pub use diagnostics::{Problem, Problems};
pub(crate) use header::is_credential;
pub use proxy::Proxy;
pub use redis_url::RedisUrl;
pub use reload::ReloadPlan;
pub use secret::{Secret, SecretError, SecretSource};
pub use tls::Tls;

use crate::policy::Rule;

/// Where a configuration is read from. Order: flag, environment, file, default.
pub struct Sources<'a> {
    /// `--config`, else `STEPGATE_CONFIG`; none: the built-in defaults.
    pub file: Option<PathBuf>,
    /// What the command line says.
    pub flags: Flags,
    /// The environment: `std::env::var` in production, a map in tests.
    pub env: &'a (dyn Fn(&str) -> Option<String> + Sync),
}

/// What the command line says about the configuration, unparsed.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--listen`, repeatable.
    pub listen: Vec<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--upstream`
    pub upstream: Option<String>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
}

/// The whole configuration, valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The data listener and its limits.
    pub server: Server,
    /// The admin listener.
    pub admin: Admin,
    /// Where requests go, and what is added to them.
    pub upstream: Upstream,
    /// What may be kept, how much and for how long.
    pub cache: Cache,
    /// What is written to standard error.
    pub log: Log,
    /// Who may ask; empty: an open listener.
    pub clients: Vec<Client>,
    /// The cacheable resources, the built-in one first.
    pub rules: Vec<Rule>,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `127.0.0.1:8180`
    Tcp(SocketAddr),
    /// `unix:/run/stepgate/stepgate.sock`
    Unix(PathBuf),
}

/// The data listener and its limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where it listens; never empty.
    pub listen: Vec<Address>,
    /// Host names (lower case) that an open listener answers to, besides localhost and loopback.
    pub allowed_hosts: Vec<String>,
    /// Something else guards a listener beyond loopback that has no clients.
    pub allow_unauthenticated: bool,
    /// What is answered besides the rules.
    pub forward: Forward,
    /// Connections open at once.
    pub max_connections: usize,
    /// Requests held by `Prefer: wait`.
    pub max_long_polls: usize,
    /// Accept to a whole first head; first byte to a whole later head.
    pub header_timeout: Duration,
    /// Keep-alive between requests.
    pub idle_timeout: Duration,
    /// From the signal to the exit, at most.
    pub drain_timeout: Duration,
    /// After the signal: not ready, but still accepting, for this long.
    pub lame_duck: Duration,
    /// For callers over TCP; none: they speak plain HTTP.
    pub tls: Option<Tls>,
}

/// What goes up besides the fetches of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Nothing.
    Rules,
    /// Every other request under `/v1`.
    All,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Required for `DELETE` and `/status` when present (always so beyond loopback).
    pub token: Option<Secret>,
}

/// Where requests go, and what is added to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// `https://api.portkey.ai/v1`
    pub base_url: BaseUrl,
    /// Name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// From a request's arrival to the end of its answer; of a forwarded one, to its answer's head.
    pub timeout: Duration,
    /// Forwarded streams: the longest silence.
    pub stream_idle_timeout: Duration,
    /// Fetches at once.
    pub max_in_flight: usize,
    /// How long a fetch waits for one of those places.
    pub queue_timeout: Duration,
    /// At most one departure of a step in this long; zero: every request its own fetch.
    pub coalesce_window: Duration,
    /// How long a 429 is held for everyone, at most; zero: never.
    pub max_retry_after: Duration,
    /// Further request headers that pass up on rule paths, and become part of the key.
    pub vary_headers: Vec<HeaderName>,
    /// PEM roots added to the system's.
    pub ca_file: Option<PathBuf>,
    /// What stands between; named by the environment alone, never for a plain upstream.
    pub proxy: Option<Proxy>,
    /// Injected on every fetch, each name once, in the order of their names.
    pub headers: Vec<Header>,
    /// Added to every fetch (decoded), each name once, in the order of their names.
    pub query: Vec<(String, String)>,
}

/// The upstream's address: scheme, host, port and a path prefix without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// TLS or plain.
    pub https: bool,
    /// Lower case; an IPv6 address without its brackets.
    pub host: String,
    /// The port, also where it is the scheme's default.
    pub port: u16,
    /// `/v1`, or empty.
    pub path: String,
}

/// An injected header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: Value,
}

/// A value that may be secret.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Written in the configuration: not a secret.
    Literal(HeaderValue),
    /// From the environment or a file.
    Secret(Secret),
}

/// What may be kept, how much and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// Bodies, keys and overhead, in bytes.
    pub max_bytes: u64,
    /// A larger body is streamed, unstored.
    pub max_entry_bytes: u64,
    /// How long a final body is kept.
    pub ttl: Duration,
    /// `Cache-Control: no-store` from upstream is heeded.
    pub honor_no_store: bool,
    /// A second tier that a fleet shares; none: memory alone.
    pub redis: Option<Redis>,
}

/// What is written to standard error.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// Which requests get one.
    pub access: Access,
    /// Whether lines carry the ids of their path; at debug level they do anyhow.
    pub ids: bool,
    /// `STEPGATE_LOG`: tracing's filter directives.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which requests get a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// None.
    Off,
    /// Those that cost a fetch, and errors.
    Upstream,
    /// All.
    All,
}

/// Somebody who may ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    /// Log field, and part of the partition where it has headers of its own.
    pub name: String,
    /// Any of these lets it in.
    pub tokens: Vec<Secret>,
    /// Laid over `upstream.headers`, each name once, in the order of their names.
    pub headers: Vec<Header>,
    /// Headers of `upstream.headers` that this client's fetches do not carry.
    pub removed_headers: Vec<HeaderName>,
}

impl Config {
    /// What is injected on a fetch for `client` (none: the open listener), in the order of names.
    pub fn headers_for<'c>(&'c self, client: Option<&'c Client>) -> Vec<&'c Header> {
        let (own, removed) =
            client.map_or((&[][..], &[][..]), |c| (&c.headers, &c.removed_headers));
        let replaced = |h: &&Header| own.iter().any(|o| o.name == h.name);
        let mut headers: Vec<&Header> = self
            .upstream
            .headers
            .iter()
            .filter(|h| !removed.contains(&h.name) && !replaced(h))
            .chain(own)
            .collect();
        headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        headers
    }
}
