//! The request headers that govern caching: `Cache-Control`, `Pragma`, `If-None-Match`, `Prefer: wait`.

use hyper::header::{CACHE_CONTROL, HeaderMap, HeaderName, IF_NONE_MATCH, PRAGMA};

/// Holds a request's cache directives (RFC 9111 section 5.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheDirectives {
    /// `no-cache`: accept only a fetch that starts after the request arrived.
    pub no_cache: bool,
    /// `no-store`: store nothing new for this request alone.
    pub no_store: bool,
    /// `only-if-cached`: start no fetch.
    pub only_if_cached: bool,
    /// `max-age=N`: accept a stored response of at most this age, in seconds.
    pub max_age: Option<u64>,
}

impl CacheDirectives {
    /// Reads the directives from a request's headers.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            // RFC 9111 section 5.4: Pragma counts only in the absence of Cache-Control.
            found.no_cache = has_directive(headers, &PRAGMA, "no-cache");
            return found;
        }
        for (name, value) in directives(headers, &CACHE_CONTROL) {
            match name.to_ascii_lowercase().as_slice() {
                b"no-cache" => found.no_cache = true,
                b"no-store" => found.no_store = true,
                b"only-if-cached" => found.only_if_cached = true,
                b"max-age" => {
                    let least = found.max_age.unwrap_or(u64::MAX);
                    found.max_age = Some(least.min(seconds(value.unwrap_or_default())));
                }
                _ => {}
            }
        }
        found
    }

    /// Returns whether a stored response of this age, in whole seconds, is acceptable.
    pub fn accepts_age(&self, age: u64) -> bool {
        !self.no_cache && self.max_age.is_none_or(|limit| age <= limit)
    }
}

/// Limits how long a request can ask to wait, in seconds.
const MAX_WAIT: u64 = 60;

/// Returns the `wait` preference (RFC 7240 section 4.3) in whole seconds, at most 60.
///
/// The first `wait` counts. `None` if there is none, or if it holds no positive number.
pub fn wait_preference(headers: &HeaderMap) -> Option<u64> {
    let (_, value) = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| split_unquoted(value, ','))
        // Parameters of a preference follow after semicolons.
        .filter_map(|preference| split_unquoted(preference, ';').next())
        .map(|preference| preference.split_once('=').unwrap_or((preference, "")))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))?;
    let value = value.trim();
    let quoted = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    let digits = quoted.unwrap_or(value);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // Parsing digits fails only if the number is too large.
    let seconds = is_number.then(|| digits.parse().unwrap_or(u64::MAX))?;
    (seconds > 0).then_some(seconds.min(MAX_WAIT))
}

/// Splits at each separator outside of quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let splits = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        splits
    })
}

/// Returns whether `If-None-Match` lists `etag`, by weak comparison (RFC 9110 section 13.1.2).
pub fn matches_if_none_match(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.trim() == "*" || entity_tags(value).any(|tag| tag == etag))
}

/// Returns the opaque tags of a list with their quotes, without `W/`. A tag may contain a comma.
fn entity_tags(mut list: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let start = list.find('"')?;
        let length = list[start + 1..].find('"')? + 2;
        let tag = &list[start..start + length];
        list = &list[start + length..];
        Some(tag)
    })
}

/// Parses delta-seconds. A malformed value is 0, because a fresh response is always correct.
fn seconds(value: &[u8]) -> u64 {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    // Parsing digits fails only if the number is too large.
    std::str::from_utf8(value).map_or(0, |digits| digits.parse().unwrap_or(u64::MAX))
}

/// Returns whether the header holds this directive, with or without a value.
pub fn has_directive(headers: &HeaderMap, name: &HeaderName, directive: &str) -> bool {
    directives(headers, name).any(|(found, _)| found.eq_ignore_ascii_case(directive.as_bytes()))
}

/// Returns each directive with its value.
///
/// It reads bytes, so that a value outside ASCII does not hide the directives next to it.
fn directives<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(
            |directive| match directive.iter().position(|byte| *byte == b'=') {
                Some(at) => (
                    directive[..at].trim_ascii(),
                    Some(unquoted(&directive[at + 1..])),
                ),
                None => (directive.trim_ascii(), None),
            },
        )
}

