//! The callers: raw HTTP/1.1, so that every byte of an answer is seen, and HTTP/2.

mod answer;
mod h2;
mod raw;

pub(crate) use answer::{Answer, Read};
pub(crate) use h2::H2;
pub(crate) use raw::Line;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::step::Step;

/// What every caller carries; nothing of it may go up, or come back to anybody.
pub(crate) const OWN: [(&str, &str); 6] = [
    ("authorization", "Bearer canary-caller-bearer"),
    ("x-portkey-api-key", "canary-caller-key"),
    ("x-portkey-virtual-key", "canary-caller-virtual"),
    ("x-portkey-custom-host", "http://canary-caller-host"),
    ("cookie", "session=canary-caller-cookie"),
    ("x-forwarded-host", "canary-caller-forwarded"),
];

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Got {
    Whole(Answer),
    /// A head, and a body that visibly broke off.
    Cut(Answer),
    /// The connection ended, or the stream, before an answer.
    Closed(String),
    /// Nothing, until the deadline; with what had come.
    Late(Vec<u8>),
    /// No HTTP.
    Garbled(String, Vec<u8>),
}

impl Got {
    pub(crate) fn raw(&self) -> &[u8] {
        match self {
            Self::Whole(answer) | Self::Cut(answer) => &answer.raw,
            Self::Late(raw) | Self::Garbled(_, raw) => raw,
            Self::Closed(_) => &[],
        }
    }
}

/// How a request is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// HTTP/1.1, a connection of its own.
    Http1,
    /// HTTP/2, a connection of its own.
    Http2,
}

/// One request for `step` on a connection of its own, answered within `limit` or late.
pub(crate) async fn ask(
    at: SocketAddr,
    manner: Manner,
    method: &str,
    step: &Step,
    headers: &[(&str, &str)],
    limit: Duration,
) -> Got {
    match manner {
        Manner::Http1 => match timeout(limit, Line::connect(at)).await {
            Ok(Ok(mut line)) => {
                if let Err(error) = line.send(method, &step.target(), headers).await {
                    return Got::Closed(error.to_string());
                }
                line.answer(method == "HEAD", limit).await
            }
            Ok(Err(error)) => Got::Closed(error.to_string()),
            Err(_) => Got::Late(Vec::new()),
        },
        Manner::Http2 => match timeout(limit, H2::connect(at)).await {
            Ok(Ok(h2)) => h2.ask(method, &step.target(), headers, limit).await,
            Ok(Err(error)) => Got::Closed(error),
            Err(_) => Got::Late(Vec::new()),
        },
    }
}
