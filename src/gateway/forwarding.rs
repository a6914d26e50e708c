//! What no rule answers, where `server.forward = "all"`: streamed through both ways, never stored, and
//! each to its own caller. What it changes upstream is forgotten here.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
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
use super::refusal::Refusal;
use super::setup::{Account, Setup};
use super::tally::Tally;
use super::wanted::{LONGEST_TARGET, is_below_prefix};
use crate::config;
use crate::step::reach::Reach;
use crate::step::{Query, reach};
use crate::upstream::{
    Body, FetchError, Gathered, LOOKED_AT, Onward, Passage, Upload, clean_answer,
};

/// A request that goes through, with its place among those that may wait.
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
    ) -> Result<Journey, Refusal> {
        let query = Query::of_list(head.uri.query(), &setup.upstream_query);
        if head.uri.path().len() + query.as_str().len() > LONGEST_TARGET {
            return Err(Refusal::TARGET_TOO_LONG);
        }
        let place = Arc::clone(&self.passengers).try_acquire_owned();
        Ok(Journey {
            setup: Arc::clone(setup),
            account: Arc::clone(account),
            arrived,
            query,
            place: place.map_err(|_| Refusal::Overloaded)?,
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
        let upload = Upload::of(body, setup.silence);
        let progress = upload.progress();
        let passed = tokio::select! {
            biased;
            passed = self.pass(&head, upload, journey, &mut record) => passed,
            () = self.closing.cancelled() => Err(Refusal::Draining),
        };
        match passed {
            Ok(answer) => {
                let told = Told::of(Outcome::Forwarded, answer.status(), arrived);
                self.note(&setup, &head, &record, &told);
                answer
            }
            Err(refusal) => {
                let mut answer = self.refuse(&setup, &head, &refusal, arrived, &record);
                let is_unread = progress.is_some_and(|progress| !progress.has_gone());
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
        upload: Upload,
        journey: Journey,
        record: &mut Record,
    ) -> Result<Answer, Refusal> {
        let setup = &journey.setup;
        let asked = head.uri.path_and_query().expect("a path below /v1");
        let onward = Onward {
            method: &head.method,
            target: &setup.upstream.target(asked, journey.query.as_str()),
            injection: &journey.account.injection,
            caller: &head.headers,
            timeout: setup.timeout,
            silence: setup.silence,
        };
        let deadline = journey.arrived + setup.timeout;
        let tally = Tally::new(deadline, |class, left, took| {
            if let Some(left) = left {
                // Nobody is there to be answered, and so there is no other line.
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
        let response = match setup.upstream.forward(&onward, upload).await {
            Ok(response) => response,
            Err(error) => {
                tally.ended(Class::Error);
                change.is_none_if(!error.may_have_arrived());
                return Err(Refusal::Fetch(Arc::new(error)));
            }
        };
        record.fetch = Some(tally.ended(Class::Status(response.status())));
        change.is_none_if(!response.status().is_success());
        // Before the caller knows of it: whoever asks then is not answered from before.
        change.take_effect().await;
        let response = response.map(|passage| passage.at(journey.place));
        let answer = self.hand_down(response, &head.method, setup).await;
        answer.map_err(|error| Refusal::Fetch(Arc::new(error)))
    }

    /// The answer for the caller, unless it is an error that echoes an injected secret.
    async fn hand_down(
        &self,
        response: Response<Passage>,
        method: &Method,
        setup: &Setup,
    ) -> Result<Answer, FetchError> {
        let (mut head, passage) = response.into_parts();
        clean_answer(&mut head.headers, &setup.redactor);
        say_bypassed(&mut head.headers, head.status);
        // Its length is what hyper finds it to be, but where there is none to find.
        let length = passage.length();
        let body = if *method == Method::HEAD || passage.is_empty() {
            return Ok(Response::from_parts(head, Body::Empty));
        } else if head.status.is_success() {
            Body::Passing(Box::new(passage))
        } else {
            let gathered = timeout(setup.timeout, passage.gather(LOOKED_AT));
            let gathered = gathered.await.unwrap_or(Err(FetchError::Deadline))?;
            if echoes(&gathered, &setup.redactor) {
                return Err(FetchError::EchoedSecret);
            }
            match gathered {
                Gathered::Whole(body) => Body::Full(body),
                Gathered::Larger(passage) => Body::Passing(passage),
            }
        };
        head.headers.remove(CONTENT_LENGTH);
        if let Some(length) = length {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(Response::from_parts(head, body))
    }
}

/// What a request may have changed upstream, to be forgotten: also when nobody waits for its answer any
/// more, or none comes, for then it may have been done all the same.
struct Change<'a> {
    gateway: &'a Arc<Gateway>,
    setup: &'a Arc<Setup>,
    reach: Vec<Reach>,
}

impl<'a> Change<'a> {
    fn by(gateway: &'a Arc<Gateway>, setup: &'a Arc<Setup>, head: &Parts) -> Self {
        Self {
            gateway,
            setup,
            reach: reach(&setup.rules, &head.method, head.uri.path()),
        }
    }

    fn is_none_if(&mut self, nothing_was_done: bool) {
        if nothing_was_done {
            self.reach.clear();
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
        let reach = std::mem::take(&mut self.reach);
        if reach.is_empty() {
            return None;
        }
        let (gateway, setup) = (Arc::clone(self.gateway), Arc::clone(self.setup));
        Some(tokio::task::spawn_blocking(move || {
            for (rule, ids) in reach {
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

impl FetchError {
    /// Whether the upstream may have had the request.
    fn may_have_arrived(&self) -> bool {
        match self {
            Self::Connect(_) | Self::NoDescriptor(_) | Self::Tls(_) | Self::ConnectTimeout(_) => {
                false
            }
            Self::Lost(_)
            | Self::Malformed(_)
            | Self::Truncated(_)
            | Self::Switched
            | Self::NotModified
            | Self::EchoedSecret
            | Self::Deadline
            | Self::Silent
            | Self::BrokenOff
            | Self::Abandoned => true,
        }
    }
}
