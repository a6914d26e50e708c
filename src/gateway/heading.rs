//! What of a request's headers concerns us, found in one pass: most requests have few of these, and
//! one pass costs less than a search for each.

use hyper::header::{HeaderMap, HeaderValue};

use crate::policy::{CacheDirectives, matches_if_none_match, wait_preference};

/// Which of the headers that concern us a request has.
#[derive(Debug)]
pub(crate) struct RequestHeaders<'h> {
    headers: &'h HeaderMap,
    /// The first `Host`.
    pub(crate) host: Option<&'h HeaderValue>,
    pub(crate) has_two_hosts: bool,
    pub(crate) has_transfer_encoding: bool,
    /// `Origin` or `Sec-Fetch-Site`: a browser speaks.
    pub(crate) is_a_browsers: bool,
    /// `Cache-Control` or `Pragma`.
    has_cache_directives: bool,
    has_none_match: bool,
    has_preference: bool,
}

impl<'h> RequestHeaders<'h> {
    pub(crate) fn of(headers: &'h HeaderMap) -> Self {
        let mut heading = Self {
            headers,
            host: None,
            has_two_hosts: false,
            has_transfer_encoding: false,
            is_a_browsers: false,
            has_cache_directives: false,
            has_none_match: false,
            has_preference: false,
        };
        for (name, value) in headers {
            match name.as_str() {
                "host" => {
                    heading.has_two_hosts = heading.host.is_some();
                    heading.host.get_or_insert(value);
                }
                "transfer-encoding" => heading.has_transfer_encoding = true,
                "origin" | "sec-fetch-site" => heading.is_a_browsers = true,
                "cache-control" | "pragma" => heading.has_cache_directives = true,
                "if-none-match" => heading.has_none_match = true,
                "prefer" => heading.has_preference = true,
                _ => {}
            }
        }
        heading
    }

    /// What it asks of the cache.
    pub(crate) fn conditions(&self) -> CacheDirectives {
        if self.has_cache_directives {
            CacheDirectives::from_headers(self.headers)
        } else {
            CacheDirectives::default()
        }
    }

    /// How many seconds it wants to be held, if it does.
    pub(crate) fn wait(&self) -> Option<u64> {
        self.has_preference
            .then(|| wait_preference(self.headers))
            .flatten()
    }

    /// Whether its caller has what this entity tag stands for.
    pub(crate) fn knows(&self, etag: &[u8]) -> bool {
        self.has_none_match
            && str::from_utf8(etag).is_ok_and(|etag| matches_if_none_match(self.headers, etag))
    }
}
