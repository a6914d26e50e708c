//! Where a server of the shared tier is.
//!
//! A URL is valid if the client takes it and heeds all that it says: what the client would pass over
//! in silence is refused. No error repeats any of it: every part may turn out to be a password.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use rustls_pki_types::ServerName;

use super::address::{LONGEST_SOCKET_PATH, parse_host};
use super::secret::Secret;

/// Where one server is.
///
/// Valid: the client will parse it. `Display` and `Debug` show neither user nor password: a URL that
/// is written in the configuration has none, of another one they name the source.
#[derive(Clone, PartialEq)]
pub struct RedisUrl {
    url: Url,
}

#[derive(Clone, PartialEq)]
enum Url {
    Literal(String),
    Secret(Secret),
}

impl RedisUrl {
    /// Takes a URL as it is written in the configuration.
    ///
    /// # Errors
    /// What is wrong with it, a password among that; never any of it.
    pub fn literal(url: &str) -> Result<Self, String> {
        let url = url.trim();
        if parse(url)?.redis_settings().password().is_some() {
            return Err(
                "holds a password; a password belongs in the environment or a file: \
                 url = { env = \"REDIS_URL\" }"
                    .to_owned(),
            );
        }
        Ok(Self {
            url: Url::Literal(url.to_owned()),
        })
    }

    /// Takes a URL that was loaded as a secret.
    ///
    /// # Errors
    /// What is wrong with it; never any of it.
    pub fn secret(url: Secret) -> Result<Self, String> {
        match parse(url.expose()) {
            Ok(_) => Ok(Self {
                url: Url::Secret(url),
            }),
            Err(text) => Err(format!("{} {text}", url.source())),
        }
    }

    /// The URL, password and all: for the client, nothing else.
    pub fn expose(&self) -> &str {
        match &self.url {
            Url::Literal(text) => text,
            Url::Secret(secret) => secret.expose(),
        }
    }

    /// Host and port, or the path of a socket: of a secret URL, too, the part that is none. (What of a
    /// password could be read as a host leaves a URL that is refused.)
    pub fn address(&self) -> String {
        let info = parse(self.expose());
        info.map_or_else(|_| self.to_string(), |info| info.addr().to_string())
    }

    /// Whether it is connected to by TLS.
    pub fn has_tls(&self) -> bool {
        let info = parse(self.expose());
        info.is_ok_and(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
    }

    /// Whether nobody but the two ends sees what passes: TLS, or this machine alone.
    pub(super) fn is_guarded(&self) -> bool {
        let Ok(info) = parse(self.expose()) else {
            return false;
        };
        let ConnectionAddr::Tcp(host, _) = info.addr() else {
            return true;
        };
        let ip = host.trim_matches(['[', ']']).parse();
        host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// The secret that it was read from, if it was.
    pub(super) fn source(&self) -> Option<&Secret> {
        match &self.url {
            Url::Literal(_) => None,
            Url::Secret(secret) => Some(secret),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
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

/// What keeps a node from being in one cluster with `first`, the first that is listed: the client asks
/// any of them where the others are, and connects to all in one way.
pub(super) fn misfit(node: &RedisUrl, first: &RedisUrl) -> Option<String> {
    let (info, first) = (parse(node.expose()).ok()?, parse(first.expose()).ok()?);
    let is_socket = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::Unix(_));
    let text = if is_socket(&info) {
        "is a unix socket, and a list names the nodes of a cluster; write it alone"
    } else if info.redis_settings().db() != 0 {
        "names a database, and a cluster has none but 0; leave it out"
    } else if !is_socket(&first) && ConnectionProfile::of(&info) != ConnectionProfile::of(&first) {
        "differs from another node in TLS, user, password or protocol; a cluster has one of each"
    } else {
        return None;
    };
    // What is wrong with a secret is told with its source: its value is not in the file.
    Some(match &node.url {
        Url::Literal(_) => text.to_owned(),
        Url::Secret(secret) => format!("{} {text}", secret.source()),
    })
}

/// How the client speaks to all nodes of a cluster.
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

/// Reads a URL as the client will.
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
    // The client would drop some of them, and connect to what nobody sees written.
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
            "is not a valid URL (what is special in a user name or password is percent-encoded: \
             `#` is %23); {LIKE}"
        )
    };
    let url = redis::parse_redis_url(text).ok_or_else(invalid)?;
    if url.fragment().is_some() {
        return Err(
            "contains a fragment: certificates are always checked, so leave it out (a `#` in a \
             password is written %23)"
                .to_owned(),
        );
    }
    let is_unix = url.scheme().ends_with("unix");
    let query: Vec<_> = url.query_pairs().collect();
    let said = |name: &str| query.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v);
    let database = if is_unix {
        check_socket(&url.to_file_path().unwrap_or_default(), url.has_host())?;
        check_query(&query, &["db", "user", "pass", "protocol"])?;
        said("db").map_or("", |db| db)
    } else {
        check_server(url.host_str(), url.port())?;
        check_query(&query, &["protocol"])?;
        url.path().trim_matches('/')
    };
    if !database.is_empty() && !database.parse::<i64>().is_ok_and(|number| number >= 0) {
        return Err("names a database that is not a number from 0".to_owned());
    }
    if said("protocol").is_some_and(|p| !matches!(&**p, "2" | "resp2" | "3" | "resp3")) {
        return Err("names a protocol that is neither resp2 nor resp3".to_owned());
    }
    let info = text.into_connection_info().map_err(|_| invalid())?;
    let settings = info.redis_settings();
    if settings.username().is_some() && settings.password().is_none_or(str::is_empty) {
        return Err(
            "names a user without a password, which the client never sends; a password alone is \
             written redis://:PASSWORD@HOST"
                .to_owned(),
        );
    }
    Ok(info)
}

/// The client ignores names that it does not know.
fn check_query<N: AsRef<str>, V>(query: &[(N, V)], known: &[&str]) -> Result<(), String> {
    if query.iter().all(|(name, _)| known.contains(&name.as_ref())) {
        return Ok(());
    }
    Err(format!(
        "has a query with something else than {}; leave it out",
        known.join(", ")
    ))
}

fn check_server(host: Option<&str>, port: Option<u16>) -> Result<(), String> {
    let Some(written) = host.filter(|host| !host.is_empty()) else {
        return Err(format!("has no host; {LIKE}"));
    };
    let host = written.trim_matches(['[', ']']);
    let is_any = host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    // As TLS will want it: no empty label, none too long.
    let is_plain = parse_host(host).is_ok() && ServerName::try_from(host).is_ok();
    if is_plain && !is_any && port != Some(0) {
        return Ok(());
    }
    Err(format!(
        "names a host or port that nothing can connect to; {LIKE}"
    ))
}

fn check_socket(path: &Path, has_host: bool) -> Result<(), String> {
    let path = path.as_os_str().as_encoded_bytes();
    let plain = path.starts_with(b"/") && !path.ends_with(b"/") && !path.contains(&0);
    if !plain || has_host {
        return Err(
            "needs the full path of a socket, like \"unix:/run/redis/redis.sock\"".to_owned(),
        );
    }
    if path.len() > LONGEST_SOCKET_PATH {
        return Err(format!(
            "names a socket whose path is too long: at most {LONGEST_SOCKET_PATH} bytes, this one has {}",
            path.len()
        ));
    }
    Ok(())
}
