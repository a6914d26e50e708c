//! The effective configuration as a file again, for `stepgate check`: secrets as references only.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use crate::policy::Rule;

use super::defaults::HEADERS;
use super::file::{ACCESS, LOG_FORMATS};
use super::secret::{Secret, SecretSource};
use super::server::FORWARD;
use super::value::spell_size;
use super::{Client, Config, Header, Redis, Upstream, Value};

impl Config {
    /// The configuration as TOML: loaded again in the same environment, it is equal.
    ///
    /// The log filter has no key, only a variable: it is told in a comment.
    pub fn to_toml(&self) -> String {
        let mut page = Page::default();
        self.server(&mut page);
        page.section("[admin]");
        page.key("listen", quote(self.admin.listen));
        if let Some(token) = &self.admin.token {
            page.key("token", redacted(token));
        }
        self.upstream.write(self.rules.first(), &mut page);
        page.section("[cache]");
        page.key("max_bytes", quote(spell_size(self.cache.max_bytes)));
        page.key(
            "max_entry_bytes",
            quote(spell_size(self.cache.max_entry_bytes)),
        );
        page.key("ttl", span(self.cache.ttl));
        page.key("honor_no_store", self.cache.honor_no_store);
        if let Some(redis) = &self.cache.redis {
            redis.write(&mut page);
        }
        page.section("[log]");
        page.key("format", spell(&LOG_FORMATS, &self.log.format));
        page.key("access", spell(&ACCESS, &self.log.access));
        page.key("ids", self.log.ids);
        page.line(&format!("# STEPGATE_LOG = {}", quote(&self.log.filter)));
        for client in &self.clients {
            client.write(&mut page);
        }
        for rule in &self.rules {
            write_rule(rule, &mut page);
        }
        page.0
    }

    fn server(&self, page: &mut Page) {
        let server = &self.server;
        page.section("[server]");
        page.key("listen", array(&server.listen));
        page.key("allowed_hosts", array(&server.allowed_hosts));
        page.key("allow_unauthenticated", server.allow_unauthenticated);
        page.key("forward", spell(&FORWARD, &server.forward));
        page.key("max_connections", server.max_connections);
        page.key("max_long_polls", server.max_long_polls);
        page.key("header_timeout", span(server.header_timeout));
        page.key("idle_timeout", span(server.idle_timeout));
        page.key("drain_timeout", span(server.drain_timeout));
        page.key("lame_duck", span(server.lame_duck));
        if let Some(tls) = &server.tls {
            page.section("[server.tls]");
            page.key("cert", file_name(&tls.cert));
            page.key("key", file_name(&tls.key));
            if let Some(path) = &tls.client_ca {
                page.key("client_ca", file_name(path));
            }
        }
    }
}

impl Upstream {
    /// With the URL that a fetch of `rule` goes to: a path that the base lacks is seen there.
    fn write(&self, rule: Option<&Rule>, page: &mut Page) {
        page.section("[upstream]");
        page.key("base_url", quote(&self.base_url));
        if let Some(rule) = rule {
            let path = elided(&rule.path().to_string());
            page.line(&format!("# a step: {}{path}", self.base_url));
        }
        match &self.proxy {
            Some(proxy) => page.line(&format!("# through {proxy}")),
            None => page.line("# through no proxy"),
        }
        page.key("connect_timeout", span(self.connect_timeout));
        page.key("timeout", span(self.timeout));
        page.key("stream_idle_timeout", span(self.stream_idle_timeout));
        page.key("max_in_flight", self.max_in_flight);
        page.key("queue_timeout", span(self.queue_timeout));
        page.key("coalesce_window", span(self.coalesce_window));
        page.key("max_retry_after", span(self.max_retry_after));
        page.key("vary_headers", array(&self.vary_headers));
        if let Some(path) = &self.ca_file {
            page.key("ca_file", file_name(path));
        }
        page.section("[upstream.headers]");
        page.headers(&self.headers);
        // What is built in and not here was removed: without this line it would come back.
        for built_in in &HEADERS {
            if !self
                .headers
                .iter()
                .any(|header| header.name == built_in.name)
            {
                page.key(built_in.name, false);
            }
        }
        page.section("[upstream.query]");
        for (name, value) in &self.query {
            page.key(name, quote(value));
        }
    }
}

impl Redis {
    fn write(&self, page: &mut Page) {
        page.section("[cache.redis]");
        let urls: Vec<String> = self
            .nodes
            .iter()
            .map(|node| node.source().map_or_else(|| quote(node), reference))
            .collect();
        let urls = match urls.as_slice() {
            [url] if !self.is_cluster => url.clone(),
            urls => format!("[{}]", urls.join(", ")),
        };
        let is_secret = self.nodes.iter().any(|node| node.source().is_some());
        page.key("url", urls + if is_secret { " # redacted" } else { "" });
        page.key("prefix", quote(&self.prefix));
        page.key("command_timeout", span(self.command_timeout));
        if let Some(key) = &self.encryption_key {
            page.key("encryption_key", redacted(key));
        }
        if let Some(path) = &self.ca_file {
            page.key("ca_file", file_name(path));
        }
    }
}

impl Client {
    fn write(&self, page: &mut Page) {
        page.section("[[client]]");
        page.key("name", quote(&self.name));
        match self.tokens.as_slice() {
            [token] => page.key("token", redacted(token)),
            tokens => {
                let references: Vec<String> = tokens.iter().map(reference).collect();
                page.key("token", format!("[{}] # redacted", references.join(", ")));
            }
        }
        if !self.headers.is_empty() || !self.removed_headers.is_empty() {
            page.section("[client.headers]");
            page.headers(&self.headers);
            for name in &self.removed_headers {
                page.key(name.as_str(), false);
            }
        }
    }
}

fn write_rule(rule: &Rule, page: &mut Page) {
    page.section("[[rule]]");
    page.key("name", quote(rule.name()));
    page.key("path", quote(rule.path()));
    if let Some(list) = rule.list() {
        page.key("list", quote(list));
    }
    page.key("object", quote(rule.object()));
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
    page.key("identity", format!("{{ {} }}", identity.join(", ")));
    page.key("terminal", array(rule.terminal()));
    page.key("query", array(rule.query()));
}

/// The text so far.
#[derive(Default)]
struct Page(String);

impl Page {
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
                // Valid literals came from a string: they are ASCII.
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
    format!("{} # redacted", reference(secret))
}

fn reference(secret: &Secret) -> String {
    match secret.source() {
        SecretSource::Env(name) => format!("{{ env = {} }}", quote(name)),
        SecretSource::File(path) => format!("{{ file = {} }}", file_name(path)),
    }
}

fn file_name(path: &Path) -> String {
    quote(path.display())
}

/// A rule's path with `…` for each of its parameters.
fn elided(path: &str) -> String {
    let plain = path.split('/').map(|part| match part.starts_with('{') {
        true => "…",
        false => part,
    });
    plain.collect::<Vec<_>>().join("/")
}

fn span(duration: Duration) -> String {
    quote(humantime::format_duration(duration))
}

fn spell<T: PartialEq>(words: &[(&str, T)], value: &T) -> String {
    let found = words.iter().find(|(_, known)| known == value);
    quote(found.map_or("", |(word, _)| word))
}

fn array<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let quoted: Vec<String> = items.into_iter().map(quote).collect();
    format!("[{}]", quoted.join(", "))
}

fn key(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        quote(name)
    }
}

/// A TOML basic string.
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
