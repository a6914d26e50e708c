//! What must hold between keys: each is valid alone, and together they could still be a mistake.

use std::net::IpAddr;
use std::time::Duration;

use super::address::is_loopback;
use super::diagnostics::{Notes, Place};
use super::value::spell_size;
use super::{Address, Config};
use crate::policy::query::encode_pair;

/// What still flies this long before the end of a drain is told so (503 `draining`).
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where the values were read that are judged here.
pub(super) struct Placed {
    /// Of each address, in order.
    pub(super) listen: Vec<Place>,
    pub(super) admin: Place,
    /// Of each of `upstream.vary_headers`, in order.
    pub(super) forwarded: Vec<Place>,
    /// Whether clients are written, valid or not.
    pub(super) has_clients: bool,
}

/// Notes everything that does not fit together.
pub(super) fn check(config: &Config, placed: &Placed, notes: &Notes<'_>) {
    listeners(config, placed, notes);
    admin(config, placed, notes);
    forwarded(config, placed, notes);
    durations(config, notes);
    upstream(config, notes);
    let cache = &config.cache;
    if cache.max_entry_bytes > cache.max_bytes {
        let (entry, all) = (
            spell_size(cache.max_entry_bytes),
            spell_size(cache.max_bytes),
        );
        at_odds(
            notes,
            (
                "cache.max_entry_bytes",
                format!("{entry} is more than cache.max_bytes ({all})"),
            ),
            (
                "cache.max_bytes",
                format!("{all} is less than cache.max_entry_bytes ({entry})"),
            ),
            &format!(
                "the largest body must fit into the cache; write cache.max_entry_bytes = \"{all}\" \
                 or less, or cache.max_bytes = \"{entry}\" or more"
            ),
        );
    }
}

/// Notes what two keys say, at whichever is written, the first before the second; and what would be
/// right.
fn at_odds(notes: &Notes<'_>, first: (&str, String), second: (&str, String), right: &str) {
    let (place, text) = match (notes.place_of(first.0), notes.place_of(second.0)) {
        (Place::Name(_), place @ Place::File { .. }) => (place, second.1),
        (place, _) => (place, first.1),
    };
    notes.absent(&place, format!("{text}: {right}"));
}

fn listeners(config: &Config, placed: &Placed, notes: &Notes<'_>) {
    let server = &config.server;
    for (index, (address, place)) in server.listen.iter().zip(&placed.listen).enumerate() {
        if server.listen[..index].contains(address) && !is_ephemeral(address) {
            notes.absent(place, format!("{address} is there twice"));
        }
        if !address.is_local() && !placed.has_clients && !server.allow_unauthenticated {
            notes.absent(
                place,
                format!(
                    "{address} can be reached from other machines, and whoever reaches it uses the \
                     injected credentials; name those who may with [[client]], or listen on a \
                     loopback address or a unix socket, or, where something else guards it, write \
                     server.allow_unauthenticated = true"
                ),
            );
        }
    }
}

/// Port 0: the system chooses, another one each time.
fn is_ephemeral(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => address.port() == 0,
        Address::Unix(_) => false,
    }
}

fn admin(config: &Config, placed: &Placed, notes: &Notes<'_>) {
    let admin = &config.admin;
    if !is_loopback(admin.listen) && admin.token.is_none() {
        notes.absent(
            &placed.admin,
            format!(
                "{} can be reached from other machines; write admin.token = {{ file = \"/path\" }}, \
                 or listen on a loopback address",
                admin.listen
            ),
        );
    }
    let address = Address::Tcp(admin.listen);
    if config.server.listen.contains(&address) && !is_ephemeral(&address) {
        notes.absent(
            &placed.admin,
            format!("{address} is an address of server.listen, too"),
        );
    }
}

fn forwarded(config: &Config, placed: &Placed, notes: &Notes<'_>) {
    let names = &config.upstream.vary_headers;
    for (index, (name, place)) in names.iter().zip(&placed.forwarded).enumerate() {
        if names[..index].contains(name) {
            notes.absent(place, format!("{name} is there twice"));
        }
        let own = config.clients.iter().flat_map(|client| &client.headers);
        if config
            .upstream
            .headers
            .iter()
            .chain(own)
            .any(|h| h.name == *name)
        {
            notes.absent(
                place,
                format!("{name} is injected: a caller's own never goes up"),
            );
        }
    }
}

/// What path and added query may take of a request target, in bytes: the rest of its 64 KiB is the
/// caller's.
const LONGEST_ADDITION: usize = 16 * 1024;

fn upstream(config: &Config, notes: &Notes<'_>) {
    let upstream = &config.upstream;
    let base = &upstream.base_url;
    let place = notes.place_of("upstream.base_url");
    let query: usize = upstream
        .query
        .iter()
        .map(|(n, v)| encode_pair(n, v).len() + 1)
        .sum();
    if base.path.len() + query > LONGEST_ADDITION {
        notes.absent(
            &place,
            "the path of base_url and upstream.query take more than 16 KiB of every request"
                .to_owned(),
        );
    }
    let itself = config.server.listen.iter().any(|address| match address {
        Address::Tcp(address) if address.port() == base.port => {
            let named = base
                .host
                .parse()
                .map_or(base.host == "localhost", |ip: IpAddr| {
                    ip == address.ip() || (ip.is_loopback() && address.ip().is_unspecified())
                });
            named && base.https == config.server.tls.is_some()
        }
        Address::Tcp(_) | Address::Unix(_) => false,
    });
    if itself {
        notes.absent(
            &place,
            format!("{base} is where this gateway itself listens; name the upstream"),
        );
    }
}

fn durations(config: &Config, notes: &Notes<'_>) {
    let (server, upstream) = (&config.server, &config.upstream);
    let span = humantime::format_duration;
    if server.lame_duck + LAST_WORDS > server.drain_timeout {
        let (lame, drain) = (span(server.lame_duck), span(server.drain_timeout));
        let least = span(server.lame_duck + LAST_WORDS);
        let most = span(server.drain_timeout.saturating_sub(LAST_WORDS));
        at_odds(
            notes,
            (
                "server.lame_duck",
                format!("{lame} is too long for server.drain_timeout ({drain})"),
            ),
            (
                "server.drain_timeout",
                format!("{drain} is too short for server.lame_duck ({lame})"),
            ),
            &format!(
                "the one is a part of the other, and {} must be left to answer what is under way; \
                 write server.lame_duck = \"{most}\" or less, or server.drain_timeout = \"{least}\" \
                 or more",
                span(LAST_WORDS)
            ),
        );
    }
    if upstream.coalesce_window > upstream.timeout {
        let (window, timeout) = (span(upstream.coalesce_window), span(upstream.timeout));
        at_odds(
            notes,
            (
                "upstream.coalesce_window",
                format!("{window} is longer than upstream.timeout ({timeout})"),
            ),
            (
                "upstream.timeout",
                format!("{timeout} is shorter than upstream.coalesce_window ({window})"),
            ),
            "who waits for a departure would be gone before it; lower the window, or raise the \
             timeout",
        );
    }
}
