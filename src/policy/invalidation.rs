//! How far a change reaches: what an unsafe request may have changed, besides its own resource.
//!
//! A thread that is deleted takes its runs and their steps along. So whatever stands below a changed
//! path is believed no longer (RFC 9111 section 4.4 asks it of the path itself).

use hyper::Method;
use percent_encoding::percent_decode_str;

use super::route::is_id;
use super::rule::{API_PREFIX, Rule};

/// Where a change reaches: the index of a rule, and the leading ids below which nothing of it stands.
pub type ResourcePrefix = (usize, Vec<String>);

/// What a `method` that succeeded on `path` may have changed. A POST to a collection adds to it, and
/// changes nothing that was there.
///
/// The path is read as generously as any upstream may read it: forgetting too much is harmless.
pub fn invalidated_by(rules: &[Rule], method: &Method, path: &str) -> Vec<ResourcePrefix> {
    if method.is_safe() {
        return Vec::new();
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut parts = decoded.split('/').filter(|part| !part.is_empty());
    if parts.next() != API_PREFIX.strip_prefix('/') {
        return Vec::new();
    }
    let parts: Vec<&str> = parts.collect();
    let below = |(index, rule): (usize, &Rule)| {
        let leading = rule.path().leading(&parts)?;
        let adds = !leading.ends_in_id && method == Method::POST;
        let known = leading.ids.iter().all(|id| is_id(id));
        let ids = leading.ids.into_iter().map(str::to_owned).collect();
        (known && !adds).then_some((index, ids))
    };
    rules.iter().enumerate().filter_map(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leading ids, with a slash before each.
    fn reached(method: &Method, path: &str) -> Option<String> {
        let reached = invalidated_by(&[Rule::run_step()], method, path);
        assert!(reached.len() <= 1);
        let ids = reached.into_iter().next().map(|(_, ids)| ids)?;
        Some(ids.iter().flat_map(|id| ["/", id]).collect())
    }

    #[test]
    fn a_change_reaches_what_lies_below_it() {
        for (path, ids) in [
            ("/v1/threads/t", "/t"),
            ("/v1/threads/t/runs/r", "/t/r"),
            ("/v1/threads/t/runs/r/steps/s", "/t/r/s"),
        ] {
            for method in [Method::POST, Method::DELETE, Method::PATCH, Method::PUT] {
                assert_eq!(reached(&method, path).as_deref(), Some(ids), "{path}");
            }
            for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
                assert_eq!(reached(&method, path), None, "{path}");
            }
        }
    }

    #[test]
    fn what_adds_to_a_collection_changes_nothing_of_it() {
        for (path, ids) in [
            ("/v1/threads", ""),
            ("/v1/threads/t/runs", "/t"),
            ("/v1/threads/t/runs/r/steps", "/t/r"),
        ] {
            assert_eq!(reached(&Method::POST, path), None, "{path}");
            let all = reached(&Method::DELETE, path);
            assert_eq!(all.as_deref(), Some(ids), "{path}");
        }
    }

    #[test]
    fn other_paths_reach_nothing() {
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
            assert_eq!(reached(&Method::DELETE, path), None, "{path}");
        }
    }

    #[test]
    fn it_is_read_as_an_upstream_may_read_it() {
        for path in [
            "/v1/threads/%74/",
            "/v1//threads/t",
            "/%761/threads/t",
            "/v1/%74hreads%2Ft",
        ] {
            let reached = reached(&Method::DELETE, path);
            assert_eq!(reached.as_deref(), Some("/t"), "{path}");
        }
    }
}
