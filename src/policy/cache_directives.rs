//! What a caller asks of the cache: `Cache-Control`, `Pragma`, `If-None-Match`.

use hyper::header::{CACHE_CONTROL, HeaderMap, HeaderName, IF_NONE_MATCH, PRAGMA};

/// A request's cache directives (RFC 9111 section 5.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheDirectives {
    /// `no-cache`: only an answer that departs after this request will do.
    pub no_cache: bool,
    /// `no-store`: keep nothing newly for this request alone.
    pub no_store: bool,
    /// `only-if-cached`: no fetch.
    pub only_if_cached: bool,
    /// `max-age=N`: a stored answer of at most this age, in seconds, will do.
    pub max_age: Option<u64>,
}

impl CacheDirectives {
    /// Reads them from a request's headers.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut conditions = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            // RFC 9111 section 5.4: Pragma speaks only where Cache-Control is silent.
            conditions.no_cache = has_directive(headers, &PRAGMA, "no-cache");
            return conditions;
        }
        for (name, value) in directives(headers, &CACHE_CONTROL) {
            match name.to_ascii_lowercase().as_slice() {
                b"no-cache" => conditions.no_cache = true,
                b"no-store" => conditions.no_store = true,
                b"only-if-cached" => conditions.only_if_cached = true,
                b"max-age" => {
                    let known = conditions.max_age.unwrap_or(u64::MAX);
                    conditions.max_age = Some(known.min(seconds(value.unwrap_or_default())));
                }
                _ => {}
            }
        }
        conditions
    }

    /// Whether a stored answer of this age, in whole seconds, will do.
    pub fn accepts_age(&self, age: u64) -> bool {
        !self.no_cache && self.max_age.is_none_or(|limit| age <= limit)
    }
}

/// The longest time that a request can ask to be held.
const LONGEST_WAIT: u64 = 60;

/// The `wait` preference (RFC 7240 section 4.3) in whole seconds, at most 60. The
/// first one counts; one without a positive number, like any other preference, is ignored.
pub fn wait_preference(headers: &HeaderMap) -> Option<u64> {
    let (_, value) = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| split_unquoted(value, ','))
        // Parameters of a preference follow behind semicolons.
        .filter_map(|preference| split_unquoted(preference, ';').next())
        .map(|preference| preference.split_once('=').unwrap_or((preference, "")))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))?;
    let value = value.trim();
    let quoted = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    let digits = quoted.unwrap_or(value);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // Only a number too large to be read fails here.
    let seconds = is_number.then(|| digits.parse().unwrap_or(u64::MAX))?;
    (seconds > 0).then_some(seconds.min(LONGEST_WAIT))
}

/// Splits where the separator stands outside of quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let splits = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        splits
    })
}

/// Whether `If-None-Match` names `etag`, by weak comparison (RFC 9110 section 13.1.2).
pub fn matches_if_none_match(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.trim() == "*" || entity_tags(value).any(|tag| tag == etag))
}

/// The opaque tags of a list, quotes included, `W/` dropped. A comma may stand inside the quotes.
fn entity_tags(mut list: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let start = list.find('"')?;
        let length = list[start + 1..].find('"')? + 2;
        let tag = &list[start..start + length];
        list = &list[start + length..];
        Some(tag)
    })
}

/// Unreadable means zero: a fresh answer is never a wrong one.
fn seconds(value: &[u8]) -> u64 {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    // Only a number too large to be read fails here.
    std::str::from_utf8(value).map_or(0, |digits| digits.parse().unwrap_or(u64::MAX))
}

/// Whether a list of directives has this one, with or without a value.
pub fn has_directive(headers: &HeaderMap, name: &HeaderName, directive: &str) -> bool {
    directives(headers, name).any(|(found, _)| found.eq_ignore_ascii_case(directive.as_bytes()))
}

/// By bytes: a value that is no ASCII must not hide the directives beside it.
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
    fn directives_are_read_in_any_spelling() {
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
            "whatever stands beside it"
        );
    }

    #[test]
    fn pragma_speaks_only_alone() {
        assert!(CacheDirectives::from_headers(&headers(&[("pragma", "no-cache")])).no_cache);
        let both = headers(&[("pragma", "no-cache"), ("cache-control", "max-age=9")]);
        assert!(!CacheDirectives::from_headers(&both).no_cache);
    }

    #[test]
    fn ages_are_accepted_up_to_the_limit() {
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
    fn the_first_wait_counts_and_nonsense_is_ignored() {
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
    fn entity_tags_compare_weakly() {
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
