//! Header policy and secret scanner, compared with slow references.
//!
//! A request to the upstream has every injected header once, the selected headers of the client, and no
//! others. A response to the client has all headers except those of the connection, of a session, or with
//! a secret. The scanner finds exactly what a naive search finds, in any escaping.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use stepgate::config::{Header, Secret, SecretSource, Value};
use stepgate::upstream::{
    FORWARDABLE_HEADERS, HeaderPolicy, SecretScanner, filter_response_headers,
};

/// Names headers that have a special meaning in either direction.
const NAMES: [&str; 40] = [
    "accept",
    "accept-encoding",
    "age",
    "api-key",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "if-none-match",
    "keep-alive",
    "location",
    "openai-beta",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "set-cookie2",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-forwarded-host",
    "x-portkey-api-key",
    "x-portkey-custom-host",
    "x-portkey-metadata",
    "x-portkey-trace-id",
    "x-portkey-virtual-key",
    "x-request-id",
    "x-tenant",
];

/// Names headers that a configuration may inject.
const INJECTABLE: [&str; 9] = [
    "api-key",
    "authorization",
    "openai-beta",
    "traceparent",
    "user-agent",
    "x-portkey-api-key",
    "x-portkey-cache-force-refresh",
    "x-portkey-virtual-key",
    "x-request-id",
];

/// Names headers that a configuration may name in `vary_headers`.
const VARY_CANDIDATES: [&str; 4] = [
    "accept-language",
    "openai-beta",
    "x-portkey-metadata",
    "x-tenant",
];

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Returns a secret as the configuration accepts it: visible ASCII, trimmed, not empty.
fn secret_text(u: &mut Unstructured<'_>) -> Result<String> {
    const EXAMPLES: [&str; 6] = [
        "pk-canary/0+1=",
        "Bearer canary-token-2",
        "short7!",
        "a",
        "say \"canary\\9\"",
        "Basic a b",
    ];
    if u.ratio(1, 2)? {
        return Ok((*u.choose(&EXAMPLES)?).to_owned());
    }
    let length = u.int_in_range(1..=24)?;
    let letters: Result<String> = (0..length)
        .map(|_| Ok(char::from(u.int_in_range(b' '..=b'~')?)))
        .collect();
    let text = letters?.trim().to_owned();
    Ok(if text.is_empty() { "x".into() } else { text })
}

struct Scenario {
    injected: Vec<Header>,
    secrets: Vec<String>,
    vary: Vec<HeaderName>,
}

impl<'a> Arbitrary<'a> for Scenario {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut injected: Vec<Header> = Vec::new();
        let mut secrets = Vec::new();
        for _ in 0..u.int_in_range(0..=3)? {
            let name = HeaderName::from_static(u.choose(&INJECTABLE)?);
            if injected.iter().any(|header| header.name == name) {
                continue;
            }
            let text = secret_text(u)?;
            let value = if u.ratio(1, 4)? {
                Value::Literal(HeaderValue::from_str(&text).expect("visible ASCII"))
            } else {
                let source = SecretSource::Env("X".to_owned());
                let secret = Secret::new(source, &text).expect("a valid secret");
                secrets.push(text);
                Value::Secret(secret)
            };
            injected.push(Header { name, value });
        }
        let mut vary: Vec<HeaderName> = Vec::new();
        for name in VARY_CANDIDATES {
            let name = HeaderName::from_static(name);
            // The configuration rejects a vary header that is injected.
            if u.ratio(1, 3)? && injected.iter().all(|header| header.name != name) {
                vary.push(name);
            }
        }
        Ok(Self {
            injected,
            secrets,
            vary,
        })
    }
}

/// Holds a text that contains a secret, plain or escaped.
struct Echo {
    text: Vec<u8>,
    /// Whether the scanner must find the secret.
    must_be_found: bool,
}

/// Writes a secret as in a URL, in a JSON string, or in a URL in a JSON string.
fn echo(secret: &str, u: &mut Unstructured<'_>) -> Result<Echo> {
    let (in_url, in_json): (bool, bool) = (u.arbitrary()?, u.arbitrary()?);
    let mut written = String::new();
    for c in secret.chars() {
        // A URL must escape these characters.
        if in_url && (matches!(c, '%' | ' ' | '"' | '\\') || u.ratio(1, 4)?) {
            let digits = format!("%{:02X}", u32::from(c));
            written.push_str(&if u.arbitrary()? {
                digits.to_lowercase()
            } else {
                digits
            });
        } else {
            written.push(c);
        }
    }
    if in_json {
        let plain = std::mem::take(&mut written);
        for c in plain.chars() {
            match u.int_in_range(0..=4)? {
                0 => written.push_str(&format!("\\u{:04x}", u32::from(c))),
                1 => written.push_str(&format!("\\u{:04X}", u32::from(c))),
                2 if c == '/' => written.push_str("\\/"),
                _ if matches!(c, '"' | '\\') => written.extend(['\\', c]),
                _ => written.push(c),
            }
        }
    }
    let around = ["", " ", "\"", "x", "7", "é", "key=", "-", "\u{1f980}"];
    let (before, after) = (*u.choose(&around)?, *u.choose(&around)?);
    let borders = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let stands_alone = !borders(before.chars().next_back()) && !borders(after.chars().next());
    Ok(Echo {
        text: format!("{before}{written}{after}").into_bytes(),
        must_be_found: secret.len() >= 8 || stands_alone,
    })
}

