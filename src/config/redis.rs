//! The section `[cache.redis]`: the cache tier that the gateways of a fleet share.
//!
//! A URL is valid only if the Redis client accepts it and applies all of it. This module refuses what the
//! client would silently ignore. No error repeats any part of a URL, because any part may be a password.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use rustls_pki_types::ServerName;
use toml::de::DeValue;

use super::address::{MAX_SOCKET_PATH_LEN, parse_host};
use super::secret::Secret;
use super::secret_ref::SecretResolver;
use super::table::Item;
use super::tls::roots;
use super::value::{TICK, duration, list};

/// Configures Redis or Valkey as a second cache tier, shared by the gateways of a fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Redis {
    /// Holds one server, or the nodes of a cluster that the client contacts first. Never empty.
    pub nodes: Vec<RedisUrl>,
    /// Whether the nodes were written as a list.
    pub is_cluster: bool,
    /// Holds the prefix of every key in Redis: 1 to 64 of `[A-Za-z0-9._:-]`.
    pub prefix: String,
    /// Limits how long a command may take.
    pub command_timeout: Duration,
    /// Holds the key that encrypts stored values, at least 16 bytes. `None` if they are not encrypted.
    pub encryption_key: Option<Secret>,
    /// Names a PEM file of roots that replace the system's. It is valid with TLS only.
    pub ca_file: Option<PathBuf>,
}

impl Redis {
    /// Returns the first node to which bodies are sent neither encrypted nor over a private connection.
    ///
    /// Anyone on the network path can read and forge the bodies.
    pub fn insecure_node(&self) -> Option<&RedisUrl> {
        let mut nodes = self.nodes.iter().filter(|_| self.encryption_key.is_none());
        nodes.find(|node| !node.is_private())
    }

    /// Returns the secrets of the section.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let urls = self.nodes.iter().filter_map(RedisUrl::source);
        urls.chain(&self.encryption_key)
    }
}

/// Is the default of `command_timeout`: a hundred times what a command needs in one network, and less
/// than most fetches.
const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_millis(50);

/// Limits `command_timeout`. A client should not wait longer, because a fetch could have started.
const MAX_COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads `[cache.redis]` and the secrets that it names.
pub(super) fn read(item: Item<'_>, secrets: &SecretResolver<'_>) -> Option<Redis> {
    let mut table = item.table("a table, [cache.redis]")?;
    let nodes = table.require("url", "write the URL of Redis or Valkey", |item| {
        nodes(item, secrets)
    });
    let prefix = table.require(
        "prefix",
        "it separates the bodies of different accounts in one Redis",
        |item| item.parse("a string", parse_prefix),
    );
    let command_timeout = table.take_or(
        "command_timeout",
        DEFAULT_COMMAND_TIMEOUT,
        duration(TICK..=MAX_COMMAND_TIMEOUT),
    );
    let encryption_key = table
        .take("encryption_key")
        .map(|item| encryption_key(item, secrets));
    let ca_file = table.take("ca_file");
    table.finish();
    let (nodes, is_cluster) = nodes?;
    let ca_file = ca_file.map(|item| ca_file_for(&nodes, item, secrets));
    Some(Redis {
        nodes,
        is_cluster,
        prefix: prefix?,
        command_timeout,
        encryption_key: match encryption_key {
            None => None,
            Some(read) => Some(read?),
        },
        ca_file: match ca_file {
            None => None,
            Some(read) => Some(read?),
        },
    })
}

const URL: &str = "a URL like \"redis://redis.internal:6379\", { env = \"NAME\" }, \
     { file = \"/path\" }, or a list of them for a cluster";

fn nodes(item: Item<'_>, secrets: &SecretResolver<'_>) -> Option<(Vec<RedisUrl>, bool)> {
    let one = |item: Item<'_>| {
        let span = item.span();
        Some((node(item, secrets)?, span))
    };
    let diagnostics = item.diagnostics();
    match item.value().as_array().map(|array| array.len()) {
        None => return node(item, secrets).map(|node| (vec![node], false)),
        Some(0) => return item.reject("is empty; name at least one server"),
        Some(_) => {}
    }
    let nodes = list(URL, one)(item)?;
    if let Some((first, _)) = nodes.first() {
        for (node, span) in &nodes {
            if let Some(text) = mismatch(node, first) {
                diagnostics.report(span, text);
            }
        }
    }
    Some((nodes.into_iter().map(|(node, _)| node).collect(), true))
}

fn node(item: Item<'_>, secrets: &SecretResolver<'_>) -> Option<RedisUrl> {
    let (span, diagnostics) = (item.span(), item.diagnostics());
    match item.value() {
        DeValue::String(_) => return item.parse(URL, RedisUrl::literal),
        DeValue::Table(_) => {}
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => return item.expected(URL),
    }
    match RedisUrl::secret(secrets.secret(item)?) {
        Ok(node) => Some(node),
        Err(text) => {
            diagnostics.report(&span, text);
            None
        }
    }
}

