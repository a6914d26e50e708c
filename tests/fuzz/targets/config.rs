//! The configuration: any text gives problems with places inside it, or a valid configuration that prints
//! as itself.
//!
//! The input is the file. A comment like `#$STEPGATE_LISTEN=…` sets that variable, and
//! `#$-PORTKEY_API_KEY` unsets one. Half of the mutations change lines instead of bytes.

#![no_main]

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use stepgate::config::{Address, Config, Flags, Header, Problems, Sources, Value};
use stepgate::policy::query::encode_pair;
use stepgate::upstream::HeaderPolicy;

/// Holds secrets that no output may contain. The last one is in `files/token`.
const CANARIES: [&str; 5] = [
    "cnry-7f31-key",
    "cnry-7f32-virtual",
    "cnry-7f33-a",
    "cnry-7f34-b",
    "cnry-7f35-file",
];

/// Holds a secret that is written in place of a reference.
const LITERAL: &str = "sk-lit-7f36";

const VARIABLES: [&str; 5] = [
    "STEPGATE_ADMIN",
    "STEPGATE_LISTEN",
    "STEPGATE_LOG",
    "STEPGATE_LOG_FORMAT",
    "STEPGATE_UPSTREAM",
];

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/files/f.toml");

/// Returns a variable of the environment that the text describes.
fn variable(text: &str, name: &str) -> Option<String> {
    let is_set = !text
        .lines()
        .any(|line| line.strip_prefix("#$-") == Some(name));
    match name {
        "PORTKEY_API_KEY" => is_set.then(|| CANARIES[0].to_owned()),
        "PORTKEY_PROVIDER_VIRTUAL_KEY" => is_set.then(|| CANARIES[1].to_owned()),
        "A" => Some(CANARIES[2].to_owned()),
        "B" => Some(format!(" Bearer {}\n", CANARIES[3])),
        "EMPTY" => Some(" ".to_owned()),
        "LINES" => Some(format!("{}\n{}", CANARIES[2], CANARIES[3])),
        name if VARIABLES.contains(&name) => text
            .lines()
            .filter_map(|line| line.strip_prefix("#$")?.split_once('='))
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.to_owned()),
        _ => None,
    }
}

fn parse(text: &str, env: &(dyn Fn(&str) -> Option<String> + Sync)) -> Result<Config, Problems> {
    Config::parse(
        text,
        &Sources {
            file: Some(PathBuf::from(FILE)),
            flags: Flags::default(),
            env,
        },
    )
}

fn assert_no_secret(output: &str, text: &str) {
    for canary in CANARIES {
        assert!(!output.contains(canary), "{text}\noutput: {output}");
    }
}

/// Returns whether each [`LITERAL`] is the whole value of a key that needs a credential.
fn is_credential_only(text: &str) -> bool {
    let escapes = ["\"\"\"", "'''", "identity", "\r"];
    let line_is_plain = |line: &str| {
        let value = line
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()));
        let names = [
            "token",
            "authorization",
            "x-portkey-api-key",
            "cookie",
            "api-key",
        ];
        !line.contains(LITERAL)
            || value.is_some_and(|(key, value)| {
                names.contains(&key) && value == format!("\"{LITERAL}\"")
                    || key == "base_url" && value == format!("\"https://u:{LITERAL}@h\"")
            })
    };
    escapes.iter().all(|escape| !text.contains(escape)) && text.split('\n').all(line_is_plain)
}

/// Asserts that each problem is one line that begins with a place in the file or a name. Problems of the
/// file come first, in its order.
fn check_problems(text: &str, problems: &Problems) {
    assert!(problems.iter().len() > 0);
    let lines: Vec<&str> = text.split('\n').collect();
    let mut last = (0, 0);
    for problem in problems.iter() {
        let problem_text = problem.to_string();
        assert!(
            !problem_text.contains(char::is_control),
            "{text}\ntold: {problem_text:?}"
        );
        assert_no_secret(&problem_text, text);
        assert!(
            !problem_text.contains(LITERAL) || !is_credential_only(text),
            "{text}\ntold: {problem_text}"
        );
        let Some(rest) = problem_text.strip_prefix(&format!("{FILE}:")) else {
            let (name, text) = problem_text
                .split_once(": ")
                .expect("a name and what is wrong");
            let plain = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '-');
            assert!(
                !name.is_empty() && name.chars().all(plain),
                "{problem_text}"
            );
            assert!(!text.is_empty(), "{problem_text}");
            last = (usize::MAX, 0);
            continue;
        };
        let mut parts = rest.splitn(3, ':');
        let mut number = || -> usize {
            let digits = parts.next().expect("line and column");
            digits.parse().expect("a number")
        };
        let place = (number(), number());
        assert!(
            parts.next().is_some_and(|text| text.len() > 1),
            "{problem_text}"
        );
        let line = lines
            .get(place.0.wrapping_sub(1))
            .expect("a line of the file");
        assert!(
            (1..=line.chars().count() + 1).contains(&place.1),
            "{problem_text}"
        );
        assert!(last <= place, "{problem_text} is behind {last:?}");
        last = place;
    }
}

