//! The upstream: its connection pools, TLS, deadlines, the header policy and the secret scanner.
//!
//! - A fetch has one deadline, which covers the response body to its last byte. A forwarded request has a
//!   timeout up to the response head, then an idle timeout.
//! - A request is retried once on a new connection in two cases: nothing of it was sent, or it is idempotent,
//!   has no body, and a reused connection was lost before the first byte of a response.
//! - No redirect is followed.

mod body;
mod connect;
mod error;
mod header_policy;
mod idle_timeout;
mod pool;
mod proxy;
mod request_body;
mod secret_scanner;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::http::uri::{self, Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::Instant;

use body::BodyTimeout;
pub use body::{Body, BufferedBody, ERROR_BODY_SCAN_LIMIT, StreamingBody};
pub use error::{FetchError, SetupError};
pub(crate) use header_policy::presented_tokens;
pub use header_policy::{FORWARDABLE_HEADERS, HeaderPolicy, filter_response_headers};
use idle_timeout::IdleTimeout;
pub use request_body::RequestBody;
use request_body::UploadProgress;
pub use secret_scanner::SecretScanner;

use crate::config::{self, BaseUrl};
use crate::policy::query::encode_pair;
use crate::policy::rule::API_PREFIX;
use connect::Connector;
use pool::{Connection, Pool, SendError, Windows};

/// The request of a fetch.
#[derive(Debug)]
pub struct FetchCall<'a> {
    /// The target from [`Upstream::target`].
    pub target: &'a PathAndQuery,
    /// The headers to inject.
    pub header_policy: &'a HeaderPolicy,
    /// The client's headers from [`HeaderPolicy::select_forwardable`].
    pub client_headers: &'a HeaderMap,
    /// The end of a body that is too large to buffer. The caller limits everything before by dropping the
    /// fetch.
    pub deadline: Instant,
}

/// The response to a fetch.
#[derive(Debug)]
pub struct UpstreamResponse {
    /// The upstream's status.
    pub status: StatusCode,
    /// The upstream's headers, before [`filter_response_headers`].
    pub headers: HeaderMap,
    /// The body, buffered up to the limit of the fetch.
    pub body: BufferedBody,
}

/// A request that is forwarded for a client.
#[derive(Debug)]
pub struct ForwardCall<'a> {
    /// The client's method.
    pub method: &'a Method,
    /// The target from [`Upstream::target`].
    pub target: &'a PathAndQuery,
    /// The headers to inject.
    pub header_policy: &'a HeaderPolicy,
    /// All headers of the client. [`HeaderPolicy::forward_headers`] selects from them.
    pub client_headers: &'a HeaderMap,
    /// The limit from the end of the request to the response head.
    pub timeout: Duration,
    /// The idle timeout of the response body.
    pub idle_timeout: Duration,
}

/// The result of a forwarded request.
#[derive(Debug)]
pub struct ForwardResult {
    /// The response head with a streaming body.
    pub response: Result<Response<StreamingBody>, FetchError>,
    /// Whether the request was sent twice. In this case the upstream may have processed the first one,
    /// whatever it responds to the second.
    pub retried: bool,
}

/// The head of a request, from which each attempt builds its own.
struct RequestHead<'a> {
    method: &'a Method,
    target: &'a PathAndQuery,
    headers: &'a (dyn Fn() -> HeaderMap + Sync),
    /// Whether the request was sent, lost and sent again.
    retried: AtomicBool,
}

/// The configured upstream and the connections to it.
#[derive(Debug)]
pub struct Upstream {
    fetch_pool: Pool,
    /// Separate, so that long streams and slow clients take no capacity of a shared connection from fetches.
    forward_pool: Pool,
    base: BaseUrl,
    /// `host:port`, for `:authority`.
    authority: Authority,
    host_header: HeaderValue,
    added_query: String,
}

const VALID_HOST: &str = "a validated base_url has a host that is a valid header value";

impl Upstream {
    /// Prepares TLS and empty pools, without connecting.
    ///
    /// # Errors
    /// [`SetupError`] if TLS cannot be prepared. For an `https` upstream this reads the system's roots and
    /// `ca_file`.
    pub fn new(config: &config::Upstream) -> Result<Self, SetupError> {
        let base = config.base_url.clone();
        let added: Vec<String> = config
            .query
            .iter()
            .map(|(n, v)| encode_pair(n, v))
            .collect();
        let connector = Connector::new(config)?;
        Ok(Self {
            fetch_pool: Pool::new(connector.clone(), Windows::default()),
            forward_pool: Pool::new(connector, Windows::FOR_FORWARDING),
            authority: Authority::try_from(base.authority()).expect(VALID_HOST),
            host_header: HeaderValue::try_from(base.authority()).expect(VALID_HOST),
            added_query: added.join("&"),
            base,
        })
    }

