//! A proxy on a raw listener. It records what it is asked, and what goes through it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What most of them say.
pub(crate) const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// How it answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    /// With this head, and then as it should.
    Tunnel(&'static str),
    /// With these bytes, and then it hangs up.
    Say(&'static [u8]),
    /// Not at all.
    Silence,
}

#[derive(Debug, Default)]
struct Heard {
    heads: Vec<String>,
    passed: Vec<u8>,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    _accepts: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Heard>>::default();
        let shared = Arc::clone(&heard);
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(serve(tcp, manner, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            heard,
            _accepts: accepts,
        }
    }

    /// The head of each request, as it came.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heard.lock().unwrap().heads.clone()
    }

    /// What each was to be connected to.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.heads().iter().map(|head| target(head)).collect()
    }

    /// All bytes that went upwards after an answer.
    pub(crate) fn passed(&self) -> Vec<u8> {
        self.heard.lock().unwrap().passed.clone()
    }
}

fn target(head: &str) -> String {
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}

async fn serve(mut tcp: TcpStream, manner: Manner, heard: Arc<Mutex<Heard>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    heard.lock().unwrap().heads.push(head.clone());
    match manner {
        Manner::Tunnel(established) => {
            let mut upstream = TcpStream::connect(target(&head)).await.unwrap();
            tcp.write_all(established.as_bytes()).await.unwrap();
            let (mut from, mut to) = tcp.split();
            let (mut down, mut up) = upstream.split();
            let upwards = async {
                let mut part = [0; 4096];
                while let Ok(read @ 1..) = from.read(&mut part).await {
                    heard.lock().unwrap().passed.extend(&part[..read]);
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
        // A caller that has heard enough may have gone.
        Manner::Say(bytes) => drop(tcp.write_all(bytes).await),
        Manner::Silence => drop(tcp.read_u8().await),
    }
}
