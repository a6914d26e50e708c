//! The verdict on a response.

use crate::fault::Expected;
use crate::fixtures::client::{ClientError, Failure, RawClient, Response};
use crate::ledger::{Verdict, shows_secret};
use crate::step::Step;
use crate::upstream::{Fetches, Upstream};

/// What became of a request, before it is judged.
pub(crate) type Outcome = Result<Response, ClientError>;

/// Returns all bytes that came.
pub(crate) fn raw(outcome: &Outcome) -> &[u8] {
    match outcome {
        Ok(response) => &response.raw,
        Err(error) => &error.raw,
    }
}

/// Returns whether this is a 429 that the gateway gave in place of a fetch.
pub(crate) fn is_rate_limited(outcome: &Outcome) -> bool {
    outcome.as_ref().is_ok_and(|response| {
        response.status == 429 && response.cache_status().contains("detail=rate_limited")
    })
}

/// A request, and the fetches of its step when it was sent.
#[derive(Clone, Copy)]
pub(crate) struct Sent<'a> {
    pub(crate) upstream: &'a Upstream,
    pub(crate) account: &'a str,
    pub(crate) step: &'a Step,
    pub(crate) fetches: Fetches,
}

impl<'a> Sent<'a> {
    pub(crate) fn now(upstream: &'a Upstream, account: &'a str, step: &'a Step) -> Self {
        Self {
            upstream,
            account,
            step,
            fetches: upstream.fetches(account, step),
        }
    }

    /// Checks that a body is this step's for this account, untouched, and not older than the request.
    fn check(&self, body: &[u8]) -> Result<(), String> {
        let edition = self.step.edition_of(self.account, body)?;
        let (version, before) = (edition.version, self.fetches.count);
        let now = self.upstream.fetches(self.account, self.step);
        if edition.is_final {
            return if now.final_from == Some(version) {
                Ok(())
            } else {
                Err(format!("final in version {version}, which is not final"))
            };
        }
        if self.fetches.final_from.is_some() {
            return Err("live, though it was final before the request".to_owned());
        }
        // Each fetch has a version of its own. A fetch that started after the request has a newer one.
        if version > before && version <= now.count {
            Ok(())
        } else {
            Err(format!(
                "version {version}, with {before} fetches before the request"
            ))
        }
    }

    /// Judges what came. `responses` are the bytes that the upstream's fault sent.
    pub(crate) async fn judge(
        &self,
        outcome: &Outcome,
        expected: Expected,
        responses: &[Vec<u8>],
    ) -> Verdict {
        if shows_secret(raw(outcome)) {
            return Verdict::Leaked("a secret in a response".to_owned());
        }
        let response = match outcome {
            Ok(response) => response,
            Err(error) => {
                let reason = &error.reason;
                return match error.failure {
                    // A body that breaks off at once may take its head with it.
                    Failure::Truncated | Failure::Closed if expected.truncated => {
                        Verdict::Truncated
                    }
                    Failure::Truncated => Verdict::Lost("truncated".to_owned()),
                    Failure::Closed => Verdict::Lost(format!("no response: {reason}")),
                    Failure::Timeout => Verdict::Lost("late".to_owned()),
                    Failure::Malformed => Verdict::Wrong(format!("not HTTP: {reason}")),
                };
            }
        };
        if expected.rate_limited && is_rate_limited(outcome) {
            return Verdict::Error;
        }
        if expected.passed {
            for bytes in responses {
                let sent = RawClient::replay(bytes.clone()).try_response("GET").await;
                if sent.is_ok_and(|sent| is_untouched(&sent, response)) {
                    return Verdict::Error;
                }
            }
        }
        if response.status == 200 {
            return match self.check(&response.body) {
                Ok(()) if expected.correct => Verdict::Correct,
                Ok(()) => Verdict::Wrong("correct, though the fault must show".to_owned()),
                Err(why) => Verdict::Wrong(why),
            };
        }
        let status = response.status;
        match error_code(response) {
            Some(code) if expected.codes.contains(&code.as_str()) => {
                let is_json = response.all("content-type") == ["application/json"];
                if is_json && status == status_of(&code) {
                    Verdict::Error
                } else {
                    Verdict::Wrong(format!("{status} with the code {code}"))
                }
            }
            Some(code) => Verdict::Wrong(format!("{status} {code}")),
            None => Verdict::Wrong(format!("{status}, unexpected")),
        }
    }
}

/// Returns `error.code` of the gateway's own errors, which also have a message and a type.
fn error_code(response: &Response) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(&response.body).ok()?;
    let error = &value["error"];
    let is_whole = error["message"].is_string() && error["type"].is_string();
    is_whole.then(|| error["code"].as_str().map(str::to_owned))?
}

/// Returns the status that belongs to a code, and 0 for an unknown code.
fn status_of(code: &str) -> u16 {
    match code {
        "upstream_unreachable" | "upstream_invalid" => 502,
        "upstream_timeout" | "not_cached" => 504,
        "overloaded" | "draining" => 503,
        "unauthorized" => 401,
        "forbidden_origin" => 403,
        "route_not_found" => 404,
        "method_not_allowed" => 405,
        "invalid_path" | "invalid_request" => 400,
        _ => 0,
    }
}

/// Returns whether a response is what the upstream sent: status, body, and the headers that an SDK
/// reads; and was not stored.
fn is_untouched(sent: &Response, response: &Response) -> bool {
    const READ: [&str; 5] = [
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "content-encoding",
        "www-authenticate",
    ];
    sent.status == response.status
        && sent.body == response.body
        && !response.cache_status().contains("stored")
        && READ.iter().all(|name| sent.all(name) == response.all(name))
}