fn unquoted(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    let inner = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    inner.unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn cache_control_is_parsed_leniently() {
        let of = |value| CacheDirectives::from_headers(&headers(&[("cache-control", value)]));
        let none = CacheDirectives::default();
        assert_eq!(
            of("No-Cache"),
            CacheDirectives {
                no_cache: true,
                ..none
            }
        );
        assert_eq!(
            of("foo, no-store,"),
            CacheDirectives {
                no_store: true,
                ..none
            }
        );
        assert_eq!(
            of("only-if-cached"),
            CacheDirectives {
                only_if_cached: true,
                ..none
            }
        );
        assert_eq!(of("max-age=5, max-age=\"3\"").max_age, Some(3));
        assert_eq!(of("max-age=x").max_age, Some(0));
        assert_eq!(of("max-age").max_age, Some(0));
        assert_eq!(
            of("max-age=99999999999999999999999").max_age,
            Some(u64::MAX)
        );
        assert_eq!(of("x-no-cache"), none);
        let bytes = HeaderValue::from_bytes(b"no-cache, x=\"\xff\"").unwrap();
        let map: HeaderMap = [(CACHE_CONTROL, bytes)].into_iter().collect();
        assert!(
            CacheDirectives::from_headers(&map).no_cache,
            "a value outside ASCII hides no directive"
        );
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        assert!(CacheDirectives::from_headers(&headers(&[("pragma", "no-cache")])).no_cache);
        let both = headers(&[("pragma", "no-cache"), ("cache-control", "max-age=9")]);
        assert!(!CacheDirectives::from_headers(&both).no_cache);
    }

    #[test]
    fn max_age_limits_the_accepted_age() {
        let limit = |max_age| CacheDirectives {
            max_age,
            ..CacheDirectives::default()
        };
        assert!(limit(None).accepts_age(u64::MAX));
        assert!(limit(Some(5)).accepts_age(5));
        assert!(!limit(Some(5)).accepts_age(6));
        assert!(
            !CacheDirectives {
                no_cache: true,
                ..CacheDirectives::default()
            }
            .accepts_age(0)
        );
    }

    #[test]
    fn the_first_valid_wait_preference_counts() {
        let wait = |value| wait_preference(&headers(&[("prefer", value)]));
        for (value, expected) in [
            ("wait=5", Some(5)),
            ("Wait = 5", Some(5)),
            ("wait=\"5\"", Some(5)),
            ("respond-async, wait=5;x=y", Some(5)),
            ("wait=5, wait=9", Some(5)),
            ("foo=\"a, wait=9\", wait=5", Some(5)),
            ("foo=\"\\\", wait=9\", wait=5", Some(5)),
            ("foo=\"\", wait=5", Some(5)),
            ("fo=\"\", wait=5", Some(5)),
            ("foo=\"\\\\\", wait=5", Some(5)),
            ("wait=60", Some(60)),
            ("wait=61", Some(60)),
            ("wait=99999999999999999999999", Some(60)),
            ("wait=0", None),
            ("wait", None),
            ("wait=", None),
            ("wait=x", None),
            ("wait=-1", None),
            ("wait=1.5", None),
            ("wait=x, wait=5", None),
            ("await=5", None),
            ("", None),
        ] {
            assert_eq!(wait(value), expected, "{value}");
        }
        let two = headers(&[("prefer", "return=minimal"), ("prefer", "wait=7")]);
        assert_eq!(wait_preference(&two), Some(7));
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for value in [
            "\"a\"",
            "W/\"a\"",
            "\"x\", \"a\"",
            "\"x,y\",W/\"a\"",
            "*",
            " * ",
        ] {
            assert!(
                matches_if_none_match(&headers(&[("if-none-match", value)]), "\"a\""),
                "{value}"
            );
        }
        for value in ["\"b\"", "a", "\"x,\"a", "\"a", "", "\"A\""] {
            assert!(
                !matches_if_none_match(&headers(&[("if-none-match", value)]), "\"a\""),
                "{value}"
            );
        }
        let two = headers(&[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")]);
        assert!(matches_if_none_match(&two, "\"a\""));
    }
}
