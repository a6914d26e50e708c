//! The Redis of a soak: a server of the rig's own, which stops, dies and pauses by the clock.

use std::error::Error;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Value};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::ledger::say;

const PASSWORD: &str = "canary-redis-password";

/// What the gateway needs to reach and to seal it.
pub(super) const URL: &str = "RIG_REDIS_URL";
pub(super) const SEAL: (&str, &str) = ("RIG_REDIS_SEAL", "canary-redis-encryption-key");

/// A start never takes so long on a machine that works.
const PATIENCE: Duration = Duration::from_secs(10);

/// What befalls it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    /// SIGSTOP, then SIGCONT: connections stay, nothing is answered.
    Stopped,
    /// SIGKILL, then another one with nothing in it.
    Killed,
    /// `CLIENT PAUSE`.
    Paused,
}

pub(super) struct Redis {
    port: u16,
    server: Mutex<Child>,
    folder: TempDir,
}

impl Redis {
    /// None where there is no redis-server.
    pub(super) async fn start(seed: u64) -> Result<Option<Self>, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        // Below the ports that outgoing connections get: nobody sits on it while the server is down.
        let mut dice = Dice::of(seed, &["redis", &std::process::id().to_string()]);
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let ports =
            std::iter::repeat_with(|| 12_000 + u16::try_from(dice.below(20_000)).unwrap_or(0));
        let port = ports.take(100).find(free).ok_or("no free port")?;
        match spawn(port, &folder) {
            Ok(server) => {
                let redis = Self {
                    port,
                    server: Mutex::new(server),
                    folder,
                };
                redis.is_up().await?;
                Ok(Some(redis))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// The section of the configuration. A busy machine is no trouble: its budget is above the usual.
    pub(super) fn toml() -> String {
        let (seal, _) = SEAL;
        format!(
            "\n[cache.redis]\nurl = {{ env = \"{URL}\" }}\nprefix = \"soak\"\n\
             encryption_key = {{ env = \"{seal}\" }}\ncommand_timeout = \"200ms\"\n"
        )
    }

    /// Trouble for so long.
    pub(super) async fn befall(&self, trouble: Trouble, lasts: Duration) {
        match trouble {
            Trouble::Stopped => {
                self.signal("STOP").await;
                sleep(lasts).await;
                self.signal("CONT").await;
            }
            Trouble::Killed => {
                let mut server = self.server.lock().await;
                // It may have ended by itself.
                let _ = server.kill().await;
                sleep(lasts).await;
                match spawn(self.port, &self.folder) {
                    Ok(another) => *server = another,
                    Err(error) => say(&format!("the rig cannot restart Redis: {error}")),
                }
            }
            Trouble::Paused => {
                let pause = lasts.as_millis().to_string();
                if let Err(error) = self.ask(&["CLIENT", "PAUSE", &pause, "ALL"]).await {
                    say(&format!("the rig cannot pause Redis: {error}"));
                }
                sleep(lasts).await;
            }
        }
    }

    async fn signal(&self, name: &str) {
        let Some(id) = self.server.lock().await.id() else {
            return;
        };
        let status = Command::new("kill")
            .args([format!("-{name}"), id.to_string()])
            .status()
            .await;
        if !status.is_ok_and(|status| status.success()) {
            say(&format!("the rig cannot send SIG{name} to Redis"));
        }
    }

    async fn is_up(&self) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        loop {
            match self.ask(&["PING"]).await {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn link(&self) -> redis::RedisResult<MultiplexedConnection> {
        let client = Client::open(self.url())?;
        client.get_multiplexed_async_connection().await
    }

    async fn ask(&self, words: &[&str]) -> redis::RedisResult<Value> {
        command(words).query_async(&mut self.link().await?).await
    }

    /// Every name and every value in it.
    pub(super) async fn everything(&self) -> redis::RedisResult<Vec<u8>> {
        let mut link = self.link().await?;
        let mut all = Vec::new();
        let keys: Vec<Vec<u8>> = command(&["KEYS", "*"]).query_async(&mut link).await?;
        for key in keys {
            all.extend_from_slice(&key);
            let mut dump = Cmd::new();
            let is_stream = key.ends_with(b":purges");
            dump.arg(if is_stream { "XRANGE" } else { "HGETALL" })
                .arg(&key);
            if is_stream {
                dump.arg("-").arg("+");
            }
            let value: Value = dump.query_async(&mut link).await?;
            gather(value, &mut all);
        }
        Ok(all)
    }
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
}

fn gather(value: Value, all: &mut Vec<u8>) {
    match value {
        Value::BulkString(bytes) => all.extend(bytes),
        Value::Array(values) => values.into_iter().for_each(|value| gather(value, all)),
        _ => {}
    }
}

/// Without a disk; it ends with whoever holds it.
fn spawn(port: u16, folder: &TempDir) -> std::io::Result<Child> {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no"])
        .args(["--requirepass", PASSWORD])
        .arg("--dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}
