//! Hints for keys that do not exist: keys that were renamed, and keys that are often guessed.

/// Lists the full name of each renamed key with its new name in the same table.
const RENAMED: [(&str, &str); 6] = [
    ("cache.redis.budget", "command_timeout"),
    ("server.hosts", "allowed_hosts"),
    ("server.max_waiters", "max_long_polls"),
    ("server.open", "allow_unauthenticated"),
    ("upstream.forward_headers", "vary_headers"),
    ("upstream.max_hold", "max_retry_after"),
];

/// Lists the full name of each key that is often guessed with what to do instead.
const GUESSED: [(&str, &str); 14] = [
    ("admin.port", "the port is part of `listen`"),
    ("log.file", "the log goes to standard error"),
    ("log.level", "set the variable STEPGATE_LOG"),
    ("proxy", PROXY),
    ("server.address", LISTEN),
    ("server.bind", LISTEN),
    ("server.host", LISTEN),
    ("server.port", LISTEN),
    ("server.threads", THREADS),
    ("server.workers", THREADS),
    (
        "upstream.api_key",
        "credentials are headers; name it under [upstream.headers]",
    ),
    ("upstream.proxy", PROXY),
    (
        "upstream.retries",
        "clients retry; the gateway does not retry for them",
    ),
    ("upstream.url", "write `base_url`"),
];

const LISTEN: &str = "`listen` holds address and port, like \"127.0.0.1:8180\"";
const PROXY: &str = "set the variables HTTPS_PROXY and NO_PROXY";
const THREADS: &str = "set the variable TOKIO_WORKER_THREADS";

/// Returns what to write instead of the key with this full name, if it is a known mistake.
pub(super) fn hint(full_name: &str) -> Option<String> {
    let find = |hints: &[(&str, &'static str)]| {
        let found = hints.iter().find(|(name, _)| *name == full_name);
        found.map(|(_, hint)| *hint)
    };
    find(&RENAMED)
        .map(|new| format!("renamed to {new:?}"))
        .or_else(|| find(&GUESSED).map(str::to_owned))
}