/// Asserts the invariants of a valid configuration.
fn check_invariants(config: &Config) {
    let server = &config.server;
    let local = |address: &Address| match address {
        Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Address::Unix(_) => true,
    };
    assert!(!server.listen.is_empty());
    assert!(
        !config.clients.is_empty()
            || server.allow_unauthenticated
            || server.listen.iter().all(local)
    );
    assert!(local(&Address::Tcp(config.admin.listen)) || config.admin.token.is_some());
    assert!(server.lame_duck + Duration::from_secs(1) <= server.drain_timeout);
    assert!(config.cache.max_entry_bytes <= config.cache.max_bytes);

    let rules = &config.rules;
    assert_eq!(rules[0].name(), "run-step");
    for (index, rule) in rules.iter().enumerate() {
        let clash = |other| rule.overlaps(other) || rule.name() == other.name();
        assert!(!rules[..index].iter().any(clash));
    }

    let upstream = &config.upstream;
    let clients = config.clients.iter().map(Some).chain([None]);
    for client in clients {
        let headers = config.headers_for(client);
        let policy = HeaderPolicy::new(headers.iter().copied(), &upstream.vary_headers);
        let up = policy.fetch_headers(&hyper::HeaderMap::new());
        assert!(headers.is_sorted_by(|a, b| a.name.as_str() < b.name.as_str()));
        for Header { name, value } in headers {
            let sent = up.get(name).expect("it is injected");
            assert!(!upstream.vary_headers.contains(name));
            assert_eq!(sent.is_sensitive(), matches!(value, Value::Secret(_)));
        }
    }
    for (index, client) in config.clients.iter().enumerate() {
        assert!(!client.tokens.is_empty());
        for other in &config.clients[..index] {
            assert_ne!(client.name, other.name);
            let shared = |token: &&_| other.tokens.contains(token);
            assert!(client.tokens.iter().find(shared).is_none());
        }
    }

    let base = &upstream.base_url;
    let query: Vec<String> = upstream
        .query
        .iter()
        .map(|(name, value)| encode_pair(name, value))
        .collect();
    let (authority, path) = (base.authority(), &base.path);
    let target = format!("{path}/threads/t?{}", query.join("&"));
    let whole: Uri = format!("https://{authority}{target}")
        .parse()
        .expect("a URI");
    assert_eq!(whole.path(), format!("{path}/threads/t"));
    assert_eq!(
        whole.host().map(|h| h.trim_matches(['[', ']'])),
        Some(&*base.host)
    );
}

/// Asserts that the printed configuration parses to the same one, with only the log filter as a variable.
fn check_print(config: &Config, text: &str) {
    let printed = config.to_toml();
    assert_no_secret(&printed, text);
    assert_no_secret(&format!("{config:?}"), text);
    let env = |name: &str| match name {
        "STEPGATE_LOG" => variable(text, name),
        name if VARIABLES.contains(&name) => None,
        name => variable(text, name),
    };
    match parse(&printed, &env) {
        Ok(again) => {
            assert_eq!(again, *config, "{printed}");
            assert_eq!(again.to_toml(), printed);
        }
        Err(problems) => panic!("{text}\nprinted:\n{printed}\n{problems}"),
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Skip paths that block forever, and texts that contain a secret themselves.
    let avoided = ["/dev", "/proc"];
    if avoided
        .iter()
        .chain(&CANARIES)
        .any(|word| text.contains(word))
    {
        return;
    }
    match parse(text, &|name| variable(text, name)) {
        Ok(config) => {
            check_invariants(&config);
            check_print(&config, text);
        }
        Err(problems) => check_problems(text, &problems),
    }
});

const KEYS: [&str; 38] = [
    "listen",
    "allowed_hosts",
    "allow_unauthenticated",
    "forward",
    "max_connections",
    "max_long_polls",
    "header_timeout",
    "idle_timeout",
    "drain_timeout",
    "lame_duck",
    "token",
    "base_url",
    "connect_timeout",
    "timeout",
    "stream_idle_timeout",
    "max_in_flight",
    "queue_timeout",
    "coalesce_window",
    "max_retry_after",
    "vary_headers",
    "ca_file",
    "openai-beta",
    "authorization",
    "x-portkey-api-key",
    "x-portkey-virtual-key",
    "x-tenant",
    "max_bytes",
    "max_entry_bytes",
    "ttl",
    "honor_no_store",
    "format",
    "access",
    "name",
    "path",
    "list",
    "identity",
    "terminal",
    "\"a \\\" b\"",
];

