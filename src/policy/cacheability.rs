//! Cacheability: whether a response may be stored.
//!
//! This module keeps promise 1: only a response that is provably final is stored. Each other response
//! has a [`NoStoreReason`], which the client, the log and the metrics show.

use hyper::StatusCode;
use hyper::header::{AGE, CACHE_CONTROL, CONTENT_ENCODING, HeaderMap};

use super::cache_directives::has_directive;
use super::json::{self, JsonStr};
use super::rule::Rule;

/// Names why a response was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoStoreReason {
    /// The status in the body is not terminal.
    NotFinal,
    /// An id in the body is missing, or differs from the id in the path.
    WrongId,
    /// The member `object` is not the rule's.
    WrongObject,
    /// A member that the check reads occurs twice.
    DuplicateMember,
    /// The body is not UTF-8, or not one JSON object.
    NotJson,
    /// The body is larger than `cache.max_entry_bytes`.
    TooLarge,
    /// The upstream status is not 200.
    BadStatus,
    /// The body has a content coding, although the fetch accepts `identity` only.
    Encoded,
    /// The response came from a cache of the upstream.
    UpstreamCached,
    /// The response has `Cache-Control: no-store`.
    UpstreamNoStore,
    /// The query has a parameter that the rule does not know.
    UnknownQuery,
    /// The request has `Cache-Control: no-store`.
    RequestNoStore,
    /// The fetch started before a purge.
    Purged,
    /// A fetch that started later has already stored or removed this resource.
    Superseded,
    /// The request is for a list. Lists are never stored.
    List,
}

impl NoStoreReason {
    /// Lists every reason.
    pub const ALL: [Self; 15] = [
        Self::NotFinal,
        Self::WrongId,
        Self::WrongObject,
        Self::DuplicateMember,
        Self::NotJson,
        Self::TooLarge,
        Self::BadStatus,
        Self::Encoded,
        Self::UpstreamCached,
        Self::UpstreamNoStore,
        Self::UnknownQuery,
        Self::RequestNoStore,
        Self::Purged,
        Self::Superseded,
        Self::List,
    ];

    /// Returns the word for the metric label, the log field and `detail` in `Cache-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFinal => "not_final",
            Self::WrongId => "wrong_id",
            Self::WrongObject => "wrong_object",
            Self::DuplicateMember => "duplicate_member",
            Self::NotJson => "not_json",
            Self::TooLarge => "too_large",
            Self::BadStatus => "bad_status",
            Self::Encoded => "encoded",
            Self::UpstreamCached => "upstream_cached",
            Self::UpstreamNoStore => "upstream_no_store",
            Self::UnknownQuery => "unknown_query",
            Self::RequestNoStore => "request_no_store",
            Self::Purged => "purged",
            Self::Superseded => "superseded",
            Self::List => "list",
        }
    }
}

/// Checks a whole response to a request for the resource of `rule` with these ids.
///
/// # Errors
/// Returns the first reason against storing it. Status and headers are checked before the body.
pub fn check(
    rule: &Rule,
    ids: &[&str],
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    honor_no_store: bool,
) -> Result<(), NoStoreReason> {
    check_head(status, headers, honor_no_store)?;
    check_body(rule, ids, body)
}

fn check_head(
    status: StatusCode,
    headers: &HeaderMap,
    honor_no_store: bool,
) -> Result<(), NoStoreReason> {
    if status != StatusCode::OK {
        return Err(NoStoreReason::BadStatus);
    }
    let encoded = headers.get_all(CONTENT_ENCODING).iter().any(|value| {
        !value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"identity")
    });
    if encoded {
        return Err(NoStoreReason::Encoded);
    }
    // RFC 9111 section 5.1: a response with an Age above zero came from a cache. So may one whose Age
    // cannot be read.
    let aged = headers
        .get_all(AGE)
        .iter()
        .any(|value| value.as_bytes().trim_ascii() != b"0");
    let hit = headers
        .get_all("x-portkey-cache-status")
        .iter()
        .any(|value| {
            value
                .as_bytes()
                .to_ascii_uppercase()
                .windows(3)
                .any(|w| w == b"HIT")
        });
    if aged || hit {
        return Err(NoStoreReason::UpstreamCached);
    }
    if honor_no_store && has_directive(headers, &CACHE_CONTROL, "no-store") {
        return Err(NoStoreReason::UpstreamNoStore);
    }
    Ok(())
}

