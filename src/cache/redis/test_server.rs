//! A server for unit tests that sends prepared replies.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::client::{Connection, Connector};
use crate::config;
use crate::config::RedisUrl;

/// Long enough for a prepared reply, and short for a test that waits for the timeout.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(200);

/// Reads a command as a list of strings.
async fn command(server: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..number(server, '*').await? {
        let mut word = vec![0; number(server, '$').await? + 2];
        server.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8_lossy(&word).trim_end().to_owned());
    }
    Some(words)
}

async fn number(server: &mut BufReader<TcpStream>, kind: char) -> Option<usize> {
    let mut line = String::new();
    server.read_line(&mut line).await.ok()?;
    line.trim_end().strip_prefix(kind)?.parse().ok()
}

/// Returns the configuration for a server at `url`.
pub(in crate::cache) fn config_for(url: &str) -> config::Redis {
    config::Redis {
        nodes: vec![RedisUrl::literal(url).unwrap()],
        is_cluster: false,
        prefix: "p".to_owned(),
        command_timeout: COMMAND_TIMEOUT,
        encryption_key: None,
        ca_file: None,
    }
}

/// Starts a server and connects to it. The nth command that reads the log gets the nth reply. If that is
/// `None`, an empty array is sent together with the next reply. Other commands get `OK`.
pub(super) async fn serve(replies: Vec<Option<String>>) -> (JoinSet<()>, Connection) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let mut replies = replies.into_iter();
        let mut late = String::new();
        while let Some(words) = command(&mut stream).await {
            let reads_log = ["HGETALL", "XRANGE"].contains(&words[0].as_str());
            let reply = match reads_log {
                true => replies.next().expect("a reply is prepared"),
                false => Some("+OK\r\n".to_owned()),
            };
            match reply {
                Some(reply) => {
                    let both = std::mem::take(&mut late) + &reply;
                    stream.write_all(both.as_bytes()).await.unwrap();
                }
                None => late += "*0\r\n",
            }
        }
    });
    let connector = Connector::new(&config_for(&url)).unwrap();
    (server, connector.connect().await.unwrap())
}