/// Parses the key prefix. Braces are refused, because they would be a hash tag of a cluster.
fn parse_prefix(text: &str) -> Result<String, String> {
    const VALID: &str = "use 1 to 64 letters, digits, `.`, `_`, `:` and `-`";
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if text.contains(['{', '}']) {
        return Err(format!(
            "{text:?} contains a brace; a cluster hashes only the text in braces, so all keys \
             would be on one node; {VALID}"
        ));
    }
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not a prefix; {VALID}"))
}

fn ca_file_for(
    nodes: &[RedisUrl],
    item: Item<'_>,
    secrets: &SecretResolver<'_>,
) -> Option<PathBuf> {
    // The nodes of a cluster have equal connection profiles.
    if nodes.first().is_some_and(RedisUrl::has_tls) {
        return roots(&item, secrets).map(|(path, ..)| path);
    }
    item.reject("has no effect without TLS; write the url with \"rediss://\", or leave this out")
}

/// Limits the length of an encryption key from below, in bytes. A shorter key could be guessed.
const MIN_KEY_LEN: usize = 16;

fn encryption_key(item: Item<'_>, secrets: &SecretResolver<'_>) -> Option<Secret> {
    let (span, diagnostics) = (item.span(), item.diagnostics());
    let key = secrets.secret(item)?;
    if key.expose().len() >= MIN_KEY_LEN {
        return Some(key);
    }
    let text = format!(
        "{} has fewer than {MIN_KEY_LEN} bytes; make one with `openssl rand -hex 32`",
        key.source()
    );
    diagnostics.report(&span, text);
    None
}

/// Holds the URL of one server. The Redis client accepts it.
///
/// `Display` and `Debug` show neither user nor password. A URL that is written in the configuration has
/// none. For any other URL they show the source.
#[derive(Clone, PartialEq)]
pub struct RedisUrl(Url);

#[derive(Clone, PartialEq)]
enum Url {
    Literal(String),
    Secret(Secret),
}

impl RedisUrl {
    /// Parses a URL that is written in the configuration. It must not contain a password.
    ///
    /// # Errors
    /// Says what is wrong, without any part of the URL.
    pub fn literal(url: &str) -> Result<Self, String> {
        let url = url.trim();
        if parse(url)?.redis_settings().password().is_some() {
            return Err(
                "contains a password; put the whole URL into the environment or a file, and write \
                 url = { env = \"REDIS_URL\" }"
                    .to_owned(),
            );
        }
        Ok(Self(Url::Literal(url.to_owned())))
    }

    /// Parses a URL that was loaded as a secret.
    ///
    /// # Errors
    /// Says what is wrong, without any part of the URL.
    pub fn secret(url: Secret) -> Result<Self, String> {
        match parse(url.expose()) {
            Ok(_) => Ok(Self(Url::Secret(url))),
            Err(text) => Err(format!("{} {text}", url.source())),
        }
    }

    /// Returns the URL with its password, for the Redis client only.
    pub fn expose(&self) -> &str {
        match &self.0 {
            Url::Literal(text) => text,
            Url::Secret(secret) => secret.expose(),
        }
    }

    /// Returns host and port, or the path of a socket, without user and password.
    pub fn address(&self) -> String {
        let info = parse(self.expose());
        info.map_or_else(|_| self.to_string(), |info| info.addr().to_string())
    }

