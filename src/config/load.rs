//! Loading: reads the sections of the file, and overrides them with environment variables and flags.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::address::{Address, BaseUrl, parse_address, parse_admin, parse_base_url, parse_host};
use super::diagnostics::{Diagnostics, Problems, SourceSpan};
use super::header::{HeaderTable, is_credential, parse_vary_header, sort};
use super::proxy::Proxy;
use super::secret::{MAX_FILE_LEN, Secret, read_bounded, read_regular};
use super::secret_ref::SecretResolver;
use super::syntax::syntax_errors;
use super::table::{Item, Table};
use super::tls::certificates;
use super::validate::{self, FINAL_SECOND, Spans};
use super::value::{DAY, TICK, boolean, count, duration, list, parse_word, size, word};
use super::{
    Access, Admin, Cache, Client, Config, Forward, Log, LogFormat, Server, Sources, Upstream,
};
use super::{redis, rules, tls};

/// Names the file in problems if the configuration has none.
pub(super) const UNNAMED_FILE: &str = "configuration";

pub(super) const LOG_FORMATS: [(&str, LogFormat); 2] =
    [("text", LogFormat::Text), ("json", LogFormat::Json)];
pub(super) const ACCESS: [(&str, Access); 3] = [
    ("upstream", Access::Upstream),
    ("all", Access::All),
    ("off", Access::Off),
];
pub(super) const FORWARD: [(&str, Forward); 2] = [("rules", Forward::Rules), ("all", Forward::All)];

impl Config {
    /// Loads and validates the configuration.
    ///
    /// # Errors
    /// Returns all problems at once, each with its place.
    pub fn load(sources: &Sources<'_>) -> Result<Self, Problems> {
        Self::load_with_text(sources).map(|(config, _)| config)
    }

    /// Loads and validates the configuration, and returns it with the text of the file.
    ///
    /// With the text, secrets can be loaded again without reading a file that may be half written. The
    /// text is empty if there is no file.
    ///
    /// # Errors
    /// Returns all problems at once, each with its place.
    pub fn load_with_text(sources: &Sources<'_>) -> Result<(Self, String), Problems> {
        let (text, failure) = file_text(sources, read_bounded);
        Ok((build(&text, failure, sources)?, text))
    }

    /// Returns the address of the admin listener of a gateway that runs with these sources.
    ///
    /// Nothing else is validated, and the file is not read if a flag or variable names the address. So
    /// a problem that was added after the gateway's start does not matter here.
    ///
    /// # Errors
    /// Returns the problems that keep the address from being known.
    pub fn admin_address(sources: &Sources<'_>) -> Result<SocketAddr, Problems> {
        let secrets = SecretResolver::new(sources.file.as_deref(), sources.env);
        let is_overridden =
            sources.flags.admin.is_some() || secrets.variable("STEPGATE_ADMIN").is_some();
        let (text, failure) = if is_overridden {
            Default::default()
        } else {
            file_text(sources, read_bounded)
        };
        with_diagnostics(&text, failure, sources, |document, diagnostics| {
            let loader = Loader {
                diagnostics,
                sources,
                secrets: &secrets,
            };
            let mut admin = Table::root(diagnostics, document).table("admin");
            let (listen, _) = loader.admin_listen(&mut admin);
            // The key is known, but its value is not needed here.
            admin.take("token");
            admin.finish();
            listen
        })
    }

    /// Returns the text of the file for a running gateway.
    ///
    /// Only a regular file is read. At the start the file may be a pipe, but a second read of a pipe
    /// could block forever.
    ///
    /// # Errors
    /// Returns all problems if the file is empty or cannot be read.
    pub fn reread_text(sources: &Sources<'_>) -> Result<String, Problems> {
        let (text, failure) = file_text(sources, read_regular);
        if failure.is_some() {
            build("", failure, sources)?;
        }
        Ok(text)
    }

    /// Validates a configuration whose file holds `text`. `sources.file` is only its name.
    ///
    /// # Errors
    /// Returns all problems at once, each with its place.
    pub fn parse(text: &str, sources: &Sources<'_>) -> Result<Self, Problems> {
        build(text, None, sources)
    }
}

