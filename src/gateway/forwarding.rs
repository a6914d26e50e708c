//! What no rule answers, where `server.forward = "all"`: streamed through both ways, never stored, and
//! each to its own caller. What it changes upstream is forgotten here.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, Version};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::Gateway;
use super::answer::{Answer, say_bypassed};
use super::flight::echoes;
use super::line::{Sent, Told};
use super::metrics::Class;
use super::outcome::{Outcome, Record};
use super::refusal::GatewayError;
use super::setup::{Account, Setup};
use super::tally::Tally;
use super::wanted::{LONGEST_TARGET, is_below_prefix};
use crate::config;
use crate::policy::Query;
use crate::policy::{ResourcePrefix, invalidated_by};
use crate::upstream::{
    Body, BufferedBody, ERROR_BODY_SCAN_LIMIT, FetchError, ForwardCall, ForwardResult, RequestBody,
    StreamingBody, filter_response_headers,
};

/// A request that goes through, with its place among those that do.
pub(super) struct Journey {
    setup: Arc<Setup>,
    account: Arc<Account>,
    arrived: Instant,
    query: Query,
    place: OwnedSemaphorePermit,
}

impl Gateway {
    /// Whether what no rule answers goes through; not what opens a tunnel, nor what is there to send
    /// back what it was sent with (RFC 9110 section 9.3.8).
    pub(super) fn lets_through(setup: &Setup, head: &Parts) -> bool {
        setup.forward == config::Forward::All
            && !matches!(head.method, Method::CONNECT | Method::TRACE)
            && is_below_prefix(head.uri.path())
    }

    /// Prepares a request to go through.
    pub(super) fn journey(
        &self,
        setup: &Arc<Setup>,
        account: &Arc<Account>,
        head: &Parts,
        arrived: Instant,
    ) -> Result<Journey, GatewayError> {
        let query = Query::for_list(head.uri.query(), &setup.upstream_query);
        if head.uri.path().len() + query.as_str().len() > LONGEST_TARGET {
            return Err(GatewayError::TARGET_TOO_LONG);
        }
        let place = Arc::clone(&self.journeys).try_acquire_owned();
        Ok(Journey {
            setup: Arc::clone(setup),
            account: Arc::clone(account),
            arrived,
            query,
            place: place.map_err(|_| GatewayError::Overloaded)?,
        })
    }

    /// Sends a request on, and its answer back.
    pub(super) async fn forward(
        self: Arc<Self>,
        head: Parts,
        body: Incoming,
        journey: Journey,
        mut record: Record,
    ) -> Answer {
        let (setup, arrived) = (Arc::clone(&journey.setup), journey.arrived);
        let upload = RequestBody::new(body, setup.idle_timeout);
        let progress = upload.progress();
        let passed = tokio::select! {
            biased;
            passed = self.pass(&head, upload, journey, &mut record) => passed,
            () = self.closing.cancelled() => Err(GatewayError::Draining),
        };
        match passed {
            Ok(answer) => {
                let told = Told::of(Outcome::Bypass, answer.status(), arrived);
                self.note(&setup, &head, &record, &told);
                answer
            }
            Err(refusal) => {
                let mut answer = self.refuse(&setup, &head, &refusal, arrived, &record);
                let is_unread = progress.is_some_and(|progress| !progress.is_complete());
                if is_unread && head.version < Version::HTTP_2 {
                    // What is left of it is nobody's.
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(CONNECTION, close);
                }
                answer
            }
        }
    }

    async fn pass(
        self: &Arc<Self>,
        head: &Parts,
        upload: RequestBody,
        journey: Journey,
        record: &mut Record,
    ) -> Result<Answer, GatewayError> {
        let setup = &journey.setup;
        let asked = head.uri.path_and_query().expect("a path below /v1");
        let onward = ForwardCall {
            method: &head.method,
            target: &setup.upstream.target(asked, journey.query.as_str()),
            header_policy: &journey.account.header_policy,
            client_headers: &head.headers,
            timeout: setup.timeout,
            idle_timeout: setup.idle_timeout,
        };
        // When it is late is told with its answer.
        let tally = Tally::new(None, |class, left, took| {
            if let Some(left) = left {
                // Mostly nobody is there to be answered, and so there is no other line.
                let sent = Sent {
                    setup,
                    rule: None,
                    client: journey.account.name.as_deref(),
                    ids: None,
                    headers: &head.headers,
                };
                sent.note(&left, took);
            }
            self.metrics.fetched(setup.counters(None), class, took);
        });
        let mut change = Change::by(self, setup, head);
        let ForwardResult {
            response: answer,
            retried,
        } = setup.upstream.forward(&onward, upload).await;
        let (class, is_done) = match &answer {
            Ok(response) => (
                Class::Status(response.status()),
                response.status().is_success(),
            ),
            Err(error) => (Class::Error, error.may_have_arrived()),
        };
        record.fetch = answer.is_ok().then_some(tally.ended(class));
        change.is_none_if(!is_done && !retried);
        change.is_sure = is_done && answer.is_ok();
        // Before the caller knows of it: whoever asks then is not answered from before.
        change.take_effect().await;
        let response = answer.map_err(|error| GatewayError::Fetch(Arc::new(error)))?;
        let response = response.map(|passage| passage.holding(journey.place));
        let answer = self.hand_down(response, &head.method, setup).await;
        answer.map_err(|error| GatewayError::Fetch(Arc::new(error)))
    }

