//! The query of a request on a rule's path.
//!
//! If a rule knows every parameter, this module rewrites the query to its canonical form. The canonical
//! form goes into the key and to the upstream, so both always read the same query. Any other query is
//! sent unchanged, and its response is not stored.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::rule::Rule;

/// Escapes every character except the unreserved ones of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Holds a query as it is sent to the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    text: String,
    known: bool,
}

impl Query {
    /// Reads the query `raw` of a request for one resource of `rule`.
    ///
    /// Parameters named in `injected` are dropped, because the gateway adds its own.
    pub fn for_resource(rule: &Rule, raw: Option<&str>, injected: &[(String, String)]) -> Self {
        let pairs = split_pairs(raw, injected);
        match canonical(rule, &pairs) {
            Some(text) => Self { text, known: true },
            None => Self {
                text: pairs.join("&"),
                known: false,
            },
        }
    }

    /// Reads the query `raw` of a request for a list, and drops parameters named in `injected`.
    pub fn for_list(raw: Option<&str>, injected: &[(String, String)]) -> Self {
        Self {
            text: split_pairs(raw, injected).join("&"),
            known: false,
        }
    }

    /// Returns the query without its `?`, or an empty string if there is none.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether the rule knows every parameter. Only then may the response be stored.
    pub fn is_known(&self) -> bool {
        self.known
    }
}

/// Returns `name=value`, escaped as in a canonical [`Query`].
pub fn encode_pair(name: &str, value: &str) -> String {
    format!(
        "{}={}",
        utf8_percent_encode(name, ESCAPED),
        utf8_percent_encode(value, ESCAPED)
    )
}

fn split_pairs<'q>(raw: Option<&'q str>, injected: &[(String, String)]) -> Vec<&'q str> {
    let raw = match raw {
        None | Some("") => return Vec::new(),
        Some(raw) => raw,
    };
    raw.split('&')
        .filter(|pair| !pair.is_empty())
        .filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            // A name that cannot be decoded stays, and makes the query unknown.
            !decode(name).is_some_and(|name| injected.iter().any(|(own, _)| *own == name))
        })
        .collect()
}

/// Returns the canonical form, or `None` if a parameter is unknown or its order could matter.
fn canonical(rule: &Rule, raw_pairs: &[&str]) -> Option<String> {
    if raw_pairs.is_empty() {
        return Some(String::new());
    }
    let mut pairs = Vec::with_capacity(raw_pairs.len());
    for pair in raw_pairs {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if !rule.query().any(|known| known == name) {
            return None;
        }
        pairs.push((name, value));
    }
    pairs.sort_unstable();
    pairs.dedup();
    // `name[]` is a set. The upstream may take the first or the last value of any other repeated name.
    let ambiguous = pairs
        .windows(2)
        .any(|pair| pair[0].0 == pair[1].0 && !pair[0].0.ends_with("[]"));
    if ambiguous {
        return None;
    }
    let encoded: Vec<String> = pairs.iter().map(|(n, v)| encode_pair(n, v)).collect();
    Some(encoded.join("&"))
}

