//! The client side: one upstream, its connections, what goes up and what may come down.
//!
//! Every fetch has a deadline that covers everything, down to the last byte of the body; what is forwarded
//! has one to the head of its answer, and then a longest silence. Nothing is retried but an idempotent
//! request without a body that a reused connection lost before the first byte of an answer, and what
//! was never sent; no redirect is followed.

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

use body::Limit;
pub use body::{Body, BufferedBody, LOOKED_AT, StreamingBody};
pub use error::{FetchError, SetupError};
pub(crate) use header_policy::presented_tokens;
pub use header_policy::{HeaderPolicy, PASSED_UP, clean_answer};
pub use request_body::RequestBody;
use request_body::UploadProgress;
pub use secret_scanner::SecretScanner;

use crate::config::{self, BaseUrl};
use crate::policy::query::encode_pair;
use crate::policy::rule::API_PREFIX;
use connect::Connector;
use pool::{Connection, Pool, SendError, Windows};

/// What a fetch asks for.
#[derive(Debug)]
pub struct FetchCall<'a> {
    /// See [`Upstream::target`].
    pub target: &'a PathAndQuery,
    /// What is injected.
    pub injection: &'a HeaderPolicy,
    /// What of the caller goes up with it: see [`HeaderPolicy::passing`].
    pub passing: &'a HeaderMap,
    /// Until when what is too large to be held may take. What is held is the caller's to limit: by
    /// dropping the fetch.
    pub deadline: Instant,
}

/// What a fetch brought: the head as it came, and the body as far as it may be held.
#[derive(Debug)]
pub struct Fetched {
    /// The upstream's status.
    pub status: StatusCode,
    /// The upstream's headers, not yet cleaned.
    pub headers: HeaderMap,
    /// The body.
    pub body: BufferedBody,
}

/// What is forwarded for a caller.
#[derive(Debug)]
pub struct ForwardCall<'a> {
    /// The caller's method.
    pub method: &'a Method,
    /// See [`Upstream::target`].
    pub target: &'a PathAndQuery,
    /// What is injected.
    pub injection: &'a HeaderPolicy,
    /// All headers of the caller: what of them goes up is [`HeaderPolicy::around`]'s to say.
    pub caller: &'a HeaderMap,
    /// From the last of the request to the head of its answer.
    pub timeout: Duration,
    /// The longest silence of the answer's body.
    pub silence: Duration,
}

/// What came of a forwarded request.
#[derive(Debug)]
pub struct Forwarded {
    /// The head of the answer, and its body on its way; or why there is none.
    pub answer: Result<Response<StreamingBody>, FetchError>,
    /// It went out twice: whatever the second answer says, the first may have been done.
    pub repeated: bool,
}

/// The head of a request, made anew each time that it is sent.
struct Head<'a> {
    method: &'a Method,
    target: &'a PathAndQuery,
    headers: &'a (dyn Fn() -> HeaderMap + Sync),
    /// It was sent and lost, and is sent again.
    repeated: AtomicBool,
}

/// The upstream: where it is, and the connections to it.
#[derive(Debug)]
pub struct Upstream {
    pool: Pool,
    /// For what is forwarded: streams that last, and callers that read slowly, must not take a shared
    /// connection's room from fetches.
    through: Pool,
    base: BaseUrl,
    /// `host:port` as the `:authority` has it, and the Host header.
    authority: Authority,
    host: HeaderValue,
    added_query: String,
}

const PLAIN: &str = "a validated base_url has a plain host";

impl Upstream {
    /// Prepares TLS and an empty pool. Connects to nothing.
    ///
    /// # Errors
    /// [`SetupError`]; reads the system's roots and `ca_file` for an `https` upstream.
    pub fn new(config: &config::Upstream) -> Result<Self, SetupError> {
        let base = config.base_url.clone();
        let added: Vec<String> = config
            .query
            .iter()
            .map(|(n, v)| encode_pair(n, v))
            .collect();
        let connector = Connector::new(config)?;
        Ok(Self {
            pool: Pool::new(connector.clone(), Windows::default()),
            through: Pool::new(connector, Windows::OF_STREAMS),
            authority: Authority::try_from(base.authority()).expect(PLAIN),
            host: HeaderValue::try_from(base.authority()).expect(PLAIN),
            added_query: added.join("&"),
            base,
        })
    }

    /// The Host header of what goes there: for [`HeaderPolicy::to`].
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Keeps no connection from now on: another configuration is in force, and those who came under
    /// this one, which may wait long, must not keep descriptors from the others.
    pub fn retire(&self) {
        self.pool.retire();
        self.through.retire();
    }