    /// The answer for the caller, unless it is an error that echoes an injected secret.
    async fn hand_down(
        &self,
        response: Response<StreamingBody>,
        method: &Method,
        setup: &Setup,
    ) -> Result<Answer, FetchError> {
        let (head, passage) = response.into_parts();
        // Its status and headers, not its version and its reason: those are of another connection, and may
        // say anything.
        let mut answer = Response::new(Body::Empty);
        *answer.status_mut() = head.status;
        let headers = answer.headers_mut();
        *headers = head.headers;
        filter_response_headers(headers, &setup.redactor);
        say_bypassed(headers, head.status);
        if *method == Method::HEAD || passage.is_empty() {
            measure(headers)?;
            return Ok(answer);
        }
        // Its length is what hyper finds it to be.
        headers.remove(CONTENT_LENGTH);
        if let Some(length) = passage.content_length() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        *answer.body_mut() = if head.status.is_success() {
            Body::Streaming(Box::new(passage))
        } else {
            let gathered = timeout(setup.timeout, passage.buffer(ERROR_BODY_SCAN_LIMIT));
            let gathered = gathered
                .await
                .unwrap_or(Err(FetchError::DeadlineExceeded))?;
            if echoes(&gathered, &setup.redactor) {
                return Err(FetchError::EchoedSecret);
            }
            match gathered {
                BufferedBody::Complete(body) => Body::Full(body),
                BufferedBody::TooLarge(passage) => Body::Streaming(passage),
            }
        };
        Ok(answer)
    }
}

/// Says once how long the body is that does not follow, as far as that was said.
fn measure(headers: &mut HeaderMap) -> Result<(), FetchError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next().cloned() else {
        return Ok(());
    };
    let is_plain = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if !is_plain || lengths.any(|other| *other != length) {
        return Err(FetchError::InvalidContentLength);
    }
    headers.insert(CONTENT_LENGTH, length);
    Ok(())
}

/// What a request may have changed upstream, to be forgotten: also when nobody waits for its answer any
/// more, or none comes, for then it may have been done all the same.
struct Change<'a> {
    gateway: &'a Arc<Gateway>,
    setup: &'a Arc<Setup>,
    prefixes: Vec<ResourcePrefix>,
    /// The upstream said so.
    is_sure: bool,
}

impl<'a> Change<'a> {
    fn by(gateway: &'a Arc<Gateway>, setup: &'a Arc<Setup>, head: &Parts) -> Self {
        Self {
            gateway,
            setup,
            prefixes: invalidated_by(&setup.rules, &head.method, head.uri.path()),
            is_sure: false,
        }
    }

    fn is_none_if(&mut self, nothing_was_done: bool) {
        if nothing_was_done {
            self.prefixes.clear();
        }
    }

    /// Returns when it is forgotten.
    async fn take_effect(mut self) {
        if let Some(task) = self.forget() {
            // Should it have panicked, the panic was told already.
            let _ = task.await;
        }
    }

    /// Walks all entries, and so not on a worker.
    fn forget(&mut self) -> Option<JoinHandle<()>> {
        let mut prefixes = std::mem::take(&mut self.prefixes);
        // A guess may cost one thread's steps, not all that a rule has.
        prefixes.retain(|(_, ids)| self.is_sure || !ids.is_empty());
        if prefixes.is_empty() {
            return None;
        }
        let (gateway, setup) = (Arc::clone(self.gateway), Arc::clone(self.setup));
        Some(tokio::task::spawn_blocking(move || {
            for (rule, ids) in prefixes {
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                // The fleet learns of it when it does: nobody waits for that.
                let purged = gateway.purge(setup.rules[rule].name(), &ids);
                // A rule that a reload has taken away stores nothing any more.
                drop(purged);
            }
        }))
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}
