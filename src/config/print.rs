//! Printing: writes the effective configuration as TOML, for `stepgate check`.
//!
//! Secrets are written as references only.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use crate::policy::Rule;

use super::header::{DEFAULT_CREDENTIALS, DEFAULT_LITERALS};
use super::load::{ACCESS, FORWARD, LOG_FORMATS};
use super::secret::{Secret, SecretSource};
use super::value::format_size;
use super::{Client, Config, Header, Redis, Upstream, Value};

impl Config {
    /// Returns the configuration as TOML. Loaded in the same environment, the text gives an equal one.
    ///
    /// The log filter is written as a comment, because it has a variable but no key.
    pub fn to_toml(&self) -> String {
        let mut out = TomlWriter::default();
        self.server(&mut out);
        out.section("[admin]");
        out.key("listen", quote(self.admin.listen));
        if let Some(token) = &self.admin.token {
            out.key("token", redacted(token));
        }
        self.upstream.write(self.rules.first(), &mut out);
        out.section("[cache]");
        out.key("max_bytes", quote(format_size(self.cache.max_bytes)));
        out.key(
            "max_entry_bytes",
            quote(format_size(self.cache.max_entry_bytes)),
        );
        out.key("ttl", duration(self.cache.ttl));
        out.key("honor_no_store", self.cache.honor_no_store);
        if let Some(redis) = &self.cache.redis {
            redis.write(&mut out);
        }
        out.section("[log]");
        out.key("format", word(&LOG_FORMATS, &self.log.format));
        out.key("access", word(&ACCESS, &self.log.access));
        out.key("ids", self.log.ids);
        out.line(&format!("# STEPGATE_LOG = {}", quote(&self.log.filter)));
        for client in &self.clients {
            client.write(&mut out);
        }
        for rule in &self.rules {
            write_rule(rule, &mut out);
        }
        out.0
    }

    fn server(&self, out: &mut TomlWriter) {
        let server = &self.server;
        out.section("[server]");
        out.key("listen", array(&server.listen));
        out.key("allowed_hosts", array(&server.allowed_hosts));
        out.key("allow_unauthenticated", server.allow_unauthenticated);
        out.key("forward", word(&FORWARD, &server.forward));
        out.key("max_connections", server.max_connections);
        out.key("max_long_polls", server.max_long_polls);
        out.key("header_timeout", duration(server.header_timeout));
        out.key("idle_timeout", duration(server.idle_timeout));
        out.key("drain_timeout", duration(server.drain_timeout));
        out.key("lame_duck", duration(server.lame_duck));
        if let Some(tls) = &server.tls {
            out.section("[server.tls]");
            out.key("cert", file_name(&tls.cert));
            out.key("key", file_name(&tls.key));
            if let Some(path) = &tls.client_ca {
                out.key("client_ca", file_name(path));
            }
        }
    }
}

impl Upstream {
    /// Writes `[upstream]` with an example of a fetched URL, which shows a wrong path in the base URL.
    fn write(&self, rule: Option<&Rule>, out: &mut TomlWriter) {
        out.section("[upstream]");
        out.key("base_url", quote(&self.base_url));
        if let Some(rule) = rule {
            let path = elided(&rule.path().to_string());
            out.line(&format!("# requests go to {}{path}", self.base_url));
        }
        match &self.proxy {
            Some(proxy) => out.line(&format!("# proxy: {proxy}")),
            None => out.line("# proxy: none"),
        }
        out.key("connect_timeout", duration(self.connect_timeout));
        out.key("timeout", duration(self.timeout));
        out.key("stream_idle_timeout", duration(self.stream_idle_timeout));
        out.key("max_in_flight", self.max_in_flight);
        out.key("queue_timeout", duration(self.queue_timeout));
        out.key("coalesce_window", duration(self.coalesce_window));
        out.key("max_retry_after", duration(self.max_retry_after));
        out.key("vary_headers", array(&self.vary_headers));
        if let Some(path) = &self.ca_file {
            out.key("ca_file", file_name(path));
        }
        out.section("[upstream.headers]");
        out.headers(&self.headers);
        // Without this line, a default header that was removed would return.
        for (name, _) in DEFAULT_LITERALS.iter().chain(&DEFAULT_CREDENTIALS) {
            if !self.headers.iter().any(|header| header.name == *name) {
                out.key(name, false);
            }
        }
        out.section("[upstream.query]");
        for (name, value) in &self.query {
            out.key(name, quote(value));
        }
    }
}

