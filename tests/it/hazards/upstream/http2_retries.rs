//! REFUSED_STREAM and GOAWAY from an HTTP/2 upstream (item 34). It writes raw frames over TLS, because a
//! server library does not send these on command.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use crate::support::certificates::{Authority, Flaw};
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame,
};
use crate::support::{Gateway, STEP, body, step};

const REFUSED_STREAM: u32 = 7;

/// What the upstream does with a request.
#[derive(Debug, Clone, Copy)]
enum Reaction {
    Answered,
    /// Sends RST_STREAM with REFUSED_STREAM: the request was not processed.
    Refused,
    /// Sends a GOAWAY that names an earlier stream as the last one, and closes the connection.
    GoAway,
}

/// The reactions to the requests of each connection, in order; later requests are answered.
type Reactions = &'static [&'static [Reaction]];

struct Upstream {
    url: String,
    _tasks: JoinSet<()>,
    /// Counts the requests received.
    requests: Arc<AtomicUsize>,
}

async fn upstream(authority: &Authority, reactions: Reactions) -> Upstream {
    let acceptor = authority.acceptor(Flaw::None, &["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    let requests = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&requests);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        for nth in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = acceptor.accept(tcp).await.unwrap();
            let reactions = reactions.get(nth).copied().unwrap_or_default();
            let counter = Arc::clone(&counter);
            connections.spawn(async move { serve(tls, reactions, &counter).await });
        }
    });
    Upstream {
        url,
        _tasks: tasks,
        requests,
    }
}

async fn serve(
    mut io: TlsStream<TcpStream>,
    reactions: &[Reaction],
    requests: &AtomicUsize,
) -> std::io::Result<()> {
    io.read_exact(&mut [0; 24]).await?;
    io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    io.flush().await?;
    let mut reactions = reactions.iter();
    let mut last = 0;
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        io.read_exact(&mut payload).await?;
        match (head[3], head[4] & 1) {
            (SETTINGS, 0) => io.write_all(&frame(SETTINGS, 1, 0, &[])).await?,
            (HEADERS, _) => {
                requests.fetch_add(1, Ordering::Relaxed);
                match reactions.next().copied().unwrap_or(Reaction::Answered) {
                    Reaction::Answered => {
                        // Indexed `:status: 200`.
                        io.write_all(&frame(HEADERS, END_HEADERS, stream, &[0x88]))
                            .await?;
                        let body = body("completed");
                        io.write_all(&frame(DATA, END_STREAM, stream, &body))
                            .await?;
                        last = stream;
                    }
                    Reaction::Refused => {
                        let code = REFUSED_STREAM.to_be_bytes();
                        io.write_all(&frame(RST_STREAM, 0, stream, &code)).await?;
                    }
                    Reaction::GoAway => {
                        let payload = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
                        io.write_all(&frame(GOAWAY, 0, 0, &payload)).await?;
                        io.flush().await?;
                        return Ok(());
                    }
                }
            }
            _ => {}
        }
        io.flush().await?;
    }
}

/// Polls another step and then [`STEP`]; returns the second status and code, and how many upstream
/// requests the second poll took.
async fn second_poll(reactions: Reactions) -> (u16, Option<String>, usize) {
    let authority = Authority::new();
    let upstream = upstream(&authority, reactions).await;
    let gateway = Gateway::start_with_upstream(&upstream.url, &authority.toml()).await;
    assert_eq!(gateway.get(&step("other")).await.status, 200);
    let response = gateway.get(STEP).await;
    let requests = upstream.requests.load(Ordering::Relaxed);
    (response.status, response.code(), requests - 1)
}

#[tokio::test]
async fn c34_refused_stream_or_goaway_on_a_used_connection_is_retried_once() {
    const REFUSED: Reactions = &[&[Reaction::Answered, Reaction::Refused]];
    const GO_AWAY: Reactions = &[&[Reaction::Answered, Reaction::GoAway]];
    for reactions in [REFUSED, GO_AWAY] {
        assert_eq!(
            second_poll(reactions).await,
            (200, None, 2),
            "{reactions:?}"
        );
    }
}

#[tokio::test]
async fn c34_refused_stream_or_goaway_on_the_retry_is_a_502() {
    const REFUSED: Reactions = &[
        &[Reaction::Answered, Reaction::Refused, Reaction::Refused],
        &[Reaction::Refused],
    ];
    const GO_AWAY: Reactions = &[&[Reaction::Answered, Reaction::GoAway], &[Reaction::GoAway]];
    for reactions in [REFUSED, GO_AWAY] {
        let (status, code, requests) = second_poll(reactions).await;
        let expected = (502, Some("upstream_unreachable"), 2);
        assert_eq!(
            (status, code.as_deref(), requests),
            expected,
            "{reactions:?}"
        );
    }
}
