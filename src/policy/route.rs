//! From a request's path to the rule that it asks for, or to a refusal.
//!
//! A path has one meaning or none. Whatever an upstream could decode, resolve or trim into a path
//! of ours (`%73teps`, `..`, `//`, a trailing slash) is refused rather than forwarded, so that no
//! two spellings reach the same resource and no spelling slips past the key.

use std::borrow::Cow;

use memchr::memchr;
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use super::rule::{API_PREFIX, Rule, Template};

/// The longest id that is taken for one.
const MAX_ID: usize = 128;

/// The ids of a path, in its order.
pub type Ids<'p> = SmallVec<[&'p str; 4]>;

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route<'p> {
    /// One resource of the rule with this index.
    Resource {
        /// Index into the rules.
        rule: usize,
        /// The ids, in path order.
        ids: Ids<'p>,
    },
    /// The list of the rule with this index.
    List {
        /// Index into the rules.
        rule: usize,
        /// The ids, in path order.
        ids: Ids<'p>,
    },
    /// Nothing that a rule names.
    Other,
    /// Refused; the text says what is wrong with it.
    Invalid(&'static str),
}

impl<'p> Route<'p> {
    /// Reads `path`, which is everything before the `?`, as sent.
    pub fn parse(rules: &[Rule], path: &'p str) -> Self {
        if let Some(relative) = path.strip_prefix(API_PREFIX) {
            for (index, rule) in rules.iter().enumerate() {
                if let Some(found) = matches(rule.path(), relative) {
                    return found.checked(|ids| Self::Resource { rule: index, ids });
                }
                if let Some(found) = rule.list().and_then(|list| matches(list, relative)) {
                    return found.checked(|ids| Self::List { rule: index, ids });
                }
            }
        }
        disguised(rules, path).map_or(Self::Other, Self::Invalid)
    }
}

const IN_AN_ID: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0_u8;
    while b < 128 {
        table[b as usize] = b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        b += 1;
    }
    table
};

/// Whether `text` is an id: `[A-Za-z0-9_-]{1,128}`.
pub fn is_id(text: &str) -> bool {
    // Without a way out, which costs a third less on the longest part of reading a path.
    let plain = text
        .bytes()
        .fold(true, |plain, b| plain & IN_AN_ID[usize::from(b)]);
    plain && (1..=MAX_ID).contains(&text.len())
}

/// What stands where the template has its parameters.
struct Found<'p> {
    ids: Ids<'p>,
    /// Each of them is an id.
    are_ids: bool,
}

impl<'p> Found<'p> {
    fn checked(self, route: impl FnOnce(Ids<'p>) -> Route<'p>) -> Route<'p> {
        if self.are_ids {
            route(self.ids)
        } else {
            Route::Invalid("An id in the path is not 1 to 128 characters of A-Z a-z 0-9 _ -.")
        }
    }
}

/// What a path has for the template's parameters, if the literals match and the number of segments
/// does.
fn matches<'p>(template: &Template, relative: &'p str) -> Option<Found<'p>> {
    let (first, others) = template.literals().split_first()?;
    let mut left = relative.strip_prefix(&**first)?;
    let mut found = Found {
        ids: Ids::new(),
        are_ids: true,
    };
    for literal in others {
        let end = memchr(b'/', left.as_bytes()).unwrap_or(left.len());
        let (id, behind) = left.split_at(end);
        found.ids.push(id);
        found.are_ids &= is_id(id);
        left = behind.strip_prefix(&**literal)?;
    }
    left.is_empty().then_some(found)
}