/// Returns the text of the file, or why there is none. Without a file, the text is empty.
fn file_text(
    sources: &Sources<'_>,
    read: fn(&Path, u64) -> io::Result<String>,
) -> (String, Option<String>) {
    let Some(path) = &sources.file else {
        return Default::default();
    };
    let failure = match read(path, MAX_FILE_LEN) {
        // An editor may be writing the file, so the defaults would be a surprise.
        Ok(text) if text.trim().is_empty() => {
            "is empty; to use the defaults, name no file".to_owned()
        }
        Ok(text) => return (text, None),
        Err(error) => format!("cannot be read: {error}"),
    };
    (String::new(), Some(failure))
}

fn build(text: &str, failure: Option<String>, sources: &Sources<'_>) -> Result<Config, Problems> {
    with_diagnostics(text, failure, sources, |document, diagnostics| {
        read(document, diagnostics, sources)
    })
}

/// Calls `read` with the part of the document that could be parsed. Fails if anything was reported.
fn with_diagnostics<T>(
    text: &str,
    failure: Option<String>,
    sources: &Sources<'_>,
    read: impl FnOnce(DeTable<'_>, &Diagnostics<'_>) -> T,
) -> Result<T, Problems> {
    let path = sources.file.as_deref().unwrap_or(Path::new(UNNAMED_FILE));
    let mut diagnostics = Diagnostics::new(path, text);
    if let Some(failure) = failure {
        diagnostics.report_unreadable(failure);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in syntax_errors(text, &errors) {
        diagnostics.report_syntax_error(error.offset, error.end, &error.text);
    }
    let value = read(document.into_inner(), &diagnostics);
    diagnostics.finish().map_or(Ok(value), Err)
}

/// Reads every section. A value that cannot be read is reported and keeps its default.
pub(super) fn read<'n>(
    document: DeTable<'n>,
    diagnostics: &'n Diagnostics<'n>,
    sources: &Sources<'_>,
) -> Config {
    let secrets = SecretResolver::new(sources.file.as_deref(), sources.env);
    let loader = Loader {
        diagnostics,
        sources,
        secrets: &secrets,
    };
    let mut root = Table::root(diagnostics, document);
    let (server, listen) = loader.server(root.table("server"));
    let (admin, admin_span) = loader.admin(root.table("admin"));
    let (upstream, vary_headers) = loader.upstream(root.table("upstream"));
    let cache = loader.cache(root.table("cache"));
    let log = loader.log(root.table("log"));
    let client_tables = root.tables("client");
    let has_clients = !client_tables.is_empty();
    let clients = read_clients(client_tables, &secrets);
    let rules = rules::read(root.tables("rule"), diagnostics);
    root.finish();
    let config = Config {
        server,
        admin,
        upstream,
        cache,
        log,
        clients,
        rules,
    };
    let spans = Spans {
        listen,
        admin: admin_span,
        vary_headers,
        has_clients,
    };
    validate::check(&config, &spans, diagnostics);
    config
}

/// Reads the sections that flags and environment variables can override.
struct Loader<'a> {
    diagnostics: &'a Diagnostics<'a>,
    sources: &'a Sources<'a>,
    secrets: &'a SecretResolver<'a>,
}

