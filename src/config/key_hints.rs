//! What is often written where there is no such key, and what was probably meant.

/// By full name: what would be right.
const MEANT: [(&str, &str); 14] = [
    ("admin.port", "the port is a part of `listen`"),
    ("log.file", "the log goes to standard error"),
    ("log.level", "the variable STEPGATE_LOG sets it"),
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
    ("upstream.retries", "callers retry, the gateway does not"),
    ("upstream.url", "write `base_url`"),
];

const LISTEN: &str = "`listen` holds address and port, like \"127.0.0.1:8180\"";
const PROXY: &str = "the variables HTTPS_PROXY and NO_PROXY name it";
const THREADS: &str = "the variable TOKIO_WORKER_THREADS sets their number";

/// What to write in place of this key.
pub(super) fn meant(full_name: &str) -> Option<&'static str> {
    let found = MEANT.iter().find(|(name, _)| *name == full_name);
    found.map(|(_, instead)| *instead)
}