/// Decodes form encoding. Returns `None` for a stray `%` and for bytes that are not UTF-8, because
/// servers disagree on their meaning.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    let stray = bytes.iter().enumerate().any(|(i, b)| {
        *b == b'%'
            && !bytes
                .get(i + 1..i + 3)
                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if stray {
        return None;
    }
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode_str(&spaced)
            .decode_utf8()
            .ok()
            .map(|decoded| Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RuleSpec;
    use proptest::prelude::*;

    fn query(raw: &str) -> Query {
        Query::for_resource(&Rule::run_step(), Some(raw), &[])
    }

    #[test]
    fn equal_queries_have_one_canonical_form() {
        let value = "step_details.tool_calls%5B%2A%5D.file_search.results%5B%2A%5D.content";
        let canonical = format!("include%5B%5D={value}");
        for raw in [
            "include[]=step_details.tool_calls[*].file_search.results[*].content",
            "include%5B%5D=step_details.tool_calls%5B%2A%5D.file_search.results%5B%2A%5D.content",
            "include%5b%5d=step_details.tool_calls[%2a].file_search.results[*].content&",
            "&include[]=step_details.tool_calls[*].file_search.results[*].content\
             &include[]=step_details.tool_calls[*].file_search.results[*].content",
        ] {
            let query = query(raw);
            assert!(query.is_known(), "{raw}");
            assert_eq!(query.as_str(), canonical, "{raw}");
        }
        assert_eq!(
            query("include[]=b&include[]=a"),
            query("include[]=a&include%5B%5D=b")
        );
        assert_eq!(
            query(""),
            Query {
                text: String::new(),
                known: true
            }
        );
    }

    #[test]
    fn an_unknown_query_is_sent_unchanged() {
        for raw in [
            "x=1",
            "include=1",
            "INCLUDE[]=1",
            "include[]=a&x",
            "include[]=%zz",
            "include[]=%f",
            "include[]=%ff",
            "include[]=a;x=1&y",
        ] {
            let query = query(raw);
            assert!(!query.is_known(), "{raw}");
            assert_eq!(query.as_str(), raw);
        }
    }

    #[test]
    fn a_repeated_parameter_without_brackets_makes_the_query_unknown() {
        let rule = Rule::new(RuleSpec {
            name: "a".to_owned(),
            path: "/a/{id}".to_owned(),
            identity: vec![("id".to_owned(), "id".to_owned())],
            terminal: vec!["done".to_owned()],
            query: vec!["limit".to_owned(), "order".to_owned()],
            ..RuleSpec::default()
        })
        .unwrap();
        let read = |raw| Query::for_resource(&rule, Some(raw), &[]);
        for raw in ["limit=1", "limit=1&limit=%31", "order=&limit=1&order"] {
            assert!(read(raw).is_known(), "{raw}");
        }
        for raw in ["limit=1&limit=2", "limit=1&order=1&limit", "limit=1&limit="] {
            assert!(!read(raw).is_known(), "{raw}");
            assert_eq!(read(raw).as_str(), raw);
        }
    }

    #[test]
    fn injected_parameters_replace_the_clients() {
        let injected = [("api-version".to_owned(), "2024".to_owned())];
        let raw = Some("api-version=1&api%2Dversion=2&include[]=a");
        let query = Query::for_resource(&Rule::run_step(), raw, &injected);
        assert_eq!(query.as_str(), "include%5B%5D=a");
        assert!(query.is_known());
        assert_eq!(
            Query::for_list(Some("limit=5&api-version=9"), &injected).as_str(),
            "limit=5"
        );
    }

    #[test]
    fn a_separator_in_a_value_cannot_become_a_parameter() {
        assert_eq!(
            query("include[]=a%26x%3D1;b+c").as_str(),
            "include%5B%5D=a%26x%3D1%3Bb%20c"
        );
    }

    proptest! {
        #[test]
        fn canonicalisation_is_idempotent(values in prop::collection::vec(".{0,12}", 0..5)) {
            let raw: Vec<String> = values.iter().map(|v| encode_pair("include[]", v)).collect();
            let once = query(&raw.join("&"));
            prop_assert!(once.is_known());
            prop_assert_eq!(query(once.as_str()), once);
        }

        #[test]
        fn equal_canonical_forms_mean_equal_values(
            a in prop::collection::btree_set("[a-c%+&=;]{0,4}", 0..4),
            b in prop::collection::btree_set("[a-c%+&=;]{0,4}", 0..4),
        ) {
            let canonical = |set: &std::collections::BTreeSet<String>| {
                let raw: Vec<String> = set.iter().rev().map(|v| encode_pair("include[]", v)).collect();
                query(&raw.join("&")).as_str().to_owned()
            };
            prop_assert_eq!(a == b, canonical(&a) == canonical(&b));
        }
    }
}