    /// The target of a request for what a caller `asked` for, with `query` in place of its own.
    pub fn target(&self, asked: &PathAndQuery, query: &str) -> PathAndQuery {
        let is_own = asked.query() == Some(query).filter(|query| !query.is_empty());
        if is_own && self.base.path == API_PREFIX && self.added_query.is_empty() {
            return asked.clone();
        }
        let mut target = self.base.path.clone();
        target.push_str(&asked.path()[API_PREFIX.len()..]);
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

    /// Fetches, and holds a body of up to `limit` bytes; a larger one is handed over half read. It has
    /// no time limit of its own, but for connecting.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(&self, call: &FetchCall<'_>, limit: usize) -> Result<Fetched, FetchError> {
        let head = Head {
            method: &Method::GET,
            target: call.target,
            headers: &|| call.injection.with(call.passing),
            repeated: AtomicBool::new(false),
        };
        let sent = self.send(&self.pool, &head, RequestBody::default());
        let (response, connection) = sent.await?;
        let (head, incoming) = response.into_parts();
        if head.status == StatusCode::NOT_MODIFIED {
            return Err(FetchError::NotModified);
        }
        let lease = self.pool.lease(connection, None);
        let passage = StreamingBody::new(incoming, lease, Limit::until(call.deadline));
        let body = passage.gather(limit).await?;
        Ok(Fetched {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// Forwards a request with its body, and returns once the answer's head is there; what follows
    /// it passes through as it comes.
    pub async fn forward(&self, onward: &ForwardCall<'_>, body: RequestBody) -> Forwarded {
        let progress = body.progress();
        let has_no_body = progress.is_none();
        let headers = || {
            let mut headers = onward.injection.around(onward.caller);
            // RFC 9110 section 8.6: else a server may wait for a body, or ask for its length.
            if has_no_body && !onward.method.is_safe() && *onward.method != Method::DELETE {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            headers
        };
        let head = Head {
            method: onward.method,
            target: onward.target,
            headers: &headers,
            repeated: AtomicBool::new(false),
        };
        let answer = self.forward_once(&head, onward, progress, body).await;
        Forwarded {
            answer,
            repeated: head.repeated.into_inner(),
        }
    }

    async fn forward_once(
        &self,
        head: &Head<'_>,
        onward: &ForwardCall<'_>,
        progress: Option<Arc<UploadProgress>>,
        body: RequestBody,
    ) -> Result<Response<StreamingBody>, FetchError> {
        let late = async {
            match &progress {
                Some(progress) => progress.stalled_for(onward.timeout).await,
                None => tokio::time::sleep(onward.timeout).await,
            }
        };
        let (response, connection) = tokio::select! {
            biased;
            sent = self.send(&self.through, head, body) => sent.map_err(|error| match &progress {
                Some(progress) if progress.is_broken_off() => FetchError::BrokenOff,
                _ => error,
            })?,
            () = late => return Err(FetchError::Deadline),
        };
        let lease = self.through.lease(connection, progress);
        let limit = Limit::silence(onward.silence);
        Ok(response.map(|incoming| StreamingBody::new(incoming, lease, limit)))
    }

    /// Sends on a pooled connection, else on a new one; and on a new one again if a pooled one was
    /// lost before anything was sent, or before any byte of an answer to what may be asked twice: the
    /// upstream may have closed it as we took it.
    async fn send(
        &self,
        pool: &Pool,
        head: &Head<'_>,
        mut body: RequestBody,
    ) -> Result<(Response<Incoming>, Connection), FetchError> {
        let may_repeat = body.is_empty() && head.method.is_idempotent();
        let mut lost = None;
        if let Some(mut connection) = pool.take().await {
            let sent = connection.send(|version| self.request(head, version, body));
            let SendError { error, unsent } = match sent.await {
                Ok(response) => return Ok((readable(response)?, connection)),
                Err(unanswered) => unanswered,
            };
            body = match unsent {
                Some(unsent) => unsent,
                None if may_repeat && !connection.has_answered() => {
                    head.repeated.store(true, Ordering::Relaxed);
                    RequestBody::default()
                }
                None => return Err(failed(error)),
            };
            tracing::debug!(%error, "a pooled connection was lost: once more on a new one");
            lost = connection.generation();
        }
        // In a box: it is rare, and larger than all else of a fetch.
        let mut connection = Box::pin(pool.open(lost)).await?;
        match connection
            .send(|version| self.request(head, version, body))
            .await
        {
            Ok(response) => Ok((readable(response)?, connection)),
            Err(unanswered) => Err(failed(unanswered.error)),
        }
    }

    fn request(
        &self,
        head: &Head<'_>,
        version: Version,
        body: RequestBody,
    ) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.headers_mut() = (head.headers)();
        if version == Version::HTTP_2 {
            let mut parts = uri::Parts::default();
            // Only TLS chooses it.
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some(self.authority.clone());
            parts.path_and_query = Some(head.target.clone());
            *request.uri_mut() = Uri::from_parts(parts).expect("nothing is missing");
            request.headers_mut().remove(HOST);
        } else {
            *request.uri_mut() = head.target.clone().into();
            if request.body().is_unmeasured() {
                // hyper would take a GET for one without a body.
                let chunked = HeaderValue::from_static("chunked");
                request.headers_mut().insert(TRANSFER_ENCODING, chunked);
            }
        }
        request
    }
}

/// The answer, if it is one to the request: nobody asked for another protocol, nor for a transfer coding
/// beside chunks (RFC 9112 section 7), which would be left in the body unsaid.
fn readable(response: Response<Incoming>) -> Result<Response<Incoming>, FetchError> {
    let codings = response.headers().get_all(TRANSFER_ENCODING);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        Err(FetchError::Switched)
    } else if codings
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        Ok(response)
    } else {
        Err(FetchError::Coded)
    }
}

fn failed(error: hyper::Error) -> FetchError {
    // hyper tells what it could not read from what it could not get.
    if error.is_parse() {
        FetchError::Malformed(error)
    } else {
        FetchError::Lost(error)
    }
}

impl BaseUrl {
    /// `host` or `host:port`, an IPv6 address in brackets, the scheme's default port left out.
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
    fn an_authority_leaves_out_the_port_that_the_scheme_implies() {
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
    fn a_file_of_roots_without_a_certificate_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("empty", ""), ("text", "no PEM"), ("missing", "")] {
            let path = folder.path().join(name);
            if name != "missing" {
                std::fs::write(&path, text).unwrap();
            }
            let config = config::Upstream {
                ca_file: Some(path.clone()),
                ..config::Upstream::default()
            };
            let error = Upstream::new(&config).unwrap_err();
            let told = error.to_string();
            assert!(matches!(error, SetupError::CaFile { .. }), "{told}");
            assert!(told.contains(&path.display().to_string()), "{told}");
        }
    }
}