impl Loader<'_> {
    /// Parses the flag if it is given, else the variable. Returns the value with the name of its origin.
    ///
    /// `None` if neither is given, or if the value is invalid, which is reported.
    fn override_for<T>(
        &self,
        flag: (&str, Option<&String>),
        variable: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<(T, SourceSpan)> {
        let (name, text) = match flag {
            (name, Some(text)) => (name, text.clone()),
            (_, None) => (variable, self.secrets.variable(variable)?),
        };
        let span = SourceSpan::name(name);
        match parse(text.trim()) {
            Ok(value) => Some((value, span)),
            Err(problem) => {
                self.diagnostics.report(&span, problem);
                None
            }
        }
    }

    /// Reads `[server]`. Returns it with the span of each listen address.
    fn server(&self, mut table: Table<'_>) -> (Server, Vec<SourceSpan>) {
        let d = Server::default();
        let key = table.name_of("listen");
        let written = table.take_or("listen", Vec::new(), read_listen);
        let overridden = self.listen_override();
        let mut listen = if overridden.is_empty() {
            written
        } else {
            overridden
        };
        if listen.is_empty() {
            listen = d
                .listen
                .into_iter()
                .map(|address| (address, SourceSpan::name(&key)))
                .collect();
        }
        let (listen, spans) = listen.into_iter().unzip();
        let server = Server {
            listen,
            allowed_hosts: table.take_or("allowed_hosts", d.allowed_hosts, |item| {
                list(
                    "a list of host names, like [\"stepgate.internal\"]",
                    |host| host.parse("a host name", parse_host),
                )(item)
            }),
            allow_unauthenticated: table.take_or(
                "allow_unauthenticated",
                d.allow_unauthenticated,
                boolean,
            ),
            forward: table.take_or("forward", d.forward, word(&FORWARD)),
            max_connections: table.take_or("max_connections", d.max_connections, count),
            max_long_polls: table.take_or("max_long_polls", d.max_long_polls, count),
            header_timeout: table.take_or("header_timeout", d.header_timeout, duration(TICK..=DAY)),
            idle_timeout: table.take_or("idle_timeout", d.idle_timeout, duration(TICK..=DAY)),
            drain_timeout: table.take_or(
                "drain_timeout",
                d.drain_timeout,
                duration(FINAL_SECOND..=DAY),
            ),
            lame_duck: table.take_or("lame_duck", d.lame_duck, duration(Duration::ZERO..=DAY)),
            tls: table
                .take("tls")
                .and_then(|item| tls::read(item, self.secrets)),
        };
        table.finish();
        (server, spans)
    }

    fn listen_override(&self) -> Vec<(Address, SourceSpan)> {
        let flags = &self.sources.flags.listen;
        let (name, texts) = if flags.is_empty() {
            let text = self.secrets.variable("STEPGATE_LISTEN").unwrap_or_default();
            let parts = text.split(',').map(|part| part.trim().to_owned());
            (
                "STEPGATE_LISTEN",
                parts.filter(|part| !part.is_empty()).collect(),
            )
        } else {
            ("--listen", flags.clone())
        };
        let span = SourceSpan::name(name);
        let mut addresses = Vec::new();
        for text in texts {
            match parse_address(text.trim()) {
                Ok(address) => addresses.push((address, span.clone())),
                Err(problem) => self.diagnostics.report(&span, problem),
            }
        }
        addresses
    }

    /// Reads the address of the admin listener. Returns it with its span.
    fn admin_listen(&self, table: &mut Table<'_>) -> (SocketAddr, SourceSpan) {
        let key = SourceSpan::Name(table.name_of("listen"));
        let written = table.take_or("listen", (Admin::default().listen, key), |item| {
            let address = item.parse("an address like \"127.0.0.1:8181\"", parse_admin)?;
            Some((address, item.span()))
        });
        let flag = ("--admin", self.sources.flags.admin.as_ref());
        self.override_for(flag, "STEPGATE_ADMIN", parse_admin)
            .unwrap_or(written)
    }

    /// Reads `[admin]`. Returns it with the span of its address.
    fn admin(&self, mut table: Table<'_>) -> (Admin, SourceSpan) {
        let (listen, span) = self.admin_listen(&mut table);
        let token = table.take("token");
        let admin = Admin {
            listen,
            token: token.and_then(|item| self.secrets.token(item)),
        };
        table.finish();
        (admin, span)
    }

    /// Reads `[upstream]`. Returns it with the span of each of its `vary_headers`.
    fn upstream(&self, mut table: Table<'_>) -> (Upstream, Vec<SourceSpan>) {
        let d = Upstream::default();
        let base_url = self.base_url(&mut table, d.base_url);
        let vary_headers = table.take_or("vary_headers", Vec::new(), |item| {
            let one = |item: Item<'_>| {
                Some((item.parse("a header name", parse_vary_header)?, item.span()))
            };
            list("a list of header names, like [\"x-user\"]", one)(item)
        });
        let (vary_headers, spans) = vary_headers.into_iter().unzip();
        let headers = HeaderTable::read(table.table("headers"), self.secrets);
        let upstream = Upstream {
            proxy: Proxy::read(&base_url, self.diagnostics, self.secrets),
            base_url,
            connect_timeout: table.take_or(
                "connect_timeout",
                d.connect_timeout,
                duration(TICK..=DAY),
            ),
            timeout: table.take_or("timeout", d.timeout, duration(TICK..=DAY)),
            stream_idle_timeout: table.take_or(
                "stream_idle_timeout",
                d.stream_idle_timeout,
                duration(TICK..=DAY),
            ),
            max_in_flight: table.take_or("max_in_flight", d.max_in_flight, count),
            queue_timeout: table.take_or(
                "queue_timeout",
                d.queue_timeout,
                duration(Duration::ZERO..=DAY),
            ),
            coalesce_window: table.take_or(
                "coalesce_window",
                d.coalesce_window,
                duration(Duration::ZERO..=DAY),
            ),
            max_retry_after: table.take_or(
                "max_retry_after",
                d.max_retry_after,
                duration(Duration::ZERO..=DAY),
            ),
            vary_headers,
            ca_file: table
                .take("ca_file")
                .and_then(|item| certificates(&item, self.secrets))
                .map(|(path, _)| path),
            headers: headers.with_defaults(self.diagnostics, self.secrets),
            query: read_query(table.table("query")),
        };
        table.finish();
        (upstream, spans)
    }

    fn base_url(&self, table: &mut Table<'_>, default: BaseUrl) -> BaseUrl {
        let flag = ("--upstream", self.sources.flags.upstream.as_ref());
        let written = table.take_or("base_url", default, |item| {
            item.parse("a URL like \"https://api.portkey.ai/v1\"", parse_base_url)
        });
        self.override_for(flag, "STEPGATE_UPSTREAM", parse_base_url)
            .map_or(written, |(url, _)| url)
    }

    fn cache(&self, mut table: Table<'_>) -> Cache {
        let d = Cache::default();
        let cache = Cache {
            max_bytes: table.take_or("max_bytes", d.max_bytes, size(1..=1024 * bytesize::GIB)),
            // moka weighs an entry in 32 bits. 3 GiB leave room for the overhead of an entry.
            max_entry_bytes: table.take_or(
                "max_entry_bytes",
                d.max_entry_bytes,
                size(1..=3 * bytesize::GIB),
            ),
            ttl: table.take_or("ttl", d.ttl, duration(TICK..=365 * DAY)),
            honor_no_store: table.take_or("honor_no_store", d.honor_no_store, boolean),
            redis: table
                .take("redis")
                .and_then(|item| redis::read(item, self.secrets)),
        };
        table.finish();
        cache
    }

    fn log(&self, mut table: Table<'_>) -> Log {
        let d = Log::default();
        let written = table.take_or("format", d.format, word(&LOG_FORMATS));
        let log = Log {
            format: self.sources.flags.log_format.unwrap_or_else(|| {
                let parse = |text: &str| parse_word(text, &LOG_FORMATS);
                self.override_for(("--log-format", None), "STEPGATE_LOG_FORMAT", parse)
                    .map_or(written, |(format, _)| format)
            }),
            access: table.take_or("access", d.access, word(&ACCESS)),
            ids: table.take_or("ids", d.ids, boolean),
            filter: self
                .override_for(("", None), "STEPGATE_LOG", parse_filter)
                .map_or(d.filter, |(filter, _)| filter),
        };
        table.finish();
        log
    }
}