/// Says why a path that is none of ours could yet become one behind our back.
fn disguised(rules: &[Rule], path: &str) -> Option<&'static str> {
    let decoded: Cow<'_, str> = percent_decode_str(path).decode_utf8_lossy();
    let parts: Vec<&str> = decoded.split('/').skip(1).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Some("The path contains a dot segment.");
    }
    let trimmed = parts
        .iter()
        .rposition(|part| !part.is_empty())
        .map_or(0, |last| last + 1);
    let full: Vec<&str> = parts
        .iter()
        .copied()
        .filter(|part| !part.is_empty())
        .collect();
    let ours = |parts: &[&str]| {
        let relative: Option<String> = parts
            .split_first()
            .filter(|(first, _)| ***first == API_PREFIX[1..])
            .map(|(_, rest)| rest.iter().flat_map(|part| ["/", *part]).collect());
        relative.is_some_and(|relative| {
            rules.iter().any(|rule| {
                std::iter::once(rule.path())
                    .chain(rule.list())
                    .any(|template| matches(template, &relative).is_some())
            })
        })
    };
    if !ours(&parts[..trimmed]) && !ours(&full) {
        None
    } else if path.contains('%') {
        Some("The path contains percent-encoding; ids and names are sent plain.")
    } else if trimmed < parts.len() {
        Some("The path ends in a slash.")
    } else {
        Some("The path contains an empty segment.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str) -> Route<'_> {
        // Leaks nothing: the ids borrow from `path`, not from the rules.
        Route::parse(&[Rule::run_step()], path)
    }

    #[test]
    fn a_step_and_its_list_are_recognised() {
        assert_eq!(
            route("/v1/threads/t_1/runs/r-2/steps/S3"),
            Route::Resource {
                rule: 0,
                ids: Ids::from_slice(&["t_1", "r-2", "S3"])
            }
        );
        assert_eq!(
            route("/v1/threads/t/runs/r/steps"),
            Route::List {
                rule: 0,
                ids: Ids::from_slice(&["t", "r"])
            }
        );
    }

    #[test]
    fn what_could_become_a_step_path_is_refused() {
        let long = "x".repeat(129);
        let ids = [
            ".",
            "..",
            "..%2f",
            "%252e%252e",
            "%00",
            "%0d%0aX:y",
            "a;b",
            "a\\b",
            "",
            &long,
            "é",
            "a%20b",
            "a b",
            "a.b",
            "a+b",
            "~",
        ];
        for id in ids {
            for path in [
                format!("/v1/threads/t/runs/r/steps/{id}"),
                format!("/v1/threads/{id}/runs/r/steps/s"),
                format!("/v1/threads/t/runs/{id}/steps/s"),
                format!("/v1/threads/{id}/runs/r/steps"),
            ] {
                if path == "/v1/threads/t/runs/r/steps/" {
                    continue; // the list with a trailing slash: below
                }
                assert!(matches!(route(&path), Route::Invalid(_)), "{path}");
            }
        }
        for path in [
            "/v1/threads/t/runs/r/steps/s/",
            "/v1/threads/t/runs/r/steps/s//",
            "/v1/threads/t/runs/r/steps/",
            "/v1//threads/t/runs/r/steps/s",
            "//v1/threads/t/runs/r/steps/s",
            "/v1/threads/t/runs/r/%73teps/s",
            "/%761/threads/t/runs/r/steps/s",
            "/v1/threads/t/runs/r%2Fsteps/s",
            "/v1/./threads/t/runs/r/steps/s",
            "/v1/x/../threads/t/runs/r/steps/s",
            "/v1/x/%2e%2E/threads/t/runs/r/steps/s",
            "/v1/models/..",
        ] {
            assert!(matches!(route(path), Route::Invalid(_)), "{path}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        for (path, word) in [
            ("/v1/threads/t/runs/r/steps/a.b", "An id"),
            ("/v1/threads/t/runs/r/%73teps/s", "percent-encoding"),
            ("/v1/threads/t/runs/r/steps/s/", "ends in a slash"),
            ("/v1/threads/t/runs/r/steps/s//", "ends in a slash"),
            ("/v1/threads//runs/r/steps/s/", "ends in a slash"),
            ("/v1//threads/t/runs/r/steps/s", "an empty segment"),
            ("/v1/models/..", "dot segment"),
        ] {
            let Route::Invalid(text) = route(path) else {
                panic!("taken: {path}");
            };
            assert!(text.contains(word), "{path}: {text}");
        }
    }

    #[test]
    fn other_paths_are_other() {
        for path in [
            "/",
            "",
            "*",
            "/v1",
            "/v1/",
            "/v1/models",
            "/V1/threads/t/runs/r/steps/s",
            "/v1/Threads/t/runs/r/steps/s",
            "/v1/threads/t/runs/r",
            "/threads/t/runs/r/steps/s",
            "/v1x/threads/t/runs/r/steps/s",
            "/v1/threads/t/runs/r/steps/s/x",
            "/metrics",
        ] {
            assert_eq!(route(path), Route::Other, "{path}");
        }
    }
}