/// Checks that a body is one JSON object of the rule's type, with the path's ids and a terminal status.
///
/// # Errors
/// Returns the first reason why it is not provably final.
pub fn check_body(rule: &Rule, ids: &[&str], body: &[u8]) -> Result<(), NoStoreReason> {
    let found = read_members(rule, ids, body).ok_or(NoStoreReason::NotJson)?;
    if found.duplicate {
        Err(NoStoreReason::DuplicateMember)
    } else if found.object != Some(true) {
        Err(NoStoreReason::WrongObject)
    } else if found.matching_ids != rule.identity().len() {
        Err(NoStoreReason::WrongId)
    } else if found.terminal != Some(true) {
        Err(NoStoreReason::NotFinal)
    } else {
        Ok(())
    }
}

/// Holds what the members that the check reads contain.
#[derive(Default)]
struct Members {
    /// Whether `object` is the rule's. `None` if the body has no such member.
    object: Option<bool>,
    /// Whether `status` is terminal. `None` if the body has no such member.
    terminal: Option<bool>,
    /// Has one bit set for each identity member that occurred.
    seen_ids: u64,
    matching_ids: usize,
    duplicate: bool,
}

/// Names the use of a member.
enum MemberName {
    Object,
    Status,
    /// Holds the index into the rule's identity, and the index of the path parameter to compare with.
    Identity(usize, usize),
    Skipped,
}

impl MemberName {
    fn of(name: &[u8], rule: &Rule) -> Self {
        match name {
            b"object" => Self::Object,
            b"status" => Self::Status,
            other => rule
                .identity()
                .enumerate()
                .find(|(_, (member, _))| member.as_bytes() == other)
                .map_or(Self::Skipped, |(index, (_, parameter))| {
                    Self::Identity(index, parameter)
                }),
        }
    }
}

/// Reads a body to its end, even after a mismatch. `None` if it is not one JSON object.
fn read_members(rule: &Rule, ids: &[&str], body: &[u8]) -> Option<Members> {
    let mut found = Members::default();
    json::visit(body, |name, value| {
        match name.read(|name| MemberName::of(name, rule))? {
            MemberName::Object => {
                let matches = satisfies(value, |text| text == rule.object().as_bytes())?;
                found.duplicate |= found.object.replace(matches).is_some();
            }
            MemberName::Status => {
                let is_terminal = satisfies(value, |text| {
                    rule.terminal().any(|status| status.as_bytes() == text)
                })?;
                found.duplicate |= found.terminal.replace(is_terminal).is_some();
            }
            MemberName::Identity(index, parameter) => {
                let expected = ids.get(parameter).map(|id| id.as_bytes());
                let matches = satisfies(value, |text| expected == Some(text))?;
                found.duplicate |= found.seen_ids & (1 << index) != 0;
                found.seen_ids |= 1 << index;
                found.matching_ids += usize::from(matches);
            }
            MemberName::Skipped => {}
        }
        Some(())
    })?;
    Some(found)
}