fn read_listen(item: Item<'_>) -> Option<Vec<(Address, SourceSpan)>> {
    const WHAT: &str = "an address like \"127.0.0.1:8180\", or a list of them";
    let one = |item: Item<'_>| Some((item.parse(WHAT, parse_address)?, item.span()));
    if item.value().is_str() {
        return one(item).map(|address| vec![address]);
    }
    if item
        .value()
        .as_array()
        .is_some_and(|array| array.is_empty())
    {
        return item.reject("is empty; name at least one address to listen on");
    }
    list(WHAT, one)(item)
}

fn read_query(table: Table<'_>) -> Vec<(String, String)> {
    let mut query = Vec::new();
    for (name, span, item) in table.entries() {
        if is_credential(&name.to_ascii_lowercase()) {
            item.diagnostics().report(
                &span,
                "looks like a credential, and queries end up in logs; send it as a header, under \
                 [upstream.headers]",
            );
        } else if let Some(value) = item.text("a string") {
            query.push((name, value.to_owned()));
        }
    }
    query.sort();
    query
}

fn parse_filter(text: &str) -> Result<String, String> {
    const LIKE: &str = "write a level or a filter like \"info,stepgate=debug\"";
    // The parser takes any other word for a module name, and then logs nothing of this crate.
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_directive = |word: &str| word.starts_with("stepgate") || word.contains(['=', '[']);
    let mut words = text.split(',').map(str::trim);
    let unknown = words.find(|word| !word.is_empty() && !is_level(word) && !is_directive(word));
    if let Some(word) = unknown {
        return Err(format!(
            "{word:?} is not a level (error, warn, info, debug, trace, off); {LIKE}"
        ));
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; {LIKE}")),
    }
}

