//! What a request asks for: its path and query, parsed, the headers that concern the gateway, and the key
//! that it shares.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, StatusCode};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::error::GatewayError;
use super::runtime_config::{ClientProfile, RuntimeConfig};
use super::telemetry::request_log::{FetchEnd, FetchLog, RequestLog};
use crate::coalesce::FetchOptions;
use crate::config::Forward;
use crate::policy::route::Ids;
use crate::policy::rule::API_PREFIX;
use crate::policy::{
    CacheDirectives, CacheKey, CoalesceKey, Query, Route, Rule, check, matches_if_none_match,
    wait_preference,
};

/// The longest path and query, in bytes. A target may have 64 KiB, which is the limit of the `http`
/// crate; the rest is left for what the configuration adds.
const MAX_TARGET: usize = 32 * 1024;

/// Refuses a target that is too long, with `query` in place of the client's query.
pub(super) fn check_target_length(head: &Parts, query: &Query) -> Result<(), GatewayError> {
    if head.uri.path().len() + query.as_str().len() > MAX_TARGET {
        return Err(GatewayError::TARGET_TOO_LONG);
    }
    Ok(())
}

/// The headers that concern the gateway, found in one pass. Most requests have few of them, and one pass
/// costs less than a search for each.
#[derive(Debug)]
pub(crate) struct RequestHeaders<'h> {
    headers: &'h HeaderMap,
    /// The first `Host`.
    pub(crate) host: Option<&'h HeaderValue>,
    pub(crate) has_two_hosts: bool,
    pub(crate) has_transfer_encoding: bool,
    /// Whether `Origin` or `Sec-Fetch-Site` shows that a browser sent the request.
    pub(crate) from_browser: bool,
    /// Whether there is `Cache-Control` or `Pragma`.
    has_cache_directives: bool,
    has_if_none_match: bool,
    has_prefer: bool,
}

impl<'h> RequestHeaders<'h> {
    pub(crate) fn of(headers: &'h HeaderMap) -> Self {
        let mut found = Self {
            headers,
            host: None,
            has_two_hosts: false,
            has_transfer_encoding: false,
            from_browser: false,
            has_cache_directives: false,
            has_if_none_match: false,
            has_prefer: false,
        };
        for (name, value) in headers {
            match name.as_str() {
                "host" => {
                    found.has_two_hosts = found.host.is_some();
                    found.host.get_or_insert(value);
                }
                "transfer-encoding" => found.has_transfer_encoding = true,
                "origin" | "sec-fetch-site" => found.from_browser = true,
                "cache-control" | "pragma" => found.has_cache_directives = true,
                "if-none-match" => found.has_if_none_match = true,
                "prefer" => found.has_prefer = true,
                _ => {}
            }
        }
        found
    }

    /// Returns what the request demands of the cache.
    pub(crate) fn cache_directives(&self) -> CacheDirectives {
        if self.has_cache_directives {
            CacheDirectives::from_headers(self.headers)
        } else {
            CacheDirectives::default()
        }
    }

    /// Returns the seconds of `Prefer: wait`. `None` if the request does not ask to wait.
    pub(crate) fn wait(&self) -> Option<u64> {
        self.has_prefer
            .then(|| wait_preference(self.headers))
            .flatten()
    }

    /// Returns whether `If-None-Match` matches this entity tag: the client has the body already.
    pub(crate) fn matches(&self, etag: &[u8]) -> bool {
        self.has_if_none_match
            && str::from_utf8(etag).is_ok_and(|etag| matches_if_none_match(self.headers, etag))
    }
}

/// The last request of a connection on a rule's path. A client that polls sends the same request again
/// and again.
#[derive(Debug, Default)]
pub(super) struct RequestMemo(Option<(Arc<ClientProfile>, Box<str>, ParsedRequest)>);