impl Redis {
    fn write(&self, out: &mut TomlWriter) {
        out.section("[cache.redis]");
        let urls: Vec<String> = self
            .nodes
            .iter()
            .map(|node| node.source().map_or_else(|| quote(node), secret_ref))
            .collect();
        let urls = match urls.as_slice() {
            [url] if !self.is_cluster => url.clone(),
            urls => format!("[{}]", urls.join(", ")),
        };
        let is_secret = self.nodes.iter().any(|node| node.source().is_some());
        out.key("url", urls + if is_secret { " # redacted" } else { "" });
        out.key("prefix", quote(&self.prefix));
        out.key("command_timeout", duration(self.command_timeout));
        if let Some(key) = &self.encryption_key {
            out.key("encryption_key", redacted(key));
        }
        if let Some(path) = &self.ca_file {
            out.key("ca_file", file_name(path));
        }
    }
}

impl Client {
    fn write(&self, out: &mut TomlWriter) {
        out.section("[[client]]");
        out.key("name", quote(&self.name));
        match self.tokens.as_slice() {
            [token] => out.key("token", redacted(token)),
            tokens => {
                let secrets: Vec<String> = tokens.iter().map(secret_ref).collect();
                out.key("token", format!("[{}] # redacted", secrets.join(", ")));
            }
        }
        if !self.headers.is_empty() || !self.removed_headers.is_empty() {
            out.section("[client.headers]");
            out.headers(&self.headers);
            for name in &self.removed_headers {
                out.key(name.as_str(), false);
            }
        }
    }
}

fn write_rule(rule: &Rule, out: &mut TomlWriter) {
    out.section("[[rule]]");
    out.key("name", quote(rule.name()));
    out.key("path", quote(rule.path()));
    if let Some(list) = rule.list() {
        out.key("list", quote(list));
    }
    out.key("object", quote(rule.object()));
    let parameters: Vec<&str> = rule.path().parameters().collect();
    let identity: Vec<String> = rule
        .identity()
        .filter_map(|(member, index)| {
            Some(format!(
                "{} = {}",
                key(member),
                quote(parameters.get(index)?)
            ))
        })
        .collect();
    out.key("identity", format!("{{ {} }}", identity.join(", ")));
    out.key("terminal", array(rule.terminal()));
    out.key("query", array(rule.query()));
}

/// Collects the text.
#[derive(Default)]
struct TomlWriter(String);

impl TomlWriter {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn section(&mut self, header: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(header);
    }

    fn key(&mut self, name: &str, value: impl Display) {
        self.line(&format!("{} = {value}", key(name)));
    }

    fn headers(&mut self, headers: &[Header]) {
        for Header { name, value } in headers {
            match value {
                // A valid literal is visible ASCII.
                Value::Literal(text) => {
                    self.key(
                        name.as_str(),
                        quote(String::from_utf8_lossy(text.as_bytes())),
                    );
                }
                Value::Secret(secret) => self.key(name.as_str(), redacted(secret)),
            }
        }
    }
}

fn redacted(secret: &Secret) -> String {
    format!("{} # redacted", secret_ref(secret))
}

fn secret_ref(secret: &Secret) -> String {
    match secret.source() {
        SecretSource::Env(name) => format!("{{ env = {} }}", quote(name)),
        SecretSource::File(path) => format!("{{ file = {} }}", file_name(path)),
    }
}

fn file_name(path: &Path) -> String {
    quote(path.display())
}

/// Replaces each parameter of a rule's path by `…`.
fn elided(path: &str) -> String {
    let segments = path.split('/').map(|part| match part.starts_with('{') {
        true => "…",
        false => part,
    });
    segments.collect::<Vec<_>>().join("/")
}

fn duration(duration: Duration) -> String {
    quote(humantime::format_duration(duration))
}

fn word<T: PartialEq>(words: &[(&str, T)], value: &T) -> String {
    let found = words.iter().find(|(_, other)| other == value);
    quote(found.map_or("", |(word, _)| word))
}

fn array<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let quoted: Vec<String> = items.into_iter().map(quote).collect();
    format!("[{}]", quoted.join(", "))
}

fn key(name: &str) -> String {
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(is_bare) {
        name.to_owned()
    } else {
        quote(name)
    }
}

/// Writes a TOML basic string.
fn quote(text: impl Display) -> String {
    let mut quoted = String::from("\"");
    for c in text.to_string().chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