/// Reads all `[[client]]` tables.
fn read_clients(tables: Vec<Table<'_>>, secrets: &SecretResolver<'_>) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    for mut table in tables {
        let diagnostics = table.diagnostics();
        let name = table.require(
            "name",
            "the log shows it for this client's requests",
            |item| Some((item.parse("a string", parse_client_name)?, item.span())),
        );
        let tokens = table.require(
            "token",
            "write { env = \"NAME\" } or { file = \"/path\" }",
            |item| read_tokens(item, secrets),
        );
        let mut headers = HeaderTable::read(table.table("headers"), secrets);
        table.finish();
        let (name, span) = name.unzip();
        if let (Some(name), Some(span)) = (&name, span)
            && clients.iter().any(|earlier| earlier.name == *name)
        {
            diagnostics.report(
                &span,
                format!("another client is named {name:?}; give each client its own name"),
            );
        }
        for (token, span) in tokens.iter().flatten() {
            if let Some(owner) = owner_of(&clients, token) {
                let text = format!(
                    "{} is also a token of client {owner:?}; give each client its own tokens",
                    token.source()
                );
                diagnostics.report(span, text);
            }
        }
        sort(&mut headers.set);
        clients.push(Client {
            name: name.unwrap_or_default(),
            tokens: tokens
                .into_iter()
                .flatten()
                .map(|(token, _)| token)
                .collect(),
            headers: headers.set,
            removed_headers: headers.removed,
        });
    }
    clients
}

fn owner_of<'c>(clients: &'c [Client], token: &Secret) -> Option<&'c str> {
    let has = |client: &&Client| client.tokens.iter().any(|t| t.expose() == token.expose());
    clients.iter().find(has).map(|client| client.name.as_str())
}

fn parse_client_name(text: &str) -> Result<String, String> {
    let is_valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(is_valid) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a client name; use 1 to 64 letters, digits, `_`, `.` and `-`"
    ))
}

/// Reads one secret reference, or a list of them.
fn read_tokens(item: Item<'_>, secrets: &SecretResolver<'_>) -> Option<Vec<(Secret, SourceSpan)>> {
    let one = |item: Item<'_>| {
        let span = item.span();
        Some((secrets.token(item)?, span))
    };
    match item.value().as_array() {
        None => one(item).map(|token| vec![token]),
        Some(array) if array.is_empty() => item.reject("is empty; name at least one token"),
        Some(_) => list("a list of tokens", one)(item),
    }
}