    /// Returns the Host header of requests to this upstream, for [`HeaderPolicy::with_host`].
    pub fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }

    /// Closes idle connections, and closes each other one after its request. After a reload, requests of the
    /// old configuration may still wait for long. They must not keep file descriptors from the new one.
    pub fn retire(&self) {
        self.fetch_pool.retire();
        self.forward_pool.retire();
    }

    /// Returns the upstream target for a client's `requested` target, with `query` in place of its own.
    pub fn target(&self, requested: &PathAndQuery, query: &str) -> PathAndQuery {
        let is_same_query = requested.query() == Some(query).filter(|query| !query.is_empty());
        if is_same_query && self.base.path == API_PREFIX && self.added_query.is_empty() {
            return requested.clone();
        }
        let mut target = self.base.path.clone();
        target.push_str(&requested.path()[API_PREFIX.len()..]);
        let mut separator = '?';
        for query in [query, &self.added_query] {
            if !query.is_empty() {
                target.push(separator);
                target.push_str(query);
                separator = '&';
            }
        }
        target
            .try_into()
            .expect("a matched path and an escaped or received query make a valid target")
    }

    /// Fetches, and buffers a body of up to `limit` bytes. Only connecting has a time limit.
    ///
    /// # Errors
    /// [`FetchError`] if there is no usable response.
    pub async fn fetch(
        &self,
        call: &FetchCall<'_>,
        limit: usize,
    ) -> Result<UpstreamResponse, FetchError> {
        let head = RequestHead {
            method: &Method::GET,
            target: call.target,
            headers: &|| call.header_policy.merge(call.client_headers),
            retried: AtomicBool::new(false),
        };
        let sent = self.send(&self.fetch_pool, &head, RequestBody::default());
        let (response, connection) = sent.await?;
        let (head, incoming) = response.into_parts();
        if head.status == StatusCode::NOT_MODIFIED {
            return Err(FetchError::UnexpectedNotModified);
        }
        let guard = self.fetch_pool.return_guard(connection, None);
        let timeout = BodyTimeout::Deadline(call.deadline, None);
        let body = StreamingBody::new(incoming, guard, timeout);
        let body = body.buffer(limit).await?;
        Ok(UpstreamResponse {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// Forwards a request with its body. Returns once the response head has arrived.
    pub async fn forward(&self, call: &ForwardCall<'_>, body: RequestBody) -> ForwardResult {
        let progress = body.progress();
        let has_no_body = progress.is_none();
        let headers = || {
            let mut headers = call.header_policy.forward_headers(call.client_headers);
            // RFC 9110 section 8.6: without a length, a server may wait for a body or respond with 411.
            if has_no_body && !call.method.is_safe() && *call.method != Method::DELETE {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            headers
        };
        let head = RequestHead {
            method: call.method,
            target: call.target,
            headers: &headers,
            retried: AtomicBool::new(false),
        };
        let response = self.forward_in_time(&head, call, progress, body).await;
        ForwardResult {
            response,
            retried: head.retried.into_inner(),
        }
    }

    async fn forward_in_time(
        &self,
        head: &RequestHead<'_>,
        call: &ForwardCall<'_>,
        progress: Option<Arc<UploadProgress>>,
        body: RequestBody,
    ) -> Result<Response<StreamingBody>, FetchError> {
        let timed_out = async {
            match &progress {
                Some(progress) => progress.stalled_for(call.timeout).await,
                None => tokio::time::sleep(call.timeout).await,
            }
        };
        let (response, connection) = tokio::select! {
            biased;
            sent = self.send(&self.forward_pool, head, body) => {
                sent.map_err(|error| match &progress {
                    Some(progress) if progress.is_aborted() => FetchError::RequestBodyAborted,
                    _ => error,
                })?
            }
            () = timed_out => return Err(FetchError::DeadlineExceeded),
        };
        let guard = self.forward_pool.return_guard(connection, progress);
        let timeout = BodyTimeout::Idle(IdleTimeout::new(call.idle_timeout));
        Ok(response.map(|incoming| StreamingBody::new(incoming, guard, timeout)))
    }

    /// Sends a request on a pooled connection, or on a new one if the pool is empty.
    ///
    /// The upstream may close a pooled connection just as the request takes it. Therefore the request is sent
    /// once more on a new connection if nothing of it was sent, or if it may be retried and no byte of a
    /// response came.
    async fn send(
        &self,
        pool: &Pool,
        head: &RequestHead<'_>,
        mut body: RequestBody,
    ) -> Result<(Response<Incoming>, Connection), FetchError> {
        let may_retry = body.is_empty() && head.method.is_idempotent();
        let mut lost = None;
        if let Some(mut connection) = pool.take().await {
            let sent = connection.send(|version| self.request(head, version, body));
            let SendError { error, unsent } = match sent.await {
                Ok(response) => return Ok((check_framing(response)?, connection)),
                Err(error) => error,
            };
            body = match unsent {
                Some(unsent) => unsent,
                None if may_retry && !connection.has_received() => {
                    head.retried.store(true, Ordering::Relaxed);
                    RequestBody::default()
                }
                None => return Err(send_failed(error)),
            };
            tracing::debug!(%error, "a pooled connection was lost: retrying on a new one");
            lost = connection.generation();
        }
        // Boxed, because this future is rarely needed and larger than the rest of a fetch.
        let mut connection = Box::pin(pool.open(lost)).await?;
        match connection
            .send(|version| self.request(head, version, body))
            .await
        {
            Ok(response) => Ok((check_framing(response)?, connection)),
            Err(SendError { error, .. }) => Err(send_failed(error)),
        }
    }

    fn request(
        &self,
        head: &RequestHead<'_>,
        version: Version,
        body: RequestBody,
    ) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.headers_mut() = (head.headers)();
        if version == Version::HTTP_2 {
            let mut parts = uri::Parts::default();
            // HTTP/2 is only used over TLS, because only ALPN chooses it.
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some(self.authority.clone());
            parts.path_and_query = Some(head.target.clone());
            *request.uri_mut() =
                Uri::from_parts(parts).expect("scheme, authority and path are present");
            request.headers_mut().remove(HOST);
        } else {
            *request.uri_mut() = head.target.clone().into();
            if request.body().has_unknown_length() {
                // Without this header, hyper sends a GET without its body.
                let chunked = HeaderValue::from_static("chunked");
                request.headers_mut().insert(TRANSFER_ENCODING, chunked);
            }
        }
        request
    }
}

/// Rejects a response that upgrades the protocol, or whose transfer coding is not `chunked` alone (RFC 9112
/// section 7). hyper leaves any other coding in the body.
fn check_framing(response: Response<Incoming>) -> Result<Response<Incoming>, FetchError> {
    let codings = response.headers().get_all(TRANSFER_ENCODING);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        Err(FetchError::UnexpectedUpgrade)
    } else if codings
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        Ok(response)
    } else {
        Err(FetchError::UnexpectedTransferCoding)
    }
}

