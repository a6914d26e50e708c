//! Invalidation: which stored resources an unsafe request may have changed.
//!
//! RFC 9111 section 4.4 asks a cache to invalidate the target URI of a successful unsafe request.
//! This module also covers every resource below that path. For example, deleting a thread deletes
//! its runs and their steps.

use hyper::Method;
use percent_encoding::percent_decode_str;

use super::route::is_id;
use super::rule::{API_PREFIX, Rule};

/// Names resources to invalidate: the index of a rule, and the leading ids that they share.
pub type ResourcePrefix = (usize, Vec<String>);

/// Returns what a successful `method` request for `path` may have changed.
///
/// A POST to a collection adds a resource and invalidates nothing. The path is decoded as leniently as
/// any upstream may decode it, because invalidating too much is harmless.
pub fn invalidated_by(rules: &[Rule], method: &Method, path: &str) -> Vec<ResourcePrefix> {
    if method.is_safe() {
        return Vec::new();
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut segments = decoded.split('/').filter(|segment| !segment.is_empty());
    if segments.next() != API_PREFIX.strip_prefix('/') {
        return Vec::new();
    }
    let segments: Vec<&str> = segments.collect();
    let prefix_of = |(index, rule): (usize, &Rule)| {
        let prefix = rule.path().match_prefix(&segments)?;
        let adds_to_collection = !prefix.ends_in_id && method == Method::POST;
        let are_ids = prefix.ids.iter().all(|id| is_id(id));
        let ids = prefix.ids.into_iter().map(str::to_owned).collect();
        (are_ids && !adds_to_collection).then_some((index, ids))
    };
    rules.iter().enumerate().filter_map(prefix_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the leading ids that are invalidated, each after a slash.
    fn invalidated(method: &Method, path: &str) -> Option<String> {
        let prefixes = invalidated_by(&[Rule::run_step()], method, path);
        assert!(prefixes.len() <= 1);
        let ids = prefixes.into_iter().next().map(|(_, ids)| ids)?;
        Some(ids.iter().flat_map(|id| ["/", id]).collect())
    }

    #[test]
    fn an_unsafe_method_invalidates_what_lies_below_its_path() {
        for (path, ids) in [
            ("/v1/threads/t", "/t"),
            ("/v1/threads/t/runs/r", "/t/r"),
            ("/v1/threads/t/runs/r/steps/s", "/t/r/s"),
        ] {
            for method in [Method::POST, Method::DELETE, Method::PATCH, Method::PUT] {
                assert_eq!(invalidated(&method, path).as_deref(), Some(ids), "{path}");
            }
            for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
                assert_eq!(invalidated(&method, path), None, "{path}");
            }
        }
    }

    #[test]
    fn a_post_to_a_collection_invalidates_nothing() {
        for (path, ids) in [
            ("/v1/threads", ""),
            ("/v1/threads/t/runs", "/t"),
            ("/v1/threads/t/runs/r/steps", "/t/r"),
        ] {
            assert_eq!(invalidated(&Method::POST, path), None, "{path}");
            let by_delete = invalidated(&Method::DELETE, path);
            assert_eq!(by_delete.as_deref(), Some(ids), "{path}");
        }
    }

    #[test]
    fn a_path_of_no_rule_invalidates_nothing() {
        for path in [
            "/v1",
            "/v1/files/f",
            "/v1/threads/t/messages",
            "/v1/threads/t/messages/m",
            "/v1/threads/t/runs/r/cancel",
            "/v1/threads/t/runs/r/steps/s/x",
            "/v2/threads/t",
            "/threads/t",
            "/v1/threads/a.b",
        ] {
            assert_eq!(invalidated(&Method::DELETE, path), None, "{path}");
        }
    }

    #[test]
    fn percent_encoding_and_empty_segments_are_decoded_first() {
        for path in [
            "/v1/threads/%74/",
            "/v1//threads/t",
            "/%761/threads/t",
            "/v1/%74hreads%2Ft",
        ] {
            let ids = invalidated(&Method::DELETE, path);
            assert_eq!(ids.as_deref(), Some("/t"), "{path}");
        }
    }
}