impl RequestMemo {
    /// Decides what a request is: on a rule's path (`Some`), or to be forwarded (`None`). Parses the
    /// request only if the client did not send the same target before.
    ///
    /// # Errors
    /// Why the request is rejected.
    pub(super) fn route(
        &mut self,
        config: &RuntimeConfig,
        head: &Parts,
        client: &Arc<ClientProfile>,
        log: &mut RequestLog,
    ) -> Result<Option<&ParsedRequest>, GatewayError> {
        // CONNECT opens a tunnel, and TRACE sends back what it was sent with (RFC 9110 section 9.3.8).
        let is_unsafe = matches!(head.method, Method::CONNECT | Method::TRACE);
        let may_forward = config.forward == Forward::All && !is_unsafe;
        if !self.holds(head, client) {
            let Some(parsed) = ParsedRequest::parse(config, head, client)? else {
                return match is_below_prefix(head.uri.path()) {
                    _ if is_unsafe => Err(GatewayError::MethodNotAllowed),
                    true if may_forward => Ok(None),
                    true => Err(GatewayError::RouteNotFound),
                    false => Err(GatewayError::NotBelowPrefix),
                };
            };
            let target = target_of(head).into();
            self.0 = Some((Arc::clone(client), target, parsed));
        }
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        if !is_read && may_forward {
            return Ok(None);
        }
        let parsed = self.0.as_ref().map(|(_, _, parsed)| parsed);
        log.rule = parsed.map(|parsed| parsed.rule);
        if is_read {
            Ok(parsed)
        } else {
            Err(GatewayError::MethodNotAllowed)
        }
    }

    /// Returns whether the memo is of this client and target. A profile belongs to one configuration, so
    /// a reload makes the memo invalid. With `vary_headers` the key depends on headers, too.
    fn holds(&self, head: &Parts, client: &Arc<ClientProfile>) -> bool {
        let same = |(last_client, last_target, _): &(Arc<ClientProfile>, Box<str>, _)| {
            Arc::ptr_eq(last_client, client) && **last_target == *target_of(head)
        };
        !client.headers.has_vary_headers() && self.0.as_ref().is_some_and(same)
    }
}

fn target_of(head: &Parts) -> &str {
    head.uri.path_and_query().map_or("", PathAndQuery::as_str)
}

/// A request on a rule's path, parsed.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    /// The index of the rule.
    rule: usize,
    is_list: bool,
    /// Where the ids are in the path.
    ids: SmallVec<[Range<usize>; 4]>,
    query: Query,
    key: Arc<CoalesceKey>,
}

impl ParsedRequest {
    /// Parses path and query; `None` if no rule names the path. The key is made of what the client sent,
    /// before anything is rewritten.
    fn parse(
        config: &RuntimeConfig,
        head: &Parts,
        client: &ClientProfile,
    ) -> Result<Option<Self>, GatewayError> {
        let (path, raw_query) = (head.uri.path(), head.uri.query());
        let added = &config.upstream_query;
        let (rule, ids, query, is_list) = match Route::parse(&config.rules, path) {
            Route::Resource { rule, ids } => {
                let query = Query::for_resource(&config.rules[rule], raw_query, added);
                (rule, ids, query, false)
            }
            Route::List { rule, ids } => (rule, ids, Query::for_list(raw_query, added), true),
            Route::Invalid(reason) => return Err(GatewayError::InvalidPath(reason)),
            Route::Other => return Ok(None),
        };
        let name = config.rules[rule].name();
        let variant = variant(&query, head, client);
        let partition = client.rule_partition(rule);
        let key = if is_list {
            CacheKey::for_list(partition, name, &ids, &variant)
        } else {
            CacheKey::new(partition, name, &ids, &variant)
        };
        Ok(Some(Self {
            rule,
            is_list,
            ids: ids.iter().map(|id| range_within(path, id)).collect(),
            query,
            key: Arc::new(CoalesceKey {
                config_number: config.version,
                key,
            }),
        }))
    }

    pub(super) fn key(&self) -> &CacheKey {
        &self.key.key
    }
}

/// Returns the query and the vary headers as they go upstream: everything that can change the body of one
/// path. An unknown query is marked, so that it never equals a canonical query of the same spelling.
fn variant(query: &Query, head: &Parts, client: &ClientProfile) -> String {
    let mut variant = if query.is_known() {
        String::new()
    } else {
        "?".to_owned()
    };
    variant.push_str(query.as_str());
    for (name, value) in client.headers.vary_headers(&head.headers) {
        variant.push('\n');
        variant.push_str(name.as_str());
        variant.push('=');
        // One character for each byte, so that no two values become the same text.
        variant.extend(value.as_bytes().iter().map(|byte| char::from(*byte)));
    }
    variant
}

