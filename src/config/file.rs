//! The file as written, read into the configuration as meant: section by section, with what flags
//! and environment say laid over it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use toml::de::DeTable;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::diagnostics::{Notes, Problems};
use super::overrides::{self, Overrides};
use super::secret::{LONGEST_FILE, read_bounded, read_regular};
use super::secret_ref::References;
use super::syntax::slips;
use super::table::Table;
use super::validate::{self, Placed};
use super::value::{DAY, TICK, boolean, duration, parse_word, size, word};
use super::{Access, Cache, Config, Log, LogFormat, Sources};
use super::{client, redis, rules, server, upstream};

pub(super) const LOG_FORMATS: [(&str, LogFormat); 2] =
    [("text", LogFormat::Text), ("json", LogFormat::Json)];
pub(super) const ACCESS: [(&str, Access); 3] = [
    ("upstream", Access::Upstream),
    ("all", Access::All),
    ("off", Access::Off),
];

impl Config {
    /// Reads, merges and validates everything.
    ///
    /// # Errors
    /// All problems at once, each with its place.
    pub fn load(sources: &Sources<'_>) -> Result<Self, Problems> {
        Self::load_with_text(sources).map(|(config, _)| config)
    }

    /// The same, with the file's text (of no file: empty), so that its secrets can be read again
    /// without taking up a file that somebody may just be changing.
    ///
    /// # Errors
    /// All problems at once, each with its place.
    pub fn load_with_text(sources: &Sources<'_>) -> Result<(Self, String), Problems> {
        let (text, failure) = text(sources, read_bounded);
        Ok((build(&text, failure, sources)?, text))
    }

    /// Where a gateway that runs with these sources has its admin listener. Nothing else of them is
    /// looked at, nor the file where flag or environment say it: what is wrong there since does not
    /// ail a gateway that runs.
    ///
    /// # Errors
    /// What keeps the address from being known.
    pub fn admin_address(sources: &Sources<'_>) -> Result<SocketAddr, Problems> {
        let references = References::new(sources.file.as_deref(), sources.env);
        let (text, failure) = if overrides::says_admin(sources, &references) {
            Default::default()
        } else {
            text(sources, read_bounded)
        };
        with_notes(&text, failure, sources, |document, notes| {
            let overrides = Overrides {
                notes,
                sources,
                references: &references,
            };
            let mut admin = Table::root(notes, document).table("admin");
            let (listen, _) = server::admin_listen(&mut admin, &overrides);
            // Known, and not for whoever only asks whether it is ready.
            admin.take("token");
            admin.finish();
            listen
        })
    }

    /// The file's text for a gateway that runs. At its start the file may be a pipe; by now nobody
    /// may be writing to that any more, and reading it would never end.
    ///
    /// # Errors
    /// It cannot be read or is empty; with whatever else is wrong.
    pub fn reread_text(sources: &Sources<'_>) -> Result<String, Problems> {
        let (text, failure) = text(sources, read_regular);
        if failure.is_some() {
            build("", failure, sources)?;
        }
        Ok(text)
    }

    /// The same for a file that contains `text`; `sources.file` is only its name.
    ///
    /// # Errors
    /// All problems at once, each with its place.
    pub fn parse(text: &str, sources: &Sources<'_>) -> Result<Self, Problems> {
        build(text, None, sources)
    }
}

/// The file's text (of no file: empty), or why there is none.
fn text(
    sources: &Sources<'_>,
    read: fn(&Path, u64) -> io::Result<String>,
) -> (String, Option<String>) {
    let Some(path) = &sources.file else {
        return Default::default();
    };
    let failure = match read(path, LONGEST_FILE) {
        // Somebody is just writing it: the defaults would be a surprise.
        Ok(text) if text.trim().is_empty() => "is empty; for the defaults name no file".to_owned(),
        Ok(text) => return (text, None),
        Err(error) => format!("cannot be read: {error}"),
    };
    (String::new(), Some(failure))
}

fn build(text: &str, failure: Option<String>, sources: &Sources<'_>) -> Result<Config, Problems> {
    with_notes(text, failure, sources, |document, notes| {
        read(document, notes, sources)
    })
}

