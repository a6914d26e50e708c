//! The section `[upstream]`.

use std::time::Duration;

use super::Upstream;
use super::address::parse_base_url;
use super::diagnostics::Place;
use super::header::{Overlay, is_credential, parse_forwarded};
use super::overrides::Overrides;
use super::proxy::Proxy;
use super::table::{Item, Table};
use super::tls::certificates;
use super::value::{DAY, TICK, count, duration, list};

/// Reads `[upstream]`; with a place for each forwarded header.
pub(super) fn read(mut table: Table<'_>, overrides: &Overrides<'_>) -> (Upstream, Vec<Place>) {
    let d = Upstream::default();
    let references = overrides.references;
    let flag = ("--upstream", overrides.sources.flags.upstream.as_ref());
    let written = table.take_or("base_url", d.base_url, |item| {
        item.parse("a URL like \"https://api.portkey.ai/v1\"", parse_base_url)
    });
    let base_url = overrides
        .value(flag, "STEPGATE_UPSTREAM", parse_base_url)
        .map_or(written, |(url, _)| url);
    let forwarded = table.take_or("vary_headers", Vec::new(), |item| {
        let one =
            |item: Item<'_>| Some((item.parse("a header name", parse_forwarded)?, item.place()));
        list("a list of header names, like [\"x-user\"]", one)(item)
    });
    let (vary_headers, places) = forwarded.into_iter().unzip();
    let headers = Overlay::read(table.table("headers"), references);
    let upstream = Upstream {
        proxy: Proxy::read(&base_url, overrides.notes, references),
        base_url,
        connect_timeout: table.take_or("connect_timeout", d.connect_timeout, duration(TICK..=DAY)),
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
            .and_then(|item| certificates(&item, references))
            .map(|(path, _)| path),
        headers: headers.over_built_in(overrides.notes, references),
        query: query(table.table("query")),
    };
    table.finish();
    (upstream, places)
}

fn query(table: Table<'_>) -> Vec<(String, String)> {
    let mut query = Vec::new();
    for (name, place, item) in table.entries() {
        if is_credential(&name.to_ascii_lowercase()) {
            item.notes().note(
                &place,
                "looks like a credential, and a query cannot carry one: it ends up in logs; send it \
                 as a header, under [upstream.headers]",
            );
        } else if let Some(value) = item.text("a string") {
            query.push((name, value.to_owned()));
        }
    }
    query.sort();
    query
}
