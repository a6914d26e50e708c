//! Header tables: which headers may be injected, and which may vary the cache key.
//!
//! This module refuses literal credentials, and headers that the gateway controls.

use hyper::header::{HeaderName, HeaderValue};
use toml::de::DeValue;

use super::diagnostics::{Diagnostics, SourceSpan};
use super::secret_ref::{NO_LITERAL, SecretResolver, fits_header, is_visible};
use super::table::{Item, Table};
use super::{Header, Value};

/// Names the literal headers that are injected unless `[upstream.headers]` replaces or removes them.
pub(super) const DEFAULT_LITERALS: [(&str, &str); 2] = [
    ("openai-beta", "assistants=v2"),
    ("x-portkey-cache-force-refresh", "true"),
];

/// Names the default credential headers with the environment variables that hold their values.
pub(super) const DEFAULT_CREDENTIALS: [(&str, &str); 2] = [
    ("x-portkey-api-key", "PORTKEY_API_KEY"),
    ("x-portkey-virtual-key", "PORTKEY_PROVIDER_VIRTUAL_KEY"),
];

/// Holds one `headers` table.
#[derive(Default)]
pub(super) struct HeaderTable {
    /// Holds the headers to inject.
    pub(super) set: Vec<Header>,
    /// Names the headers that the table sets to `false`.
    pub(super) removed: Vec<HeaderName>,
    /// Whether the table has a credential, valid or not.
    names_secret: bool,
}

impl HeaderTable {
    /// Reads a table. Invalid entries are reported and left out.
    pub(super) fn read(table: Table<'_>, secrets: &SecretResolver<'_>) -> Self {
        let mut headers = Self::default();
        let mut seen: Vec<HeaderName> = Vec::new();
        for (key, span, item) in table.entries() {
            let diagnostics = item.diagnostics();
            let name = match parse_name(&key).and_then(reject_controlled) {
                Ok(name) => name,
                Err(text) => {
                    diagnostics.report(&span, text);
                    continue;
                }
            };
            if seen.contains(&name) {
                diagnostics.report(
                    &span,
                    "occurs twice; header names are case-insensitive, so write it once",
                );
                continue;
            }
            seen.push(name.clone());
            headers.take(name, item, secrets);
        }
        headers
    }

    fn take(&mut self, name: HeaderName, item: Item<'_>, secrets: &SecretResolver<'_>) {
        let span = item.span();
        let value = match item.value() {
            DeValue::Boolean(false) => {
                self.removed.push(name);
                return;
            }
            DeValue::String(_) if is_credential(name.as_str()) => {
                self.names_secret = true;
                item.reject(NO_LITERAL)
            }
            DeValue::String(_) => item.parse("a string", parse_literal).map(Value::Literal),
            DeValue::Table(_) => {
                self.names_secret = true;
                let diagnostics = item.diagnostics();
                let secret = secrets.secret(item);
                secret.and_then(|secret| match fits_header(&secret) {
                    Ok(()) => Some(Value::Secret(secret)),
                    Err(text) => {
                        diagnostics.report(&span, format!("{} {text}", secret.source()));
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

    /// Adds the default headers that the table neither replaces nor removes.
    ///
    /// The default credentials are added only if the table has none of its own, so that Portkey's
    /// credentials never go to another upstream.
    pub(super) fn with_defaults(
        &self,
        diagnostics: &Diagnostics<'_>,
        secrets: &SecretResolver<'_>,
    ) -> Vec<Header> {
        let mut headers = self.set.clone();
        let is_free = |name: &str| {
            let is_set = self.set.iter().any(|header| header.name == name);
            !is_set && !self.removed.iter().any(|removed| removed == name)
        };
        for (name, text) in DEFAULT_LITERALS {
            if is_free(name) {
                headers.push(Header {
                    name: HeaderName::from_static(name),
                    value: Value::Literal(HeaderValue::from_static(text)),
                });
            }
        }
        for (name, variable) in DEFAULT_CREDENTIALS {
            if self.names_secret || !is_free(name) {
                continue;
            }
            match secrets.credential(variable) {
                Ok(secret) => headers.push(Header {
                    name: HeaderName::from_static(name),
                    value: Value::Secret(secret),
                }),
                Err(text) => diagnostics.report_if_complete(
                    &SourceSpan::name(variable),
                    format!(
                        "{text}; its value is sent as {name}, so set it, or write this upstream's \
                         own credentials under [upstream.headers] ({name} = false sends none)"
                    ),
                ),
            }
        }
        sort(&mut headers);
        headers
    }
}

/// Sorts headers by name, so that equal configurations compare equal.
pub(super) fn sort(headers: &mut [Header]) {
    headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
}

fn parse_literal(text: &str) -> Result<HeaderValue, String> {
    const INVALID: &str = "contains characters that no header can carry; use visible ASCII";
    match text.trim() {
        "" => Err("is empty; to send no such header, write false".to_owned()),
        text if !is_visible(text) => Err(INVALID.to_owned()),
        text => HeaderValue::from_str(text).map_err(|_| INVALID.to_owned()),
    }
}

/// Parses a header name. The error does not repeat the text, because it may hold a whole header line.
fn parse_name(text: &str) -> Result<HeaderName, String> {
    text.to_ascii_lowercase()
        .parse()
        .map_err(|_| "is not a header name; write one like \"openai-beta\"".to_owned())
}

/// Names the headers that the gateway controls: framing, routing, negotiation, conditions, caching.
const CONTROLLED: [&str; 29] = [
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

fn reject_controlled(name: HeaderName) -> Result<HeaderName, String> {
    let text = name.as_str();
    if CONTROLLED.contains(&text) || text.starts_with("x-forwarded-") {
        return Err(format!("the gateway controls {text} itself; leave it out"));
    }
    Ok(name)
}

/// Returns whether a header or parameter of this lower-case name usually holds a credential.
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

/// Names the client's headers that are always sent, and are no part of the key.
const ALWAYS_SENT: [&str; 5] = [
    "traceparent",
    "tracestate",
    "user-agent",
    "x-portkey-trace-id",
    "x-request-id",
];

/// Names Portkey's headers that neither authenticate a request nor choose its destination.
const HARMLESS_PORTKEY: [&str; 4] = [
    "x-portkey-metadata",
    "x-portkey-parent-span-id",
    "x-portkey-span-id",
    "x-portkey-span-name",
];

/// Parses one of `upstream.vary_headers`.
pub(super) fn parse_vary_header(text: &str) -> Result<HeaderName, String> {
    let name = parse_name(text).and_then(reject_controlled)?;
    let word = name.as_str();
    if ALWAYS_SENT.contains(&word) {
        return Err(format!("{word} is always sent; leave it out"));
    }
    let is_portkey = word.starts_with("x-portkey-") && !HARMLESS_PORTKEY.contains(&word);
    if is_portkey || is_credential(word) {
        return Err(format!(
            "{word} may choose an account or a destination, so a client's value is never sent; leave it out"
        ));
    }
    Ok(name)
}