fn send_failed(error: hyper::Error) -> FetchError {
    if error.is_parse() {
        FetchError::Malformed(error)
    } else {
        FetchError::ConnectionLost(error)
    }
}

impl BaseUrl {
    /// Returns `host` or `host:port`, without the scheme's default port and with an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_omits_the_default_port_of_the_scheme() {
        for (https, host, port, expected) in [
            (true, "a.example", 443, "a.example"),
            (true, "a.example", 80, "a.example:80"),
            (false, "a.example", 80, "a.example"),
            (false, "a.example", 443, "a.example:443"),
            (false, "::1", 80, "[::1]"),
            (true, "::1", 8443, "[::1]:8443"),
        ] {
            let base = BaseUrl {
                https,
                host: host.to_owned(),
                port,
                path: String::new(),
            };
            assert_eq!(base.authority(), expected);
        }
    }

    #[test]
    fn ca_file_without_a_certificate_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("empty", ""), ("text", "no PEM"), ("missing", "")] {
            let path = directory.path().join(name);
            if name != "missing" {
                std::fs::write(&path, text).unwrap();
            }
            let config = config::Upstream {
                ca_file: Some(path.clone()),
                ..config::Upstream::default()
            };
            let error = Upstream::new(&config).unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, SetupError::CaFile { .. }), "{message}");
            assert!(message.contains(&path.display().to_string()), "{message}");
        }
    }
}