/// Returns whether a value is a string that satisfies `test`. `None` if the string is not valid text.
fn satisfies(value: Option<JsonStr<'_>>, test: impl Fn(&[u8]) -> bool) -> Option<bool> {
    value.map_or(Some(false), |text| text.read(test))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    const IDS: [&str; 3] = ["thread_1", "run_1", "step_1"];

    fn checked(body: &[u8]) -> Result<(), NoStoreReason> {
        check_body(&Rule::run_step(), &IDS, body)
    }

    fn step(status: &str) -> String {
        format!(
            r#"{{"id":"step_1","object":"thread.run.step","run_id":"run_1","thread_id":"thread_1","status":"{status}","usage":{{"status":"queued","n":-1.5e3}}}}"#
        )
    }

    #[test]
    fn only_terminal_statuses_are_final() {
        for status in [
            "completed",
            "failed",
            "cancelled",
            "expired",
            "complet\\u0065d",
        ] {
            assert_eq!(checked(step(status).as_bytes()), Ok(()), "{status}");
        }
        for status in [
            "in_progress",
            "COMPLETED",
            "completed ",
            "",
            "requires_action",
            "incomplete",
        ] {
            assert_eq!(
                checked(step(status).as_bytes()),
                Err(NoStoreReason::NotFinal),
                "{status}"
            );
        }
    }

    #[test]
    fn each_flaw_has_its_reason() {
        use NoStoreReason::*;
        let done = step("completed");
        let with = |from: &str, to: &str| done.replacen(from, to, 1).into_bytes();
        let cases: Vec<(Vec<u8>, NoStoreReason)> = vec![
            (
                with(r#""status":"completed""#, r#""status":null"#),
                NotFinal,
            ),
            (
                with(r#""status":"completed""#, r#""status":true"#),
                NotFinal,
            ),
            (with(r#""status":"completed""#, r#""status":-1"#), NotFinal),
            (with(r#""status":"completed""#, r#""status":1.5"#), NotFinal),
            (
                with(r#""status":"completed""#, r#""status":["completed"]"#),
                NotFinal,
            ),
            (
                with(
                    r#""status":"completed""#,
                    r#""status":{"status":"completed"}"#,
                ),
                NotFinal,
            ),
            (with(r#""status":"completed","#, ""), NotFinal),
            (
                with(
                    r#""status":"completed""#,
                    r#""status":"completed","status":"completed""#,
                ),
                DuplicateMember,
            ),
            (
                with(
                    r#""status":"completed""#,
                    r#""status":"completed","st\u0061tus":"in_progress""#,
                ),
                DuplicateMember,
            ),
            (
                with(r#""id":"step_1""#, r#""id":"step_1","id":"step_1""#),
                DuplicateMember,
            ),
            (
                with(r#""run_id":"#, r#""run_id":"run_2","run_id":"#),
                DuplicateMember,
            ),
            (
                with(r#""thread_id":"#, r#""thread_id":7,"thread_id":"#),
                DuplicateMember,
            ),
            (with(r#""id":"step_1""#, r#""id":"step_2""#), WrongId),
            (with(r#""id":"step_1""#, r#""id":"step_1 ""#), WrongId),
            (with(r#""id":"step_1","#, ""), WrongId),
            (with(r#""run_id":"run_1""#, r#""run_id":1"#), WrongId),
            (with(r#""run_id":"run_1""#, r#""run_id":null"#), WrongId),
            (
                with(r#""thread_id":"thread_1""#, r#""thread_id":"thread_2""#),
                WrongId,
            ),
            (with("thread.run.step", "thread.run"), WrongObject),
            (with(r#""object":"thread.run.step","#, ""), WrongObject),
            (format!("[{done}]").into_bytes(), NotJson),
            (format!("{done}{done}").into_bytes(), NotJson),
            (format!("{done}x").into_bytes(), NotJson),
            (format!("\u{feff}{done}").into_bytes(), NotJson),
            (done.as_bytes()[..done.len() - 1].to_vec(), NotJson),
            (with("queued", "\u{1}"), NotJson),
            (with("-1.5e3", "01"), NotJson),
            (with("-1.5e3", "NaN"), NotJson),
            (b"".to_vec(), NotJson),
            (b"null".to_vec(), NotJson),
            (vec![b'['; 100_000], NotJson),
            (with("-1.5e3", &"[".repeat(100_000)), NotJson),
        ];
        for (body, expected) in cases {
            let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            assert_eq!(checked(&body), Err(expected), "{shown}");
        }
        let mut broken = done.into_bytes();
        let at = broken.windows(6).position(|w| w == b"queued").unwrap();
        broken[at] = 0xff;
        assert_eq!(
            checked(&broken),
            Err(NotJson),
            "invalid UTF-8 in a skipped member"
        );
    }

    #[test]
    fn the_first_reason_in_order_is_returned() {
        use NoStoreReason::*;
        let body = |end: &str, more: &str, object: &str, id: &str, status: &str| {
            format!(
                r#"{{"status":"{status}","id":"{id}","run_id":"run_1","object":"{object}",{more}"thread_id":"thread_1"{end}"#
            )
        };
        let (twice, other) = (r#""id":"step_1","#, "thread.run");
        for (body, expected) in [
            (body("", twice, other, "step_2", "queued"), NotJson),
            (body("}", twice, other, "step_2", "queued"), DuplicateMember),
            (body("}", "", other, "step_2", "queued"), WrongObject),
            (
                body("}", "", "thread.run.step", "step_2", "queued"),
                WrongId,
            ),
            (
                body("}", "", "thread.run.step", "step_1", "queued"),
                NotFinal,
            ),
        ] {
            assert_eq!(checked(body.as_bytes()), Err(expected), "{body}");
        }
        let last = body("}", "", "thread.run.step", "step_1", "expired");
        assert_eq!(checked(last.as_bytes()), Ok(()), "{last}");
    }

    #[test]
    fn names_are_compared_unescaped_and_at_the_top_level_only() {
        let done = step("completed");
        let spelled = done
            .replace(
                r#""status":"completed""#,
                r#""\u0073t\u0061tus":"\u0063ompleted""#,
            )
            .replace(r#""id":"step_1""#, r#""\u0069\u0064":"step\u005f1""#)
            .replace("thread.run.step", r"thread\u002Erun\u002estep");
        assert_ne!(done, spelled);
        assert_eq!(checked(spelled.as_bytes()), Ok(()), "{spelled}");
        let nested = done.replace(
            r#""n":-1.5e3"#,
            r#""id":"step_2","id":3,"object":{"object":"thread","object":null},"status":["status"]"#,
        );
        assert_ne!(done, nested);
        assert_eq!(checked(nested.as_bytes()), Ok(()), "{nested}");
        for other in [
            r"\u0053tatus",
            r"status\u0000",
            r"\\u0073tatus",
            "Status",
            "status ",
        ] {
            let body = done.replacen(r#""status":"#, &format!("\"{other}\":"), 1);
            assert_eq!(
                checked(body.as_bytes()),
                Err(NoStoreReason::NotFinal),
                "{body}"
            );
        }
    }

    /// The grammar allows numbers beyond `f64`, and strings that are not valid Unicode.
    #[test]
    fn a_value_that_some_parsers_reject_is_never_final() {
        let done = step("completed");
        let with = |value: &str| done.replacen(r#""completed""#, value, 1).into_bytes();
        assert_eq!(checked(&with("1e999")), Err(NoStoreReason::NotFinal));
        assert_eq!(checked(&with(r#""\ud83e""#)), Err(NoStoreReason::NotJson));
        for skipped in ["1e999", r#""\ud83e""#, r#"{"\ud83e":0}"#] {
            let body = done.replace("-1.5e3", skipped);
            assert_eq!(checked(body.as_bytes()), Ok(()), "{body}");
        }
        let named = done.replacen('{', r#"{"\ud83e":0,"#, 1);
        assert_eq!(checked(named.as_bytes()), Err(NoStoreReason::NotJson));
    }

    #[test]
    fn every_reason_has_its_own_word() {
        let mut words = NoStoreReason::ALL.map(NoStoreReason::as_str);
        let is_plain = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(words.iter().all(|word| !word.is_empty() && is_plain(word)));
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]), "{words:?}");
    }

    #[test]
    fn whitespace_is_allowed_and_depth_is_limited() {
        for (depth, expected) in [(100, Ok(())), (100_000, Err(NoStoreReason::NotJson))] {
            let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let body = format!("\n {} \r\n", step("failed").replace("-1.5e3", &deep));
            assert_eq!(checked(body.as_bytes()), expected, "{depth}");
        }
    }

    #[test]
    fn status_and_headers_can_forbid_storing() {
        let body = step("completed");
        let check_response =
            |status: u16, headers: &[(&'static str, &'static str)], honor: bool| {
                let mut map = HeaderMap::new();
                for (name, value) in headers {
                    map.append(*name, HeaderValue::from_static(value));
                }
                let status = StatusCode::from_u16(status).unwrap();
                check(
                    &Rule::run_step(),
                    &IDS,
                    status,
                    &map,
                    body.as_bytes(),
                    honor,
                )
            };
        assert_eq!(
            check_response(200, &[("age", "0"), ("content-encoding", "identity")], true),
            Ok(())
        );
        for status in [201, 206, 304, 404, 429, 500] {
            assert_eq!(
                check_response(status, &[], true),
                Err(NoStoreReason::BadStatus)
            );
        }
        for (headers, expected) in [
            (("content-encoding", "gzip"), NoStoreReason::Encoded),
            (("age", "1"), NoStoreReason::UpstreamCached),
            (("age", "x"), NoStoreReason::UpstreamCached),
            (
                ("x-portkey-cache-status", "HIT"),
                NoStoreReason::UpstreamCached,
            ),
            (
                ("x-portkey-cache-status", "semantic hit"),
                NoStoreReason::UpstreamCached,
            ),
            (
                ("cache-control", "private, No-Store"),
                NoStoreReason::UpstreamNoStore,
            ),
        ] {
            assert_eq!(
                check_response(200, &[headers], true),
                Err(expected),
                "{headers:?}"
            );
        }
        assert_eq!(
            check_response(200, &[("x-portkey-cache-status", "MISS")], true),
            Ok(())
        );
        assert_eq!(
            check_response(200, &[("cache-control", "no-store")], false),
            Ok(())
        );
    }

    proptest! {
        /// A body that is final here is final by a full parser.
        #[test]
        fn final_implies_final_by_a_full_parse(
            status in prop::sample::select(vec!["completed", "in_progress", "failed", "x"]),
            cut in 0usize..400,
            flip in prop::option::of((0usize..300, any::<u8>())),
        ) {
            let mut body = step(status).into_bytes();
            body.truncate(cut.max(1));
            if let Some((at, byte)) = flip && at < body.len() {
                body[at] = byte;
            }
            if checked(&body).is_ok() {
                let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
                prop_assert_eq!(&value["id"], "step_1");
                prop_assert_eq!(&value["run_id"], "run_1");
                prop_assert_eq!(&value["thread_id"], "thread_1");
                prop_assert_eq!(&value["object"], "thread.run.step");
                prop_assert!(Rule::run_step().is_terminal(value["status"].as_str().unwrap()));
            }
        }
    }
}
