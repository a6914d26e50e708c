//! Requests that no rule answers, with `server.forward = "all"`: streamed in both directions, never stored
//! and never shared.

use std::sync::Arc;

use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::error::GatewayError;
use super::fetch::{FetchContext, contains_secret};
use super::invalidate::Invalidation;
use super::request::check_target_length;
use super::response::add_bypass_status;
use super::runtime_config::{ClientProfile, RuntimeConfig};
use super::telemetry::fetch_timer::FetchTimer;
use super::telemetry::metrics::FetchClass;
use super::telemetry::request_log::{FetchLog, RequestLog};
use crate::policy::Query;
use crate::upstream::{
    Body, BufferedBody, ERROR_BODY_SCAN_LIMIT, FetchError, ForwardCall, ForwardResult, RequestBody,
    StreamingBody, filter_response_headers,
};

/// A request that is forwarded, with its permit.
pub(super) struct ForwardRequest {
    pub(super) config: Arc<RuntimeConfig>,
    client: Arc<ClientProfile>,
    query: Query,
    permit: OwnedSemaphorePermit,
}

impl ForwardRequest {
    /// # Errors
    /// [`GatewayError::TARGET_TOO_LONG`].
    pub(super) fn new(
        config: &Arc<RuntimeConfig>,
        client: &Arc<ClientProfile>,
        head: &Parts,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, GatewayError> {
        let query = Query::for_list(head.uri.query(), &config.upstream_query);
        check_target_length(head, &query)?;
        Ok(Self {
            config: Arc::clone(config),
            client: Arc::clone(client),
            query,
            permit,
        })
    }

    /// Sends the request upstream and returns its response, whose body streams. Purges what the request
    /// changed before it returns, so that no later request is answered from before the change.
    pub(super) async fn send(
        self,
        context: &Arc<FetchContext>,
        head: &Parts,
        body: RequestBody,
        log: &mut RequestLog,
    ) -> Result<Response<Body>, GatewayError> {
        let config = &self.config;
        let failed = |error| GatewayError::Fetch(Arc::new(error));
        let requested = head.uri.path_and_query().expect("a path below the prefix");
        let call = ForwardCall {
            method: &head.method,
            target: &config.upstream.target(requested, self.query.as_str()),
            header_policy: &self.client.headers,
            client_headers: &head.headers,
            timeout: config.timeout,
            idle_timeout: config.stream_idle_timeout,
        };
        // The upstream call has a deadline of its own, so the timer has none.
        let timer = FetchTimer::start(None, |class, end, took| {
            if let Some(end) = end {
                // The client is gone, so the request has no other line.
                let fetch_log = FetchLog {
                    config,
                    rule: None,
                    client: self.client.name.as_deref(),
                    ids: None,
                    headers: &head.headers,
                };
                fetch_log.write(&end, took);
            }
            context
                .metrics
                .record_fetch(config.counters(None), class, took);
        });
        let mut invalidation = Invalidation::of(context, config, head);
        let ForwardResult { response, retried } = config.upstream.forward(&call, body).await;
        let (class, may_have_changed) = match &response {
            Ok(response) => {
                let status = response.status();
                (FetchClass::Status(status), status.is_success())
            }
            Err(error) => (FetchClass::Error, error.may_have_arrived()),
        };
        let took = timer.stop(class);
        if response.is_ok() {
            log.fetch_time = Some(took);
        }
        // A retried request may have been carried out the first time, whatever the second response says.
        if !may_have_changed && !retried {
            invalidation.cancel();
        }
        if may_have_changed && response.is_ok() {
            invalidation.confirm();
        }
        invalidation.apply().await;
        let response = response.map_err(failed)?;
        let response = response.map(|body| body.holding(self.permit));
        client_response(response, &head.method, config)
            .await
            .map_err(failed)
    }
}

/// Returns the upstream's response for the client, with its headers filtered.
///
/// # Errors
/// [`FetchError::EchoedSecret`] if it is an error that contains an injected secret.
async fn client_response(
    response: Response<StreamingBody>,
    method: &Method,
    config: &RuntimeConfig,
) -> Result<Response<Body>, FetchError> {
    let (head, body) = response.into_parts();
    // Status and headers go to the client. Version and reason phrase belong to the upstream's connection.
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = head.status;
    let headers = response.headers_mut();
    *headers = head.headers;
    filter_response_headers(headers, &config.secrets);
    add_bypass_status(headers, head.status);
    if *method == Method::HEAD || body.is_empty() {
        normalize_content_length(headers)?;
        return Ok(response);
    }
    // hyper states the length that the framing has.
    headers.remove(CONTENT_LENGTH);
    if let Some(length) = body.content_length() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.body_mut() = if head.status.is_success() {
        Body::Streaming(Box::new(body))
    } else {
        let buffered = timeout(config.timeout, body.buffer(ERROR_BODY_SCAN_LIMIT));
        let buffered = buffered
            .await
            .unwrap_or(Err(FetchError::DeadlineExceeded))?;
        if contains_secret(&buffered, &config.secrets) {
            return Err(FetchError::EchoedSecret);
        }
        match buffered {
            BufferedBody::Complete(body) => Body::Full(body),
            BufferedBody::TooLarge(body) => Body::Streaming(body),
        }
    };
    Ok(response)
}

/// Leaves one `Content-Length` in the headers of a response without a body, if there is one.
///
/// # Errors
/// [`FetchError::InvalidContentLength`] if it is no number, or if there are two that differ.
fn normalize_content_length(headers: &mut HeaderMap) -> Result<(), FetchError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next().cloned() else {
        return Ok(());
    };
    let is_number = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if !is_number || lengths.any(|other| *other != length) {
        return Err(FetchError::InvalidContentLength);
    }
    headers.insert(CONTENT_LENGTH, length);
    Ok(())
}
