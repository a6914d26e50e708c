//! What an answer is: right, an error as it should be, or one of the three that must not be.

use crate::caller::{Answer, Got};
use crate::kind::Expect;
use crate::ledger::{Verdict, shows_secret};
use crate::origin::{Origin, Snapshot};
use crate::step::Step;

/// A request, and what was known when it was sent.
pub(crate) struct Asked<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) account: &'a str,
    pub(crate) step: &'a Step,
    pub(crate) sent: Snapshot,
}

impl<'a> Asked<'a> {
    pub(crate) fn now(origin: &'a Origin, account: &'a str, step: &'a Step) -> Self {
        Self {
            origin,
            account,
            step,
            sent: origin.shared.shelf.now(account, step),
        }
    }

    /// Whether a 200 is this step's, untouched, for this account, and not older than the question.
    pub(crate) fn check(&self, body: &[u8]) -> Result<(), String> {
        let edition = self.step.edition_of(self.account, body)?;
        let now = self.origin.shared.shelf.now(self.account, self.step);
        if edition.is_final {
            return if now.final_from == Some(edition.version) {
                Ok(())
            } else {
                Err(format!(
                    "final in version {}, which it is not",
                    edition.version
                ))
            };
        }
        if self.sent.final_from.is_some() {
            return Err("live, though it was final when it was asked for".to_owned());
        }
        // Each fetch has a version of its own: one that left after the question has a newer one.
        if edition.version > self.sent.fetches && edition.version <= now.fetches {
            Ok(())
        } else {
            let (version, fetches) = (edition.version, self.sent.fetches);
            Err(format!(
                "version {version}, though {fetches} were fetched when it was asked for"
            ))
        }
    }

    /// The verdict on what came; `told`: the whole answers that the upstream gave.
    pub(crate) fn judge(&self, got: &Got, expect: Expect, told: &[Answer]) -> Verdict {
        if shows_secret(got.raw()) {
            return Verdict::Leaked("a secret in an answer".to_owned());
        }
        let answer = match got {
            Got::Whole(answer) => answer,
            // A body that broke off at once may take its head with it.
            Got::Cut(_) | Got::Closed(_) if expect.cut => return Verdict::Cut,
            Got::Cut(_) => return Verdict::Lost("cut short".to_owned()),
            Got::Closed(why) => return Verdict::Lost(format!("no answer: {why}")),
            Got::Late(_) => return Verdict::Lost("late".to_owned()),
            Got::Garbled(why, _) => return Verdict::Wrong(format!("not HTTP: {why}")),
        };
        if expect.holds && answer.is_held() {
            return Verdict::Error;
        }
        if expect.passed && told.iter().any(|told| is_untouched(told, answer)) {
            return Verdict::Error;
        }
        if answer.status == 200 {
            return match self.check(&answer.body) {
                Ok(()) if expect.right => Verdict::Right,
                Ok(()) => Verdict::Wrong("right, though the fault must show".to_owned()),
                Err(why) => Verdict::Wrong(why),
            };
        }
        match answer.code() {
            Some(code) if expect.codes.contains(&code.as_str()) => {
                is_the_codes_status(answer, &code)
            }
            Some(code) => Verdict::Wrong(format!("{} {code}", answer.status)),
            None => Verdict::Wrong(format!("{}, unexpected", answer.status)),
        }
    }
}

fn is_the_codes_status(answer: &Answer, code: &str) -> Verdict {
    let due = match code {
        "upstream_unreachable" | "upstream_invalid" => 502,
        "upstream_timeout" | "not_cached" => 504,
        "overloaded" | "draining" => 503,
        "unauthorized" => 401,
        "forbidden_origin" => 403,
        "route_not_found" => 404,
        "method_not_allowed" => 405,
        "invalid_path" | "invalid_request" => 400,
        _ => 0,
    };
    if answer.status == due && answer.header("content-type") == Some("application/json") {
        Verdict::Error
    } else {
        Verdict::Wrong(format!("{} with the code {code}", answer.status))
    }
}

/// Whether the answer is what the upstream told: status, body, and the headers that an SDK reads.
fn is_untouched(told: &Answer, answer: &Answer) -> bool {
    const READ: [&str; 5] = [
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "content-encoding",
        "www-authenticate",
    ];
    let stored = answer.header("cache-status").unwrap_or_default();
    told.status == answer.status
        && told.body == answer.body
        && !stored.contains("stored")
        && READ
            .iter()
            .all(|name| told.header(name) == answer.header(name))
}