/// Reads from the document as far as it can be parsed; fails if anything was noted.
fn with_notes<T>(
    text: &str,
    failure: Option<String>,
    sources: &Sources<'_>,
    read: impl FnOnce(DeTable<'_>, &Notes<'_>) -> T,
) -> Result<T, Problems> {
    let path = sources
        .file
        .as_deref()
        .unwrap_or(Path::new("configuration"));
    let mut notes = Notes::new(path, text);
    if let Some(failure) = failure {
        notes.unreadable(failure);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for slip in slips(text, &errors) {
        notes.broken(slip.offset, slip.end, &slip.text);
    }
    let value = read(document.into_inner(), &notes);
    notes.finish().map_or(Ok(value), Err)
}

/// Reads every section; what cannot be read is noted and keeps its default.
pub(super) fn read<'n>(
    document: DeTable<'n>,
    notes: &'n Notes<'n>,
    sources: &Sources<'_>,
) -> Config {
    let references = References::new(sources.file.as_deref(), sources.env);
    let overrides = Overrides {
        notes,
        sources,
        references: &references,
    };
    let mut root = Table::root(notes, document);
    let (server, listen) = server::read(root.table("server"), &overrides);
    let (admin, admin_place) = server::admin(root.table("admin"), &overrides);
    let (upstream, forwarded) = upstream::read(root.table("upstream"), &overrides);
    let cache = cache(root.table("cache"), &references);
    let log = log(root.table("log"), &overrides);
    let clients = client::read(root.tables("client"), &references);
    let rules = rules::read(root.tables("rule"), notes);
    root.finish();
    let config = Config {
        server,
        admin,
        upstream,
        cache,
        log,
        clients: clients.list,
        rules,
    };
    let placed = Placed {
        listen,
        admin: admin_place,
        forwarded,
        has_clients: clients.written,
    };
    validate::check(&config, &placed, notes);
    config
}

fn cache(mut table: Table<'_>, references: &References<'_>) -> Cache {
    let d = Cache::default();
    let cache = Cache {
        max_bytes: table.take_or("max_bytes", d.max_bytes, size(1..=1024 * bytesize::GIB)),
        // The memory tier counts an entry's weight in 32 bits; 3 GiB leave room for its overhead.
        max_entry_bytes: table.take_or(
            "max_entry_bytes",
            d.max_entry_bytes,
            size(1..=3 * bytesize::GIB),
        ),
        ttl: table.take_or("ttl", d.ttl, duration(TICK..=365 * DAY)),
        honor_no_store: table.take_or("honor_no_store", d.honor_no_store, boolean),
        redis: table
            .take("redis")
            .and_then(|item| redis::read(item, references)),
    };
    table.finish();
    cache
}

fn log(mut table: Table<'_>, overrides: &Overrides<'_>) -> Log {
    let d = Log::default();
    let written = table.take_or("format", d.format, word(&LOG_FORMATS));
    let log = Log {
        format: overrides.sources.flags.log_format.unwrap_or_else(|| {
            let parse = |text: &str| parse_word(text, &LOG_FORMATS);
            overrides
                .value(("--log-format", None), "STEPGATE_LOG_FORMAT", parse)
                .map_or(written, |(format, _)| format)
        }),
        access: table.take_or("access", d.access, word(&ACCESS)),
        ids: table.take_or("ids", d.ids, boolean),
        filter: overrides
            .value(("", None), "STEPGATE_LOG", parse_filter)
            .map_or(d.filter, |(filter, _)| filter),
    };
    table.finish();
    log
}

fn parse_filter(text: &str) -> Result<String, String> {
    const LIKE: &str = "write a level or a filter like \"info,stepgate=debug\"";
    // The parser takes any other word for the name of a module, and then nothing of ours is logged.
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_ours = |word: &str| word.starts_with("stepgate") || word.contains(['=', '[']);
    let mut words = text.split(',').map(str::trim);
    if let Some(word) = words.find(|word| !word.is_empty() && !is_level(word) && !is_ours(word)) {
        return Err(format!(
            "{word:?} is no level (error, warn, info, debug, trace, off); {LIKE}"
        ));
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; {LIKE}")),
    }
}
