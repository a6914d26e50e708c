//! An upstream that takes requests back over HTTP/2: in raw frames under TLS, since a server library
//! would be too polite.

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

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    /// RST_STREAM with REFUSED_STREAM: nothing was done for it.
    Refused,
    /// GOAWAY that names an earlier stream as the last one, and the end of the connection.
    SentAway,
}

/// One fate for each request of a connection, by connection; answered beyond.
type Fates = &'static [&'static [Fate]];

struct Upstream {
    url: String,
    _tasks: JoinSet<()>,
    /// How many requests came.
    requests: Arc<AtomicUsize>,
}

async fn upstream(authority: &Authority, fates: Fates) -> Upstream {
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
            let fates = fates.get(nth).copied().unwrap_or_default();
            let counter = Arc::clone(&counter);
            connections.spawn(async move { serve(tls, fates, &counter).await });
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
    fates: &[Fate],
    requests: &AtomicUsize,
) -> std::io::Result<()> {
    io.read_exact(&mut [0; 24]).await?;
    io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    io.flush().await?;
    let mut fates = fates.iter();
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
                match fates.next().copied().unwrap_or(Fate::Answered) {
                    Fate::Answered => {
                        // Indexed `:status: 200`.
                        io.write_all(&frame(HEADERS, END_HEADERS, stream, &[0x88]))
                            .await?;
                        let body = body("completed");
                        io.write_all(&frame(DATA, END_STREAM, stream, &body))
                            .await?;
                        last = stream;
                    }
                    Fate::Refused => {
                        let code = REFUSED_STREAM.to_be_bytes();
                        io.write_all(&frame(RST_STREAM, 0, stream, &code)).await?;
                    }
                    Fate::SentAway => {
                        let said = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
                        io.write_all(&frame(GOAWAY, 0, 0, &said)).await?;
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

/// Asks for another step and then for [`STEP`]: its status and code, and how many requests that took.
async fn second_answer(fates: Fates) -> (u16, Option<String>, usize) {
    let authority = Authority::new();
    let upstream = upstream(&authority, fates).await;
    let gateway = Gateway::start_with_upstream(&upstream.url, &authority.toml()).await;
    assert_eq!(gateway.get(&step("other")).await.status, 200);
    let answer = gateway.get(STEP).await;
    let requests = upstream.requests.load(Ordering::Relaxed);
    (answer.status, answer.code(), requests - 1)
}

#[tokio::test]
async fn c34_refused_stream_or_goaway_on_a_used_connection_is_retried_once() {
    const REFUSED: Fates = &[&[Fate::Answered, Fate::Refused]];
    const SENT_AWAY: Fates = &[&[Fate::Answered, Fate::SentAway]];
    for fates in [REFUSED, SENT_AWAY] {
        assert_eq!(second_answer(fates).await, (200, None, 2), "{fates:?}");
    }
}

#[tokio::test]
async fn c34_refused_stream_or_goaway_on_the_retry_is_a_502() {
    const REFUSED: Fates = &[
        &[Fate::Answered, Fate::Refused, Fate::Refused],
        &[Fate::Refused],
    ];
    const SENT_AWAY: Fates = &[&[Fate::Answered, Fate::SentAway], &[Fate::SentAway]];
    for fates in [REFUSED, SENT_AWAY] {
        let (status, code, requests) = second_answer(fates).await;
        let expected = (502, Some("upstream_unreachable"), 2);
        assert_eq!((status, code.as_deref(), requests), expected, "{fates:?}");
    }
}
