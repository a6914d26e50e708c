//! An HTTP proxy on a raw listener. It records requests, and the bytes that go through it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The response head of most proxies.
pub(crate) const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// What the proxy does with CONNECT.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Behaviour {
    /// Responds with this head and opens the tunnel.
    Tunnel(&'static str),
    /// Sends these bytes and closes the connection.
    Send(&'static [u8]),
    /// Sends nothing.
    Hang,
}

#[derive(Debug, Default)]
struct Recorded {
    heads: Vec<String>,
    tunnelled: Vec<u8>,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    recorded: Arc<Mutex<Recorded>>,
    _accepts: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let recorded = Arc::<Mutex<Recorded>>::default();
        let shared = Arc::clone(&recorded);
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(serve(tcp, behaviour, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            recorded,
            _accepts: accepts,
        }
    }

    /// Returns the head of each request.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.recorded.lock().unwrap().heads.clone()
    }

    /// Returns the target of each request.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.heads().iter().map(|head| target(head)).collect()
    }

    /// Returns all bytes that clients sent through tunnels.
    pub(crate) fn tunnelled(&self) -> Vec<u8> {
        self.recorded.lock().unwrap().tunnelled.clone()
    }
}

fn target(head: &str) -> String {
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}

async fn serve(mut tcp: TcpStream, behaviour: Behaviour, recorded: Arc<Mutex<Recorded>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    recorded.lock().unwrap().heads.push(head.clone());
    match behaviour {
        Behaviour::Tunnel(established) => {
            let mut upstream = TcpStream::connect(target(&head)).await.unwrap();
            tcp.write_all(established.as_bytes()).await.unwrap();
            let (mut from, mut to) = tcp.split();
            let (mut down, mut up) = upstream.split();
            let upwards = async {
                let mut part = [0; 4096];
                while let Ok(read @ 1..) = from.read(&mut part).await {
                    recorded.lock().unwrap().tunnelled.extend(&part[..read]);
                    if up.write_all(&part[..read]).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                () = upwards => {}
                _ = copy(&mut down, &mut to) => {}
            }
        }
        // The client may have closed the connection already.
        Behaviour::Send(bytes) => drop(tcp.write_all(bytes).await),
        Behaviour::Hang => drop(tcp.read_u8().await),
    }
}
