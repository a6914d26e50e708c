//! A process that is started for a count, found, and ended as a supervisor would.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::Failure;

/// A start, an end: never so long, even under callgrind.
const PATIENCE: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(20);

/// Killed when dropped.
pub(super) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it, with what it says in the file `log`.
    pub(super) fn start(mut command: Command, log: PathBuf) -> Result<Self, Failure> {
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{:?}: {error}", command.as_std().get_program()))?;
        Ok(Self { child, log })
    }

    /// Waits until it takes connections at `address`.
    pub(super) async fn taking(&mut self, address: SocketAddr) -> Result<(), Failure> {
        self.until(async || TcpStream::connect(address).await.ok().map(drop))
            .await
    }

    /// Where stepgate says that it listens for data.
    pub(super) async fn said_address(&mut self) -> Result<SocketAddr, Failure> {
        let log = self.log.clone();
        self.until(async || address_in(&log)).await
    }

    async fn until<T>(&mut self, look: impl AsyncFn() -> Option<T>) -> Result<T, Failure> {
        let found = async {
            loop {
                if let Some(found) = look().await {
                    return Ok(found);
                }
                if let Some(status) = self.child.try_wait()? {
                    return Err(Failure::from(format!("it ended: {status}")));
                }
                sleep(GLANCE).await;
            }
        };
        timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| Err("it did not start".into()))
            .map_err(|error| self.with_log(&error))
    }

    /// Ends it, and waits for it; how, is its own affair.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        if let Some(id) = self.child.id() {
            let kill = format!("kill -TERM {id}");
            Command::new("sh").args(["-c", &kill]).status().await?;
        }
        self.ended().await
    }

    /// Waits for its own end.
    pub(super) async fn ended(&mut self) -> Result<(), Failure> {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.map(drop).map_err(Into::into),
            Err(_) => Err(self.with_log(&"it did not end".into())),
        }
    }

    fn with_log(&self, error: &Failure) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        format!("{error}; its log:\n{log}").into()
    }
}

fn address_in(log: &Path) -> Option<SocketAddr> {
    let log = std::fs::read_to_string(log).ok()?;
    let line = log
        .lines()
        .find(|line| line.contains("listening") && line.contains("on=data"))?;
    let (_, address) = line.split_once("address=")?;
    address.split_whitespace().next()?.parse().ok()
}

/// A port that nothing listens on now.
pub(super) fn free_address() -> Result<SocketAddr, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
