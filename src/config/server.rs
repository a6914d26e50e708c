//! The sections `[server]` and `[admin]`.

use std::net::SocketAddr;
use std::time::Duration;

use super::address::{parse_address, parse_admin, parse_host};
use super::diagnostics::Place;
use super::overrides::Overrides;
use super::table::{Item, Table};
use super::validate::LAST_WORDS;
use super::value::{DAY, TICK, boolean, count, duration, list, word};
use super::{Address, Admin, Forward, Server, tls};

pub(super) const FORWARD: [(&str, Forward); 2] = [("rules", Forward::Rules), ("all", Forward::All)];

/// Reads `[server]`; with a place for each address, for what is judged about them later.
pub(super) fn read(mut table: Table<'_>, overrides: &Overrides<'_>) -> (Server, Vec<Place>) {
    let d = Server::default();
    let key = table.name_of("listen");
    let written = table.take_or("listen", Vec::new(), listen);
    let said = overrides.listen();
    let mut listen = if said.is_empty() { written } else { said };
    if listen.is_empty() {
        listen = d
            .listen
            .into_iter()
            .map(|address| (address, Place::name(&key)))
            .collect();
    }
    let (listen, places) = listen.into_iter().unzip();
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
        drain_timeout: table.take_or("drain_timeout", d.drain_timeout, duration(LAST_WORDS..=DAY)),
        lame_duck: table.take_or("lame_duck", d.lame_duck, duration(Duration::ZERO..=DAY)),
        tls: table
            .take("tls")
            .and_then(|item| tls::read(item, overrides.references)),
    };
    table.finish();
    (server, places)
}

fn listen(item: Item<'_>) -> Option<Vec<(Address, Place)>> {
    const WHAT: &str = "an address like \"127.0.0.1:8180\", or a list of them";
    let one = |item: Item<'_>| Some((item.parse(WHAT, parse_address)?, item.place()));
    if item.value().is_str() {
        return one(item).map(|address| vec![address]);
    }
    if item
        .value()
        .as_array()
        .is_some_and(|array| array.is_empty())
    {
        return item.refuse("is empty; name at least one address to listen on");
    }
    list(WHAT, one)(item)
}

/// Reads where the admin listener is; with the place that says so.
pub(super) fn admin_listen(
    table: &mut Table<'_>,
    overrides: &Overrides<'_>,
) -> (SocketAddr, Place) {
    let key = Place::Name(table.name_of("listen"));
    let written = table.take_or("listen", (Admin::default().listen, key), |item| {
        Some((
            item.parse("an address like \"127.0.0.1:8181\"", parse_admin)?,
            item.place(),
        ))
    });
    let flag = ("--admin", overrides.sources.flags.admin.as_ref());
    overrides
        .value(flag, "STEPGATE_ADMIN", parse_admin)
        .unwrap_or(written)
}

/// Reads `[admin]`; with the place of its address.
pub(super) fn admin(mut table: Table<'_>, overrides: &Overrides<'_>) -> (Admin, Place) {
    let (listen, place) = admin_listen(&mut table, overrides);
    let token = table.take("token");
    let admin = Admin {
        listen,
        token: token.and_then(|item| overrides.references.token(item)),
    };
    table.finish();
    (admin, place)
}
