//! Header tables: which headers may be injected, which may be passed on, and how tables are laid
//! over each other.

use hyper::header::{HeaderName, HeaderValue};
use toml::de::DeValue;

use super::defaults::{BuiltInValue, HEADERS};
use super::diagnostics::{Notes, Place};
use super::secret_ref::{NO_LITERAL, References, fits_header, is_visible};
use super::table::{Item, Table};
use super::{Header, Value};

/// What one `headers` table says.
#[derive(Default)]
pub(super) struct Overlay {
    /// Injected.
    pub(super) set: Vec<Header>,
    /// `name = false`.
    pub(super) removed: Vec<HeaderName>,
    /// Credentials of its own, valid or not.
    names_secret: bool,
}

impl Overlay {
    /// Reads a table.
    pub(super) fn read(table: Table<'_>, references: &References<'_>) -> Self {
        let mut overlay = Self::default();
        let mut seen: Vec<HeaderName> = Vec::new();
        for (key, place, item) in table.entries() {
            let notes = item.notes();
            let name = match parse_name(&key).and_then(refuse_governed) {
                Ok(name) => name,
                Err(text) => {
                    notes.note(&place, text);
                    continue;
                }
            };
            if seen.contains(&name) {
                notes.note(
                    &place,
                    "is there twice: header names are compared in lower case",
                );
                continue;
            }
            seen.push(name.clone());
            overlay.take(name, item, references);
        }
        overlay
    }

    fn take(&mut self, name: HeaderName, item: Item<'_>, references: &References<'_>) {
        let place = item.place();
        let value = match item.value() {
            DeValue::Boolean(false) => {
                self.removed.push(name);
                return;
            }
            DeValue::String(_) if is_credential(name.as_str()) => {
                self.names_secret = true;
                item.refuse(NO_LITERAL)
            }
            DeValue::String(_) => item.parse("a string", parse_literal).map(Value::Literal),
            DeValue::Table(_) => {
                self.names_secret = true;
                let notes = item.notes();
                let secret = references.secret(item);
                secret.and_then(|secret| match fits_header(&secret) {
                    Ok(()) => Some(Value::Secret(secret)),
                    Err(text) => {
                        notes.note(&place, format!("{} {text}", secret.source()));
                        None
                    }
                })
            }
            DeValue::Boolean(true)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => item.expected(
                "a string, { env = \"NAME\" }, { file = \"/path\" }, or false to send none",
            ),
        };
        if let Some(value) = value {
            self.set.push(Header { name, value });
        }
    }

    /// Lays it over the built-in headers; the built-in credentials stand only where it names none
    /// of its own, so that another upstream's are never mixed with Portkey's.
    pub(super) fn over_built_in(
        &self,
        notes: &Notes<'_>,
        references: &References<'_>,
    ) -> Vec<Header> {
        let mut headers = self.set.clone();
        for built_in in &HEADERS {
            let name = HeaderName::from_static(built_in.name);
            if self.removed.contains(&name) || headers.iter().any(|h| h.name == name) {
                continue;
            }
            match built_in.value {
                BuiltInValue::Literal(text) => headers.push(Header {
                    name,
                    value: Value::Literal(HeaderValue::from_static(text)),
                }),
                BuiltInValue::Env(_) if self.names_secret => {}
                BuiltInValue::Env(variable) => match references.credential(variable) {
                    Ok(secret) => headers.push(Header {
                        name,
                        value: Value::Secret(secret),
                    }),
                    Err(text) => notes.absent(
                        &Place::name(variable),
                        format!(
                            "{text}; it is sent as {name}: set it, or say under \
                             [upstream.headers] which credentials this upstream takes \
                             ({name} = false: not this one)"
                        ),
                    ),
                },
            }
        }
        sort(&mut headers);
        headers
    }
}

/// The order in which headers are kept, so that two files that say the same are the same.
pub(super) fn sort(headers: &mut [Header]) {
    headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
}

fn parse_literal(text: &str) -> Result<HeaderValue, String> {
    const REFUSED: &str = "contains what no header can carry; use visible ASCII";
    match text.trim() {
        "" => Err("is empty; to send no such header write false".to_owned()),
        text if !is_visible(text) => Err(REFUSED.to_owned()),
        text => HeaderValue::from_str(text).map_err(|_| REFUSED.to_owned()),
    }
}

/// The error does not repeat the text: a whole header line, credential and all, may be there.
fn parse_name(text: &str) -> Result<HeaderName, String> {
    text.to_ascii_lowercase()
        .parse()
        .map_err(|_| "is not a header name; write one like \"openai-beta\"".to_owned())
}

/// What the gateway itself decides about: framing, routing, negotiation, conditions, caching.
const GOVERNED: [&str; 29] = [
    "accept",
    "accept-encoding",
    "age",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "pragma",
    "prefer",
    "proxy-authenticate",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

fn refuse_governed(name: HeaderName) -> Result<HeaderName, String> {
    let text = name.as_str();
    if GOVERNED.contains(&text) || text.starts_with("x-forwarded-") {
        return Err(format!(
            "the gateway itself decides about {text}; leave it out"
        ));
    }
    Ok(name)
}

/// Whether a header or parameter of this (lower-case) name usually carries a credential.
pub(crate) fn is_credential(name: &str) -> bool {
    name.split(['-', '_', '.']).any(|word| {
        matches!(
            word,
            "authorization"
                | "apikey"
                | "auth"
                | "cookie"
                | "credential"
                | "credentials"
                | "jwt"
                | "key"
                | "passwd"
                | "password"
                | "secret"
                | "sig"
                | "signature"
                | "token"
        )
    })
}

/// What goes up from the caller anyway, without becoming part of the key.
const ALWAYS_FORWARDED: [&str; 5] = [
    "traceparent",
    "tracestate",
    "user-agent",
    "x-portkey-trace-id",
    "x-request-id",
];

/// Portkey's headers that neither authenticate nor choose where a request goes.
const HARMLESS_PORTKEY: [&str; 4] = [
    "x-portkey-metadata",
    "x-portkey-parent-span-id",
    "x-portkey-span-id",
    "x-portkey-span-name",
];

/// Reads one of `upstream.vary_headers`.
pub(super) fn parse_forwarded(text: &str) -> Result<HeaderName, String> {
    let name = parse_name(text).and_then(refuse_governed)?;
    let word = name.as_str();
    if ALWAYS_FORWARDED.contains(&word) {
        return Err(format!("{word} goes up anyway; leave it out"));
    }
    let portkey = word.starts_with("x-portkey-") && !HARMLESS_PORTKEY.contains(&word);
    if portkey || is_credential(word) {
        return Err(format!(
            "{word} may choose an account or a destination: it never goes up from a caller"
        ));
    }
    Ok(name)
}
