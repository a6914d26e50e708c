//! An HTTP/2 connection: answers, and what can befall a stream.

use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, SendStream};
use hyper::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::inspect::Inspected;
use crate::kind::Harm;

/// What befalls a stream, or its connection because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// GOAWAY behind the answer.
    GoodbyeBehind,
    /// GOAWAY instead of an answer.
    GoodbyeBefore,
    /// GOAWAY, ENHANCE_YOUR_CALM.
    Calm,
    Refused,
    RefusedAlways,
    Reset,
    ResetInBody,
    Cut,
    CutInBody,
    Stalled,
    StalledInBody,
    /// The stream ends before its Content-Length.
    Short,
    Interim,
    Trailers,
}

impl Stream {
    /// Whether the request is meant to be lost on a reused connection, and once.
    pub(super) fn strikes_once(self) -> bool {
        match self {
            Self::GoodbyeBefore | Self::Calm | Self::Refused | Self::Reset | Self::Cut => true,
            Self::GoodbyeBehind
            | Self::RefusedAlways
            | Self::ResetInBody
            | Self::CutInBody
            | Self::Stalled
            | Self::StalledInBody
            | Self::Short
            | Self::Interim
            | Self::Trailers => false,
        }
    }
}

/// A stream that stays open for now.
enum Kept {
    Unanswered {
        _respond: SendResponse<Bytes>,
    },
    HalfAnswered {
        _stream: SendStream<Bytes>,
    },
    /// Half answered; reset once that is on its way.
    ToReset(SendStream<Bytes>),
    /// Half answered; its connection is cut once that is on its way.
    ToCut {
        _stream: SendStream<Bytes>,
    },
}

/// Time for half an answer to leave.
const SOON: Duration = Duration::from_millis(30);

pub(super) async fn serve(tls: Box<TlsStream<TcpStream>>, shared: &Shared) {
    // A connection that fails is seen at the other end.
    let Ok(mut connection) = h2::server::handshake(tls).await else {
        return;
    };
    let mut kept = Vec::new();
    let mut soon: Option<Kept> = None;
    let mut reused = false;
    loop {
        let next = tokio::select! {
            next = connection.accept() => next,
            () = sleep(SOON), if soon.is_some() => match soon.take() {
                Some(Kept::ToReset(mut stream)) => {
                    stream.send_reset(Reason::INTERNAL_ERROR);
                    continue;
                }
                _ => return,
            },
        };
        let Some(Ok((request, respond))) = next else {
            return;
        };
        match answer(&mut connection, request, respond, reused, shared) {
            Ok(Some(open @ (Kept::ToReset(_) | Kept::ToCut { .. }))) => soon = Some(open),
            Ok(Some(open)) => kept.push(open),
            Ok(None) => {}
            Err(Ended) => return,
        }
        reused = true;
    }
}

/// The connection is to end now.
struct Ended;

impl From<h2::Error> for Ended {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

fn answer(
    connection: &mut Connection<Box<TlsStream<TcpStream>>, Bytes>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    reused: bool,
    shared: &Shared,
) -> Result<Option<Kept>, Ended> {
    let raw = format!("{request:?}").into_bytes();
    let Inspected { step, account, .. } = shared
        .inspect(&target(&request), &headers(&request), &raw)
        .ok_or(Ended)?;
    let edition = shared.shelf.fetch(&account, &step);
    let body = Bytes::from(step.body(&account, edition));
    let harm = match shared.harm(&step, reused) {
        Some(Harm::Stream(stream)) => Some(stream),
        _ => None,
    };
    let mut head = Response::new(());
    let fields = head.headers_mut();
    fields.insert(
        "content-type",
        "application/json".parse().map_err(|_| Ended)?,
    );
    fields.insert("content-length", body.len().into());
    match harm {
        None => respond.send_response(head, false)?.send_data(body, true)?,
        Some(Stream::GoodbyeBehind) => {
            respond.send_response(head, false)?.send_data(body, true)?;
            connection.graceful_shutdown();
        }
        Some(Stream::GoodbyeBefore) => {
            connection.abrupt_shutdown(Reason::NO_ERROR);
            return Ok(Some(Kept::Unanswered { _respond: respond }));
        }
        Some(Stream::Calm) => {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            return Ok(Some(Kept::Unanswered { _respond: respond }));
        }
        Some(Stream::Refused | Stream::RefusedAlways) => {
            respond.send_reset(Reason::REFUSED_STREAM);
        }
        Some(Stream::Reset) => respond.send_reset(Reason::INTERNAL_ERROR),
        Some(Stream::ResetInBody) => {
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(body.slice(..body.len() / 2), false)?;
            return Ok(Some(Kept::ToReset(stream)));
        }
        Some(Stream::Cut) => return Err(Ended),
        Some(Stream::CutInBody) => {
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(body.slice(..body.len() / 2), false)?;
            return Ok(Some(Kept::ToCut { _stream: stream }));
        }
        Some(Stream::Stalled) => return Ok(Some(Kept::Unanswered { _respond: respond })),
        Some(Stream::StalledInBody) => {
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(body.slice(..body.len() / 2), false)?;
            return Ok(Some(Kept::HalfAnswered { _stream: stream }));
        }
        Some(Stream::Short) => {
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(body.slice(..body.len() - 10), true)?;
        }
        Some(Stream::Interim) => {
            let hint = Response::builder()
                .status(103)
                .body(())
                .map_err(|_| Ended)?;
            respond.send_informational(hint)?;
            respond.send_response(head, false)?.send_data(body, true)?;
        }
        Some(Stream::Trailers) => {
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(body, false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("x-note", "1".parse().map_err(|_| Ended)?);
            stream.send_trailers(trailers)?;
        }
    }
    Ok(None)
}

fn target(request: &Request<h2::RecvStream>) -> String {
    let uri = request.uri();
    uri.path_and_query()
        .map_or_else(String::new, ToString::to_string)
}

/// With the authority in the place of the host.
fn headers(request: &Request<h2::RecvStream>) -> Vec<(String, String)> {
    let authority = request.uri().authority().map(ToString::to_string);
    let host = authority.map(|authority| ("host".to_owned(), authority));
    let all = request.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    host.into_iter().chain(all).collect()
}
