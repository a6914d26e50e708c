//! What must hold between keys: each is valid alone, and together they could still be a mistake.

use std::net::IpAddr;
use std::time::Duration;

use super::address::is_loopback;
use super::problems::{Notes, Place};
use super::value::spell_size;
use super::{Address, Config};
use crate::step::query::encode_pair;

/// What still flies this long before the end of a drain is told so (503 `draining`).
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where the values were read that are judged here.
pub(super) struct Placed {
    /// Of each address, in order.
    pub(super) listen: Vec<Place>,
    pub(super) admin: Place,
    /// Of each of `upstream.forward_headers`, in order.
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
        notes.absent(
            &either(notes, "cache.max_entry_bytes", "cache.max_bytes"),
            format!(
                "cache.max_entry_bytes ({}) is more than cache.max_bytes ({}): the largest body must \
                 fit into the cache; lower it, or raise cache.max_bytes",
                spell_size(cache.max_entry_bytes),
                spell_size(cache.max_bytes)
            ),
        );
    }
}

/// The place of whichever key is written, the first before the second.
fn either(notes: &Notes<'_>, first: &str, second: &str) -> Place {
    match notes.place_of(first) {
        Place::Name(_) => notes.place_of(second),
        place @ Place::File { .. } => place,
    }
}

fn listeners(config: &Config, placed: &Placed, notes: &Notes<'_>) {
    let server = &config.server;
    for (index, (address, place)) in server.listen.iter().zip(&placed.listen).enumerate() {
        if server.listen[..index].contains(address) && !is_ephemeral(address) {
            notes.absent(place, format!("{address} is there twice"));
        }
        if !address.is_local() && !placed.has_clients && !server.open {
            notes.absent(
                place,
                format!(
                    "{address} can be reached from other machines, and whoever reaches it uses the \
                     injected credentials; name those who may with [[client]], or listen on a \
                     loopback address or a unix socket, or, where something else guards it, write \
                     server.open = true"
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
    let names = &config.upstream.forward_headers;
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
    let word = humantime::format_duration;
    if server.lame_duck + LAST_WORDS > server.drain_timeout {
        notes.absent(
            &either(notes, "server.lame_duck", "server.drain_timeout"),
            format!(
                "server.lame_duck ({}) is a part of server.drain_timeout ({}), and leaves less \
                 than {} to answer what is under way",
                word(server.lame_duck),
                word(server.drain_timeout),
                word(LAST_WORDS)
            ),
        );
    }
    if upstream.coalesce_window > upstream.timeout {
        notes.absent(
            &either(notes, "upstream.coalesce_window", "upstream.timeout"),
            format!(
                "upstream.coalesce_window ({}) is longer than upstream.timeout ({}): who waits \
                 for a departure would be gone before it",
                word(upstream.coalesce_window),
                word(upstream.timeout)
            ),
        );
    }
}