/// Returns whether a path is below the API's prefix.
fn is_below_prefix(path: &str) -> bool {
    let below = path.strip_prefix(API_PREFIX);
    below.is_some_and(|below| below.starts_with('/'))
}

/// Returns where in `text` its slice `part` is.
fn range_within(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

/// Why a request is forwarded to the upstream (RFC 9211 section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FwdReason {
    /// No response is stored.
    UriMiss,
    /// The request demands a fresh response.
    Request,
}

impl FwdReason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::Request => "request",
        }
    }
}

/// A request that needs a fetch, with everything that the fetch needs. The fetch may outlive the request.
#[derive(Debug)]
pub(super) struct FetchRequest {
    /// The configuration of the request, also if a reload has replaced it before the fetch starts.
    pub(super) config: Arc<RuntimeConfig>,
    pub(super) client: Arc<ClientProfile>,
    /// The index of the rule.
    pub(super) rule_index: usize,
    /// Who may share the fetch: requests with this key, which came under the same configuration.
    pub(super) key: Arc<CoalesceKey>,
    /// Whether it asks for the rule's list, which is never stored.
    pub(super) is_list: bool,
    ids: SmallVec<[Range<usize>; 4]>,
    /// The client's path and query.
    requested: PathAndQuery,
    pub(super) query: Query,
    /// The request's headers that go upstream.
    pub(super) headers: HeaderMap,
    pub(super) arrived: Instant,
    pub(super) directives: CacheDirectives,
    pub(super) options: FetchOptions,
    pub(super) fwd_reason: FwdReason,
}

impl FetchRequest {
    /// # Errors
    /// [`GatewayError::TARGET_TOO_LONG`].
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one field; a struct would only carry them here"
    )]
    pub(super) fn new(
        parsed: &ParsedRequest,
        head: &Parts,
        config: &Arc<RuntimeConfig>,
        client: &Arc<ClientProfile>,
        arrived: Instant,
        directives: CacheDirectives,
        min_seq: u64,
        fwd_reason: FwdReason,
    ) -> Result<Self, GatewayError> {
        check_target_length(head, &parsed.query)?;
        let requested = head.uri.path_and_query();
        Ok(Self {
            rule_index: parsed.rule,
            key: Arc::clone(&parsed.key),
            is_list: parsed.is_list,
            ids: parsed.ids.clone(),
            requested: requested.expect("a rule names the path").clone(),
            query: parsed.query.clone(),
            headers: client.headers.select_forwardable(&head.headers),
            arrived,
            directives,
            options: FetchOptions {
                deadline: arrived + config.timeout,
                min_seq,
                may_store: !directives.no_store,
                force_fresh: fwd_reason == FwdReason::Request,
            },
            fwd_reason,
            config: Arc::clone(config),
            client: Arc::clone(client),
        })
    }

    pub(super) fn cache_key(&self) -> &CacheKey {
        &self.key.key
    }

    pub(super) fn rule(&self) -> &Rule {
        &self.config.rules[self.rule_index]
    }

    /// Returns the target of the upstream request.
    pub(super) fn target(&self) -> PathAndQuery {
        let query = self.query.as_str();
        self.config.upstream.target(&self.requested, query)
    }

    pub(super) fn ids(&self) -> Ids<'_> {
        let path = self.requested.path();
        self.ids.iter().map(|id| &path[id.clone()]).collect()
    }

    /// Returns whether a body of the shared tier is what a final body of the upstream would have to be.
    pub(super) fn accepts_as_final(&self, body: &Bytes) -> bool {
        let (no_headers, honor_no_store) = (HeaderMap::new(), self.config.cache.honor_no_store);
        let ids = self.ids();
        check(
            self.rule(),
            &ids,
            StatusCode::OK,
            &no_headers,
            body,
            honor_no_store,
        )
        .is_ok()
    }

    /// Writes the line of a fetch that this request started.
    pub(super) fn log(&self, end: &FetchEnd<'_>, took: Duration) {
        let log = FetchLog {
            config: &self.config,
            rule: Some(self.rule().name()),
            client: self.client.name.as_deref(),
            ids: Some(self.ids()),
            headers: &self.headers,
        };
        log.write(end, took);
    }
}
