//! Redis as it is: servers of the test's own on loopback, without a disk, and what stands between.
//!
//! A server is ended by its own id when its fixture goes, stopped or not.

mod cluster;
mod proxy;

use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Value};
use tempfile::TempDir;
use tokio::process::Command;

use super::{LIMIT, within};

pub(crate) use cluster::Cluster;
pub(crate) use proxy::Proxy;

/// Ports are taken from below those that the kernel gives to outgoing connections: nobody else sits
/// on one while its server is down.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

pub(crate) struct Redis {
    server: Child,
    program: String,
    arguments: Vec<String>,
    port: u16,
    password: Option<String>,
    folder: TempDir,
}

/// What a gateway has stored: one field of a thread's hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stored {
    pub(crate) key: Vec<u8>,
    pub(crate) field: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::run(&Self::program(), &[]).await
    }

    /// The server that the tests share things by: Debian's, or what `STEPGATE_REDIS_SERVER` names.
    pub(crate) fn program() -> String {
        std::env::var("STEPGATE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
    }

    /// For a further listener of a server.
    pub(crate) fn free_port() -> u16 {
        free_port()
    }

    /// This program, with these arguments besides.
    pub(crate) async fn run(program: &str, arguments: &[&str]) -> Self {
        within("a server that is up", async {
            loop {
                let mut redis = Self::spawn(program, arguments);
                // Somebody else may have taken the port meanwhile: then it has ended.
                if redis.is_up().await {
                    return redis;
                }
            }
        })
        .await
    }

    fn spawn(program: &str, arguments: &[&str]) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let mut all: Vec<String> = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            .map(str::to_owned)
            .to_vec();
        all.extend(["--port".to_owned(), port.to_string()]);
        all.extend(["--dir".to_owned(), folder.path().display().to_string()]);
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        Self {
            server: spawn(program, &all),
            program: program.to_owned(),
            arguments: all,
            port,
            password: None,
            folder,
        }
    }

    /// Whether it answers for itself; not where it has ended.
    async fn is_up(&mut self) -> bool {
        let own = format!("process_id:{}", self.server.id());
        while self.server.try_wait().unwrap().is_none() {
            let info = self.cli(&["INFO", "server"]).await;
            if info.lines().any(|line| line.trim_end() == own) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// For files of the test, such as secrets.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// From now on it asks for this password.
    pub(crate) async fn require(&mut self, password: &str) {
        self.cli(&["CONFIG", "SET", "requirepass", password]).await;
        self.password = Some(password.to_owned());
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub(crate) async fn stop(&self) {
        self.signal("STOP").await;
    }

    /// SIGCONT.
    pub(crate) async fn go_on(&self) {
        self.signal("CONT").await;
    }

    async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.server.id());
        let status = Command::new("sh").args(["-c", &kill]).status().await;
        assert!(status.unwrap().success(), "{kill}");
    }

    /// SIGKILL; returns when it has ended.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.server.kill());
        self.server.wait().unwrap();
    }

    /// Anew at the same port, with nothing in it.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.server = spawn(&self.program, &self.arguments);
        let up = within("a server that is up", self.is_up()).await;
        assert!(up, "port {} is taken", self.port);
    }

    /// What `redis-cli` prints; empty where it cannot connect.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        let output = within("redis-cli", command.output()).await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// For what has bytes that no argument can carry.
    pub(crate) async fn link(&self) -> MultiplexedConnection {
        let user = match &self.password {
            Some(password) => format!(":{password}@"),
            None => String::new(),
        };
        let client = Client::open(format!("redis://{user}{}", self.address())).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
        let link = client.get_multiplexed_async_connection_with_config(&config);
        within("a connection", link).await.unwrap()
    }

    /// One command.
    pub(crate) async fn call<T: FromRedisValue>(&self, words: &[&[u8]]) -> T {
        call(&mut self.link().await, words).await
    }

    pub(crate) async fn keys(&self) -> Vec<Vec<u8>> {
        self.call(&[b"KEYS", b"*"]).await
    }

    /// The hashes of threads.
    pub(crate) async fn threads(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = self.call(&[b"KEYS", b"*:t:*"]).await;
        keys.sort();
        keys
    }

    /// The only key of that kind: of head and stream there is one each.
    pub(crate) async fn log(&self, what: &str) -> Vec<u8> {
        let pattern = format!("*:{what}");
        let mut keys: Vec<Vec<u8>> = self.call(&[b"KEYS", pattern.as_bytes()]).await;
        assert_eq!(keys.len(), 1, "{pattern}: {keys:?}");
        keys.remove(0)
    }

    /// All that is stored of steps.
    pub(crate) async fn stored(&self) -> Vec<Stored> {
        let mut link = self.link().await;
        let mut all = Vec::new();
        for key in self.threads().await {
            let pairs: Vec<Vec<u8>> = call(&mut link, &[b"HGETALL", &key]).await;
            let pairs = pairs.chunks_exact(2).map(|pair| Stored {
                key: key.clone(),
                field: pair[0].clone(),
                value: pair[1].clone(),
            });
            // The token of a thread is none of its steps, nor is the mark of a step a body.
            let is_body = |stored: &Stored| stored.field != b"g" && !stored.value.is_empty();
            all.extend(pairs.filter(is_body));
        }
        all.sort();
        all
    }

    /// Puts `value` where `place` is.
    pub(crate) async fn plant(&self, place: &Stored, value: &[u8]) {
        let words: [&[u8]; 4] = [b"HSET", &place.key, &place.field, value];
        self.call::<i64>(&words).await;
    }

    /// Every name and every value, as bytes.
    pub(crate) async fn everything(&self) -> Vec<Vec<u8>> {
        let mut link = self.link().await;
        let mut all = Vec::new();
        for key in self.keys().await {
            let kind: String = call(&mut link, &[b"TYPE", &key]).await;
            let content: Value = match kind.as_str() {
                "hash" => call(&mut link, &[b"HGETALL", &key]).await,
                "stream" => call(&mut link, &[b"XRANGE", &key, b"-", b"+"]).await,
                "string" => call(&mut link, &[b"GET", &key]).await,
                other => panic!("a {other} is not expected here"),
            };
            all.push(key);
            strings(content, &mut all);
        }
        all
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One command over a connection that is there.
pub(crate) async fn call<T: FromRedisValue>(
    link: &mut MultiplexedConnection,
    words: &[&[u8]],
) -> T {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    within("an answer of Redis", command.query_async(link))
        .await
        .unwrap_or_else(|e| panic!("{}: {e}", String::from_utf8_lossy(words[0])))
}

fn strings(value: Value, all: &mut Vec<Vec<u8>>) {
    if let Value::BulkString(bytes) = value {
        all.push(bytes);
    } else if let Value::Array(values) = value {
        for value in values {
            strings(value, all);
        }
    }
}

fn spawn(program: &str, arguments: &[String]) -> Child {
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let spawned = command.spawn();
    spawned.unwrap_or_else(|e| panic!("{program}: {e} (tests/run installs it)"))
}

fn free_port() -> u16 {
    static TURN: AtomicU16 = AtomicU16::new(0);
    // Test processes side by side begin apart.
    let first = u16::try_from(std::process::id() * 97 % 20_000).unwrap();
    loop {
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (first + turn) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