/// Generates header lines, some of them with secrets or connection options.
fn headers(u: &mut Unstructured<'_>, secrets: &[String]) -> Result<Vec<(HeaderName, HeaderValue)>> {
    let mut lines = Vec::new();
    for _ in 0..u.int_in_range(0..=8)? {
        let name = match u.int_in_range(0..=9)? {
            0 => {
                let text: &[u8] = u.arbitrary()?;
                HeaderName::from_bytes(&text[..text.len().min(40)]).ok()
            }
            1 if !secrets.is_empty() => {
                let secret = u.choose(secrets)?;
                HeaderName::from_bytes(format!("x-{secret}").as_bytes()).ok()
            }
            2 => Some(HeaderName::from_static("connection")),
            _ => Some(HeaderName::from_static(u.choose(&NAMES)?)),
        };
        let Some(name) = name else { continue };
        let value = match u.int_in_range(0..=5)? {
            0 => {
                let text: &[u8] = u.arbitrary()?;
                text.to_vec()
            }
            1 if !secrets.is_empty() => echo(u.choose(secrets)?, u)?.text,
            2..=4 if name == "connection" => {
                let mut options = String::new();
                for _ in 0..u.int_in_range(1..=3)? {
                    let option: &str = u.choose(&NAMES)?;
                    let between = u.choose(&[", ", ",", " ,\t", ",,"])?;
                    options.push_str(between);
                    options.push_str(&if u.arbitrary()? {
                        option.to_uppercase()
                    } else {
                        option.to_owned()
                    });
                }
                options.into_bytes()
            }
            _ => u
                .choose(&["1", "close", "gzip", "client-canary", "chunked"])?
                .as_bytes()
                .to_vec(),
        };
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            lines.push((name, value));
        }
    }
    Ok(lines)
}

fn map_of(lines: &[(HeaderName, HeaderValue)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(name, value.clone());
    }
    map
}

/// Returns the connection options, in lower case.
fn options(lines: &[(HeaderName, HeaderValue)]) -> Vec<Vec<u8>> {
    let values = lines.iter().filter(|(name, _)| name == "connection");
    values
        .flat_map(|(_, value)| value.as_bytes().split(|byte| *byte == b','))
        .map(|option| option.trim_ascii().to_ascii_lowercase())
        .collect()
}

type Line = (String, Vec<u8>);

fn line((name, value): (&HeaderName, &HeaderValue)) -> Line {
    (name.to_string(), value.as_bytes().to_vec())
}

/// Sorts lines by name.
fn sorted(mut lines: Vec<Line>) -> Vec<Line> {
    // The sort is stable, because the order of lines with one name is significant.
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines
}

fn check_request_headers(scenario: &Scenario, client: &[(HeaderName, HeaderValue)]) {
    let policy = HeaderPolicy::new(&scenario.injected, &scenario.vary);
    let up = policy.fetch_headers(&map_of(client));
    let options = options(client);
    let mut expected: Vec<Line> = vec![
        ("accept".to_owned(), b"application/json".to_vec()),
        ("accept-encoding".to_owned(), b"identity".to_vec()),
    ];
    for Header { name, value } in &scenario.injected {
        let text = match value {
            Value::Literal(text) => text.as_bytes(),
            Value::Secret(secret) => secret.expose().as_bytes(),
        };
        expected.push((name.to_string(), text.to_vec()));
        assert_eq!(up.get_all(name).iter().count(), 1, "{name} in {up:?}");
    }
    let passes = |name: &HeaderName, among: &[HeaderName]| {
        among.contains(name)
            && scenario.injected.iter().all(|header| header.name != *name)
            && !options
                .iter()
                .any(|option| option == name.as_str().as_bytes())
    };
    let mut keyed = Vec::new();
    for (name, value) in client {
        if passes(name, &scenario.vary) {
            keyed.push(line((name, value)));
        }
        if passes(name, &FORWARDABLE_HEADERS) || passes(name, &scenario.vary) {
            expected.push(line((name, value)));
        }
    }
    let went: Vec<Line> = up.iter().map(line).collect();
    assert_eq!(sorted(went), sorted(expected));
    let key: Vec<Line> = policy.vary_headers(&map_of(client)).map(line).collect();
    assert_eq!(sorted(key), sorted(keyed));
    for name in HOP_BY_HOP {
        assert!(!up.contains_key(name), "{name} went up");
    }
}