    /// Returns whether the connection uses TLS.
    pub fn has_tls(&self) -> bool {
        let info = parse(self.expose());
        info.is_ok_and(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
    }

    /// Returns whether the connection uses TLS or stays on this machine.
    fn is_private(&self) -> bool {
        let Ok(info) = parse(self.expose()) else {
            return false;
        };
        let ConnectionAddr::Tcp(host, _) = info.addr() else {
            return true;
        };
        let ip = host.trim_matches(['[', ']']).parse();
        host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// Returns the secret that the URL was read from. `None` if it is written in the configuration.
    pub(super) fn source(&self) -> Option<&Secret> {
        match &self.0 {
            Url::Literal(_) => None,
            Url::Secret(secret) => Some(secret),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Url::Literal(text) => f.write_str(text),
            Url::Secret(secret) => write!(f, "{}", secret.source()),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

/// Returns why a node cannot be in one cluster with `first`, the first node of the list.
///
/// The client connects to all nodes of a cluster with one profile.
fn mismatch(node: &RedisUrl, first: &RedisUrl) -> Option<String> {
    let (info, first) = (parse(node.expose()).ok()?, parse(first.expose()).ok()?);
    let is_socket = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::Unix(_));
    let text = if is_socket(&info) {
        "is a unix socket, but a list names the nodes of a cluster; write it without a list"
    } else if info.redis_settings().db() != 0 {
        "names a database, but a cluster has only database 0; leave it out"
    } else if !is_socket(&first) && ConnectionProfile::of(&info) != ConnectionProfile::of(&first) {
        "differs from another node in TLS, user, password or protocol; write the same for all nodes"
    } else {
        return None;
    };
    // The value of a secret is not in the file, so the problem names its source.
    Some(match &node.0 {
        Url::Literal(_) => text.to_owned(),
        Url::Secret(secret) => format!("{} {text}", secret.source()),
    })
}

/// Holds what must be equal for all nodes of a cluster.
#[derive(PartialEq)]
struct ConnectionProfile<'i> {
    tls: bool,
    user: Option<&'i str>,
    password: Option<&'i str>,
    resp3: bool,
}

impl<'i> ConnectionProfile<'i> {
    fn of(info: &'i ConnectionInfo) -> Self {
        let settings = info.redis_settings();
        Self {
            tls: matches!(info.addr(), ConnectionAddr::TcpTls { .. }),
            user: settings.username(),
            password: settings.password(),
            resp3: matches!(settings.protocol(), ProtocolVersion::RESP3),
        }
    }
}

const LIKE: &str = "write one like \"redis://redis.internal:6379\"";

/// Parses a URL like the client, but refuses what the client would ignore.
fn parse(text: &str) -> Result<ConnectionInfo, String> {
    const SCHEMES: [&str; 7] = [
        "redis",
        "rediss",
        "valkey",
        "valkeys",
        "unix",
        "redis+unix",
        "valkey+unix",
    ];
    // The client would drop some control characters, and connect to another server than written.
    if text.chars().any(char::is_control) {
        return Err("contains a control character".to_owned());
    }
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    if !scheme.is_some_and(|scheme| SCHEMES.iter().any(|s| s.eq_ignore_ascii_case(scheme))) {
        return Err(format!(
            "begins with none of {}; {LIKE}",
            SCHEMES.map(|scheme| format!("{scheme}:")).join(", ")
        ));
    }
    let invalid = || {
        format!(
            "is not a valid URL (percent-encode special characters in a user name or password: \
             `#` as %23); {LIKE}"
        )
    };
    let url = redis::parse_redis_url(text).ok_or_else(invalid)?;
    if url.fragment().is_some() {
        return Err(
            "contains a fragment; leave it out, because certificates are always checked (write a \
             `#` in a password as %23)"
                .to_owned(),
        );
    }
    let is_unix = url.scheme().ends_with("unix");
    let query: Vec<_> = url.query_pairs().collect();
    let parameter = |name: &str| query.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v);
    let database = if is_unix {
        check_socket(&url.to_file_path().unwrap_or_default(), url.has_host())?;
        check_query(&query, &["db", "user", "pass", "protocol"])?;
        parameter("db").map_or("", |db| db)
    } else {
        check_server(url.host_str(), url.port())?;
        check_query(&query, &["protocol"])?;
        url.path().trim_matches('/')
    };
    if !database.is_empty() && !database.parse::<i64>().is_ok_and(|number| number >= 0) {
        return Err("names a database that is not a number; write 0 or more".to_owned());
    }
    if parameter("protocol").is_some_and(|p| !matches!(&**p, "2" | "resp2" | "3" | "resp3")) {
        return Err(
            "names a protocol that is neither resp2 nor resp3; write one of them".to_owned(),
        );
    }
    let info = text.into_connection_info().map_err(|_| invalid())?;
    let settings = info.redis_settings();
    if settings.username().is_some() && settings.password().is_none_or(str::is_empty) {
        return Err(
            "names a user without a password, which the client never sends; write a password \
             without a user as redis://:PASSWORD@HOST"
                .to_owned(),
        );
    }
    Ok(info)
}

/// Refuses unknown query parameters, because the client would ignore them.
fn check_query<N: AsRef<str>, V>(query: &[(N, V)], known: &[&str]) -> Result<(), String> {
    if query.iter().all(|(name, _)| known.contains(&name.as_ref())) {
        return Ok(());
    }
    Err(format!(
        "has a query parameter other than {}; leave it out",
        known.join(", ")
    ))
}

fn check_server(host: Option<&str>, port: Option<u16>) -> Result<(), String> {
    let Some(written) = host.filter(|host| !host.is_empty()) else {
        return Err(format!("has no host; {LIKE}"));
    };
    let host = written.trim_matches(['[', ']']);
    let is_any = host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    // TLS needs a host without empty or overlong labels.
    let is_valid = parse_host(host).is_ok() && ServerName::try_from(host).is_ok();
    if is_valid && !is_any && port != Some(0) {
        return Ok(());
    }
    Err(format!(
        "names a host or port that no client can connect to; {LIKE}"
    ))
}

fn check_socket(path: &Path, has_host: bool) -> Result<(), String> {
    let path = path.as_os_str().as_encoded_bytes();
    let is_full = path.starts_with(b"/") && !path.ends_with(b"/") && !path.contains(&0);
    if !is_full || has_host {
        return Err(
            "needs the full path of a socket, like \"unix:/run/redis/redis.sock\"".to_owned(),
        );
    }
    if path.len() > MAX_SOCKET_PATH_LEN {
        return Err(format!(
            "names a socket whose path is too long; use at most {MAX_SOCKET_PATH_LEN} bytes, this one has {}",
            path.len()
        ));
    }
    Ok(())
}
