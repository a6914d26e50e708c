//! For tests: a server that answers as it was told to.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::client::{Dialer, Link};
use crate::config;
use crate::config::RedisUrl;

/// Long for a scripted server, short for who waits for one that says nothing.
const BUDGET: Duration = Duration::from_millis(200);

/// A command as it is sent: its words.
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

/// The configuration of a server there.
pub(in crate::cache) fn at(url: &str) -> config::Redis {
    config::Redis {
        nodes: vec![RedisUrl::literal(url).unwrap()],
        is_cluster: false,
        prefix: "p".to_owned(),
        command_timeout: BUDGET,
        encryption_key: None,
        ca_file: None,
    }
}

/// A server that answers the nth question about the log with the nth of these, or, when
/// the next one comes, with nothing.
pub(super) async fn scripted(answers: Vec<Option<String>>) -> (JoinSet<()>, Link) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut wire = BufReader::new(listener.accept().await.unwrap().0);
        let mut answers = answers.into_iter();
        let mut late = String::new();
        while let Some(words) = command(&mut wire).await {
            let is_question = ["HGETALL", "XRANGE"].contains(&words[0].as_str());
            let answer = match is_question {
                true => answers.next().expect("a question too many"),
                false => Some("+OK\r\n".to_owned()),
            };
            match answer {
                Some(answer) => {
                    let both = std::mem::take(&mut late) + &answer;
                    wire.write_all(both.as_bytes()).await.unwrap();
                }
                None => late += "*0\r\n",
            }
        }
    });
    let config = at(&url);
    let link = Dialer::new(&config).unwrap().dial().await.unwrap();
    (server, link)
}