/// Returns the texts to search for: each secret, and the part after the scheme if it has one.
fn needles(secrets: &[String]) -> Vec<String> {
    let mut needles = Vec::new();
    for secret in secrets {
        needles.push(secret.trim().to_owned());
        if let Some(space) = secret.find(' ') {
            needles.push(secret[space..].trim().to_owned());
        }
    }
    needles.retain(|needle| !needle.is_empty());
    needles
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, digit| {
        Some(sum * 16 + char::from(*digit).to_digit(16)?)
    })
}

/// Replaces each JSON escape of an ASCII character by that character, and drops other backslashes.
fn unescape_json(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if text[at] != b'\\' {
            plain.push(text[at]);
            at += 1;
            continue;
        }
        let code = text.get(at + 1..at + 6).filter(|code| code[0] == b'u');
        let letter = code
            .and_then(|code| hex(&code[1..]))
            .filter(|code| *code < 128);
        match (
            letter.and_then(|letter| u8::try_from(letter).ok()),
            text.get(at + 1),
        ) {
            (Some(letter), _) => {
                plain.push(letter);
                at += 6;
            }
            (None, Some(byte)) => {
                plain.push(*byte);
                at += 2;
            }
            (None, None) => at += 1,
        }
    }
    plain
}

fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let code = text.get(at + 1..at + 3).filter(|_| text[at] == b'%');
        let byte = code.and_then(hex).and_then(|byte| u8::try_from(byte).ok());
        plain.push(byte.unwrap_or(text[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    plain
}

/// Returns whether the text contains the needle. A short needle must not touch a letter or digit.
fn contains_needle(needle: &str, text: &[u8]) -> bool {
    let needle = needle.as_bytes();
    let word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.windows(needle.len()).enumerate().any(|(at, window)| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        let bordered = word(before) || word(text.get(at + needle.len()));
        window == needle && (needle.len() >= 8 || !bordered)
    })
}

fn naively_found(secrets: &[String], text: &[u8]) -> bool {
    let unescaped = unescape_json(text);
    let forms = [percent_decode(&unescaped), unescaped, text.to_vec()];
    needles(secrets)
        .iter()
        .any(|needle| forms.iter().any(|form| contains_needle(needle, form)))
}

fn naively_found_in_name(secrets: &[String], name: &str) -> bool {
    needles(secrets)
        .iter()
        .any(|needle| contains_needle(&needle.to_lowercase(), name.as_bytes()))
}

fn check_response_headers(scenario: &Scenario, answer: &[(HeaderName, HeaderValue)]) {
    let scanner = SecretScanner::new(scenario.secrets.iter().map(String::as_str));
    let mut down = map_of(answer);
    filter_response_headers(&mut down, &scanner);
    let options = options(answer);
    let has_coding = answer.iter().any(|(name, _)| name == "transfer-encoding");
    let echoes: Vec<&HeaderName> = answer
        .iter()
        .filter(|(name, value)| {
            naively_found(&scenario.secrets, value.as_bytes())
                || naively_found_in_name(&scenario.secrets, name.as_str())
        })
        .map(|(name, _)| name)
        .collect();
    let expected: Vec<Line> = answer
        .iter()
        .filter(|(name, _)| {
            let word = name.as_str();
            !HOP_BY_HOP.contains(&word)
                && !matches!(word, "set-cookie" | "set-cookie2")
                && !(word == "content-length" && has_coding)
                && !options.iter().any(|option| option == word.as_bytes())
                && !echoes.contains(&name)
        })
        .map(|(name, value)| line((name, value)))
        .collect();
    assert_eq!(sorted(down.iter().map(line).collect()), sorted(expected));
}

fn check_scanner(scenario: &Scenario, u: &mut Unstructured<'_>) -> Result<()> {
    let scanner = SecretScanner::new(scenario.secrets.iter().map(String::as_str));
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    if !scenario.secrets.is_empty() {
        let secret = u.choose(&scenario.secrets)?.clone();
        let Echo {
            text,
            must_be_found,
        } = echo(&secret, u)?;
        let found = scanner.finds_in(&text);
        assert!(found || !must_be_found, "{secret:?} in {}", shown(&text));
        assert_eq!(
            found,
            naively_found(&scenario.secrets, &text),
            "{}",
            shown(&text)
        );
    }
    let mut text = u.bytes(u.len())?.to_vec();
    assert_eq!(
        scanner.finds_in(&text),
        naively_found(&scenario.secrets, &text),
        "{}",
        shown(&text)
    );
    text.make_ascii_lowercase();
    if let Ok(name) = std::str::from_utf8(&text) {
        assert_eq!(
            scanner.finds_in_header_name(name),
            naively_found_in_name(&scenario.secrets, name),
            "{name}"
        );
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let mut check = || -> Result<()> {
        let scenario = Scenario::arbitrary(&mut u)?;
        let client = headers(&mut u, &scenario.secrets)?;
        check_request_headers(&scenario, &client);
        let answer = headers(&mut u, &scenario.secrets)?;
        check_response_headers(&scenario, &answer);
        check_scanner(&scenario, &mut u)
    };
    // The input may have too few bytes for a whole case.
    let _ = check();
});
