//! Validation of keys in combination: each may be valid alone, and wrong together with another one.

use std::net::IpAddr;
use std::time::Duration;

use super::Config;
use super::address::{Address, is_loopback};
use super::diagnostics::{Diagnostics, SourceSpan};
use super::value::format_size;
use crate::policy::query::encode_pair;

/// Is the last part of a drain. Requests that are still in flight get 503 `draining` when it begins.
pub(super) const FINAL_SECOND: Duration = Duration::from_secs(1);

/// Holds the spans of the values that are validated here.
pub(super) struct Spans {
    /// Holds the span of each address of `server.listen`, in order.
    pub(super) listen: Vec<SourceSpan>,
    /// Holds the span of `admin.listen`.
    pub(super) admin: SourceSpan,
    /// Holds the span of each of `upstream.vary_headers`, in order.
    pub(super) vary_headers: Vec<SourceSpan>,
    /// Whether the file has a `[[client]]`, valid or not.
    pub(super) has_clients: bool,
}

/// Reports every inconsistency.
pub(super) fn check(config: &Config, spans: &Spans, diagnostics: &Diagnostics<'_>) {
    listeners(config, spans, diagnostics);
    admin(config, spans, diagnostics);
    vary_headers(config, spans, diagnostics);
    durations(config, diagnostics);
    upstream(config, diagnostics);
    let cache = &config.cache;
    if cache.max_entry_bytes > cache.max_bytes {
        let (entry, total) = (
            format_size(cache.max_entry_bytes),
            format_size(cache.max_bytes),
        );
        report_conflict(
            diagnostics,
            (
                "cache.max_entry_bytes",
                format!("{entry} is more than cache.max_bytes ({total})"),
            ),
            (
                "cache.max_bytes",
                format!("{total} is less than cache.max_entry_bytes ({entry})"),
            ),
            &format!(
                "the largest body must fit into the cache; write cache.max_entry_bytes = \"{total}\" \
                 or less, or cache.max_bytes = \"{entry}\" or more"
            ),
        );
    }
}

/// Reports a conflict of two keys at the first key that is written in the file, with what would be right.
fn report_conflict(
    diagnostics: &Diagnostics<'_>,
    first: (&str, String),
    second: (&str, String),
    right: &str,
) {
    let (span, text) = match (diagnostics.span_of(first.0), diagnostics.span_of(second.0)) {
        (SourceSpan::Name(_), span @ SourceSpan::File { .. }) => (span, second.1),
        (span, _) => (span, first.1),
    };
    diagnostics.report_if_complete(&span, format!("{text}; {right}"));
}

fn listeners(config: &Config, spans: &Spans, diagnostics: &Diagnostics<'_>) {
    let server = &config.server;
    for (index, (address, span)) in server.listen.iter().zip(&spans.listen).enumerate() {
        if server.listen[..index].contains(address) && !is_ephemeral(address) {
            diagnostics.report_if_complete(span, format!("{address} occurs twice; write it once"));
        }
        if !address.is_local() && !spans.has_clients && !server.allow_unauthenticated {
            diagnostics.report_if_complete(
                span,
                format!(
                    "{address} can be reached from other machines, and every program that reaches it \
                     uses the injected credentials; add a [[client]], or listen on a loopback \
                     address or a unix socket, or write server.allow_unauthenticated = true if \
                     something else guards the address"
                ),
            );
        }
    }
}

/// Returns whether the port is 0, so that the system chooses a port.
fn is_ephemeral(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => address.port() == 0,
        Address::Unix(_) => false,
    }
}

fn admin(config: &Config, spans: &Spans, diagnostics: &Diagnostics<'_>) {
    let admin = &config.admin;
    if !is_loopback(admin.listen) && admin.token.is_none() {
        diagnostics.report_if_complete(
            &spans.admin,
            format!(
                "{} can be reached from other machines; write admin.token = {{ file = \"/path\" }}, \
                 or listen on a loopback address",
                admin.listen
            ),
        );
    }
    let address = Address::Tcp(admin.listen);
    if config.server.listen.contains(&address) && !is_ephemeral(&address) {
        diagnostics.report_if_complete(
            &spans.admin,
            format!("{address} is also in server.listen; write another address or port"),
        );
    }
}

