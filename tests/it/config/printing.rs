//! The effective configuration as `stepgate check` prints it.

use super::{Env, KEYS, load_text};

/// Sets every key to another value than its default.
const FULL: &str = r#"
[server]
listen = ["0.0.0.0:8280", "unix:/run/s.sock"]
allowed_hosts = ["Stepgate.Internal"]
allow_unauthenticated = true
forward = "rules"
max_connections = 1_000
max_long_polls = 0x10
header_timeout = "1s 500ms"
idle_timeout = "2m"
drain_timeout = "90s"
lame_duck = "5s"
[admin]
listen = "0.0.0.0:8281"
token = { env = "ADMIN" }
[upstream]
base_url = "http://[::1]:8787/v1/"
connect_timeout = "250ms"
timeout = "30s"
stream_idle_timeout = "1h"
max_in_flight = 3
queue_timeout = "0s"
coalesce_window = "0s"
max_retry_after = "0s"
vary_headers = ["x-tenant"]
[upstream.headers]
openai-beta = false
"x.odd" = "quote \" and \\ backslash"
authorization = { env = "AUTH" }
[upstream.query]
"api version" = "a\tb"
[cache]
max_bytes = 1_000_001
max_entry_bytes = "3KiB"
ttl = "36h"
honor_no_store = false
[log]
format = "json"
access = "off"
[[client]]
name = "a.b"
token = [{ env = "T1" }, { env = "T2" }]
[client.headers]
x-mine = { env = "T3" }
authorization = false
[[client]]
name = "c"
token = { env = "T3" }
[[rule]]
name = "response"
path = "/responses/{response_id}"
object = "response"
identity = { id = "response_id" }
terminal = ["completed"]
"#;

#[test]
fn the_printed_configuration_parses_to_the_same_and_contains_no_secret() {
    let env: Env<'_> = &[
        ("ADMIN", "canary-admin"),
        ("AUTH", "Bearer canary"),
        ("T1", "canary-1"),
        ("T2", "canary-2"),
        ("T3", "canary-3"),
        ("STEPGATE_LOG", "debug"),
        KEYS[0],
        KEYS[1],
    ];
    let none = "[upstream.headers]\nx-portkey-api-key = false\nx-portkey-virtual-key = false";
    for text in [FULL, none, "[log]"] {
        let config = load_text(text, env).unwrap();
        let printed = config.to_toml();
        assert_eq!(load_text(&printed, env).unwrap(), config, "{printed}");
        assert!(!printed.contains("canary"), "{printed}");
        assert!(!format!("{config:?}").contains("canary"));
    }
    let printed = load_text(FULL, env).unwrap().to_toml();
    for line in [
        "token = { env = \"ADMIN\" } # redacted",
        "token = [{ env = \"T1\" }, { env = \"T2\" }] # redacted",
        "base_url = \"http://[::1]:8787/v1\"",
        "max_bytes = \"1000001B\"",
        "openai-beta = false",
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line} in\n{printed}"
        );
    }
}
