//! What stands between a gateway and its Redis: slow, silent or gone on command.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy, Default)]
struct Mood {
    /// How much later answers come.
    delay: Duration,
    /// The same of what is asked.
    question_delay: Duration,
    /// Nothing passes, either way.
    held: bool,
    /// Newcomers are turned away.
    closed: bool,
    /// How often all connections were cut.
    cuts: usize,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    _carriers: JoinSet<()>,
}

impl Proxy {
    /// To this port of loopback.
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mood = watch::Sender::default();
        let mut carriers = JoinSet::new();
        carriers.spawn(accept(listener, port, mood.subscribe()));
        Self {
            address,
            mood,
            _carriers: carriers,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Answers come so much later from now on; those that follow each other do not add up.
    pub(crate) fn delay(&self, delay: Duration) {
        self.mood.send_modify(|mood| mood.delay = delay);
    }

    /// What is asked arrives so much later from now on.
    pub(crate) fn delay_questions(&self, delay: Duration) {
        self.mood.send_modify(|mood| mood.question_delay = delay);
    }

    /// Keeps what comes, either way, until [`Proxy::let_go`].
    pub(crate) fn hold(&self) {
        self.mood.send_modify(|mood| mood.held = true);
    }

    pub(crate) fn let_go(&self) {
        self.mood.send_modify(|mood| mood.held = false);
    }

    /// Ends every connection; new ones are welcome.
    pub(crate) fn cut(&self) {
        self.mood.send_modify(|mood| mood.cuts += 1);
    }

    /// Ends every connection, also those that come.
    pub(crate) fn close(&self) {
        self.mood.send_modify(|mood| {
            mood.closed = true;
            mood.cuts += 1;
        });
    }

    pub(crate) fn open(&self) {
        self.mood.send_modify(|mood| mood.closed = false);
    }
}

async fn accept(listener: TcpListener, port: u16, mood: watch::Receiver<Mood>) {
    let mut carriers = JoinSet::new();
    while let Ok((caller, _)) = listener.accept().await {
        if !mood.borrow().closed {
            carriers.spawn(carry(caller, port, mood.clone()));
        }
        while carriers.try_join_next().is_some() {}
    }
}

/// Until one of both ends goes, or all are cut.
async fn carry(caller: TcpStream, port: u16, mut mood: watch::Receiver<Mood>) {
    let cuts = mood.borrow().cuts;
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    for end in [&caller, &server] {
        end.set_nodelay(true).unwrap();
    }
    let (from_caller, to_caller) = caller.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_caller, to_server, mood.clone(), |mood| mood.question_delay) => {}
        () = pass(from_server, to_caller, mood.clone(), |mood| mood.delay) => {}
        _ = mood.wait_for(|mood| mood.cuts != cuts) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mood: watch::Receiver<Mood>,
    delay: fn(&Mood) -> Duration,
) {
    let (due, mut dues) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let moods = mood.clone();
    let read = async move {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            let at = Instant::now() + delay(&moods.borrow());
            if due.send((at, chunk[..length].to_vec())).await.is_err() {
                break;
            }
        }
        drop(due);
        // What was read is still to be written.
        std::future::pending::<()>().await;
    };
    let write = async {
        while let Some((at, chunk)) = dues.recv().await {
            tokio::time::sleep_until(at).await;
            if mood.wait_for(|mood| !mood.held).await.is_err()
                || to.write_all(&chunk).await.is_err()
            {
                break;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