fn vary_headers(config: &Config, spans: &Spans, diagnostics: &Diagnostics<'_>) {
    let names = &config.upstream.vary_headers;
    for (index, (name, span)) in names.iter().zip(&spans.vary_headers).enumerate() {
        if names[..index].contains(name) {
            diagnostics.report_if_complete(span, format!("{name} occurs twice; write it once"));
        }
        let own = config.clients.iter().flat_map(|client| &client.headers);
        if config
            .upstream
            .headers
            .iter()
            .chain(own)
            .any(|h| h.name == *name)
        {
            diagnostics.report_if_complete(
                span,
                format!("{name} is injected, so a client's value is never sent; leave it out"),
            );
        }
    }
}

/// Limits what path and query of the configuration add to a request target, in bytes. The rest of the
/// 64 KiB of a target is left for the client.
const MAX_TARGET_ADDITION: usize = 16 * 1024;

fn upstream(config: &Config, diagnostics: &Diagnostics<'_>) {
    let upstream = &config.upstream;
    let base = &upstream.base_url;
    let span = diagnostics.span_of("upstream.base_url");
    let query: usize = upstream
        .query
        .iter()
        .map(|(n, v)| encode_pair(n, v).len() + 1)
        .sum();
    if base.path.len() + query > MAX_TARGET_ADDITION {
        diagnostics.report_if_complete(
            &span,
            "the path of base_url and upstream.query take more than 16 KiB of every request; shorten them"
                .to_owned(),
        );
    }
    let is_own_address = config.server.listen.iter().any(|address| match address {
        Address::Tcp(address) if address.port() == base.port => {
            let is_same_host = base
                .host
                .parse()
                .map_or(base.host == "localhost", |ip: IpAddr| {
                    ip == address.ip() || (ip.is_loopback() && address.ip().is_unspecified())
                });
            is_same_host && base.https == config.server.tls.is_some()
        }
        Address::Tcp(_) | Address::Unix(_) => false,
    });
    if is_own_address {
        diagnostics.report_if_complete(
            &span,
            format!(
                "{base} is an address of this gateway itself; write the address of the upstream"
            ),
        );
    }
}

fn durations(config: &Config, diagnostics: &Diagnostics<'_>) {
    let (server, upstream) = (&config.server, &config.upstream);
    let text = humantime::format_duration;
    if server.lame_duck + FINAL_SECOND > server.drain_timeout {
        let (lame_duck, drain) = (text(server.lame_duck), text(server.drain_timeout));
        let min_drain = text(server.lame_duck + FINAL_SECOND);
        let max_lame_duck = text(server.drain_timeout.saturating_sub(FINAL_SECOND));
        report_conflict(
            diagnostics,
            (
                "server.lame_duck",
                format!("{lame_duck} is too long for server.drain_timeout ({drain})"),
            ),
            (
                "server.drain_timeout",
                format!("{drain} is too short for server.lame_duck ({lame_duck})"),
            ),
            &format!(
                "lame_duck is part of drain_timeout, and {} must remain for requests in flight; write \
                 server.lame_duck = \"{max_lame_duck}\" or less, or server.drain_timeout = \"{min_drain}\" \
                 or more",
                text(FINAL_SECOND)
            ),
        );
    }
    if upstream.coalesce_window > upstream.timeout {
        let (window, timeout) = (text(upstream.coalesce_window), text(upstream.timeout));
        report_conflict(
            diagnostics,
            (
                "upstream.coalesce_window",
                format!("{window} is longer than upstream.timeout ({timeout})"),
            ),
            (
                "upstream.timeout",
                format!("{timeout} is shorter than upstream.coalesce_window ({window})"),
            ),
            "a waiting request would time out before its fetch starts; lower the window, or raise \
             the timeout",
        );
    }
}