const VALUES: [&str; 42] = [
    "true",
    "false",
    "0",
    "1",
    "0x10",
    "1_000",
    "-1",
    "1.5",
    "\"\"",
    "\" \"",
    "\"0s\"",
    "\"1s\"",
    "\"1ms 1ns\"",
    "\"36h\"",
    "\"1KiB\"",
    "\"1.5MiB\"",
    "\"3GiB\"",
    "\"all\"",
    "\"json\"",
    "\"off\"",
    "\"127.0.0.1:0\"",
    "\"0.0.0.0:8180\"",
    "\"[::1]:8181\"",
    "[\"unix:/run/a b.sock\", \"[::ffff:127.0.0.1]:1\"]",
    "[]",
    "[\"a\", \"\\u0007\\\\\"]",
    "{ env = \"A\" }",
    "{ env = \"B\" }",
    "{ env = \"EMPTY\" }",
    "{ env = \"LINES\" }",
    "{ file = \"token\" }",
    "[{ env = \"A\" }, { file = \"./token\" }]",
    "{ a = \"x\", id = \"a\" }",
    "\"http://[::1]:8787/v1/\"",
    "\"https://h.example:443\"",
    "\"/a/{a}\"",
    "\"/a\"",
    "\"quote \\\" and \\\\ back\"",
    "\"\\u00e9\\U0001f980\"",
    "'single'",
    "\"sk-lit-7f36\"",
    "\"https://u:sk-lit-7f36@h\"",
];

const LINES: [&str; 20] = [
    "[server]",
    "[admin]",
    "[upstream]",
    "[upstream.headers]",
    "[upstream.query]",
    "[cache]",
    "[log]",
    "[[client]]",
    "[client.headers]",
    "[[rule]]",
    "[rule.identity]",
    "name = \"c2\"\ntoken = { env = \"A\" }",
    "name = \"r\"\npath = \"/r/{id}\"\nobject = \"r\"\nidentity = { id = \"id\" }\nterminal = [\"done\"]",
    "#$STEPGATE_LISTEN=127.0.0.1:0,unix:/s",
    "#$STEPGATE_ADMIN=[::1]:0",
    "#$STEPGATE_UPSTREAM=http://localhost:1/x",
    "#$STEPGATE_LOG=info,stepgate=debug",
    "#$STEPGATE_LOG_FORMAT=json",
    "#$-PORTKEY_API_KEY",
    "#$-PORTKEY_PROVIDER_VIRTUAL_KEY",
];

/// Chooses a number below `count` from the seed.
fn choose(seed: &mut u64, count: usize) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    usize::try_from(*seed >> 16).unwrap_or(0) % count
}

/// Returns the text with one line changed, dropped, doubled, moved or added.
fn mutate_line(text: &str, seed: u32) -> String {
    let mut seed = u64::from(seed) + 1;
    let seed = &mut seed;
    for _ in 0..8 {
        choose(seed, 2);
    }
    let mut lines: Vec<String> = text.split('\n').map(Into::into).collect();
    let at = choose(seed, lines.len());
    let other = choose(seed, lines.len());
    let halves = |line: &str| -> Option<(String, String)> {
        let (key, value) = line.split_once('=')?;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    };
    match (choose(seed, 8), halves(&lines[at])) {
        (0, _) => drop(lines.remove(at)),
        (1, _) => lines.insert(other, lines[at].clone()),
        (2, _) => lines.swap(at, other),
        (3 | 4, Some((key, _))) => {
            lines[at] = format!("{key} = {}", VALUES[choose(seed, VALUES.len())]);
        }
        (5, Some((_, value))) => {
            lines[at] = format!("{} = {value}", KEYS[choose(seed, KEYS.len())]);
        }
        (6, _) => {
            let (key, value) = (choose(seed, KEYS.len()), choose(seed, VALUES.len()));
            lines.insert(at, format!("{} = {}", KEYS[key], VALUES[value]));
        }
        _ => lines.insert(at, LINES[choose(seed, LINES.len())].to_owned()),
    }
    lines.join("\n")
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match std::str::from_utf8(&data[..size]) {
        Ok(text) if !seed.is_multiple_of(2) => {
            let other = mutate_line(text, seed / 2);
            let length = other.len().min(max_size);
            data[..length].copy_from_slice(&other.as_bytes()[..length]);
            length
        }
        Ok(_) | Err(_) => fuzzer_mutate(data, size, max_size),
    }
});
