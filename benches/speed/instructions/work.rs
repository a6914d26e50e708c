//! What is counted: a server under callgrind and a caller in lock step with it, so that the same
//! happens in every run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::Failure;
use super::caller::{Head, Line};
use super::callgrind;
use super::server::{Server, free_address};
use crate::origin::step;

const SIZE: usize = 790;

/// How many poll one step in [`Work::Join`].
pub(super) const POLLERS: u64 = 64;

#[derive(Clone, Copy)]
pub(super) enum Work {
    /// A hit's answer from hyper alone.
    Bare,
    /// A live step's, forwarded by hyper alone.
    Relay,
    /// A stored step, with these headers.
    Hit(Head),
    /// A live step, each time another one; the upstream's connection is kept.
    Forward,
    /// One live step 20 ms away, asked for by [`POLLERS`] at once, again and again.
    Join,
    /// A final body judged, with no server around it.
    Verdict,
}

impl Work {
    /// For files.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Relay => "relay",
            Self::Hit(Head::Bare) => "hit",
            Self::Hit(Head::Sdk) => "hit-sdk",
            Self::Forward => "forward",
            Self::Join => "join",
            Self::Verdict => "verdict",
        }
    }

    /// How often it is done in the run that is subtracted, and in the one that it is subtracted from.
    pub(super) fn times(self) -> [u64; 2] {
        match self {
            // Rounds: each lasts a coalesce window.
            Self::Join => [10, 50],
            Self::Bare | Self::Relay | Self::Hit(_) | Self::Forward | Self::Verdict => [500, 2500],
        }
    }

    /// Requests that one time is.
    pub(super) fn requests(self) -> u64 {
        match self {
            Self::Join => POLLERS,
            Self::Bare | Self::Relay | Self::Hit(_) | Self::Forward | Self::Verdict => 1,
        }
    }
}

/// Where things are.
pub(super) struct Bench<'a> {
    /// This program.
    pub(super) own: &'a Path,
    pub(super) stepgate: &'a Path,
    /// For logs and configurations.
    pub(super) folder: &'a Path,
    /// For what callgrind writes.
    pub(super) keep: &'a Path,
}

impl Bench<'_> {
    /// The instructions of a whole run, start and end included, in which `work` is done so often.
    pub(super) async fn count(&self, work: Work, times: u64) -> Result<u64, Failure> {
        let name = format!("callgrind.out.{}-{times}", work.word());
        let out = self.keep.join(&name);
        let log = self.folder.join(&name);
        match work {
            Work::Verdict => {
                let mut command = callgrind::under(self.own, &out)?;
                command.args(["verdict", "--times", &times.to_string()]);
                Server::start(command, log)?.ended().await?;
            }
            Work::Bare => {
                let mut command = callgrind::under(self.own, &out)?;
                let address = free_address()?;
                command.args(["bare", "--listen", &address.to_string()]);
                command.args(["--size", &SIZE.to_string()]);
                let mut server = Server::start(command, log)?;
                server.taking(address).await?;
                hit(address, "step_1", Head::Bare, times).await?;
                server.end().await?;
            }
            Work::Relay => {
                let (origin, upstream) = self.origin().await?;
                let mut command = callgrind::under(self.own, &out)?;
                let address = free_address()?;
                command.args(["relay", "--listen", &address.to_string()]);
                command.args(["--upstream", &upstream.to_string()]);
                let mut server = Server::start(command, log)?;
                server.taking(address).await?;
                forward(address, "", times).await?;
                server.end().await?;
                origin.end().await?;
            }
            Work::Hit(_) | Work::Forward | Work::Join => {
                self.count_gateway(work, times, &out, log).await?;
            }
        }
        callgrind::total(&out)
    }

    async fn count_gateway(
        &self,
        work: Work,
        times: u64,
        out: &Path,
        log: PathBuf,
    ) -> Result<(), Failure> {
        let (origin, upstream) = self.origin().await?;
        let config = self.folder.join("stepgate.toml");
        std::fs::write(&config, configuration(upstream))?;
        let mut command = callgrind::under(self.stepgate, out)?;
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .env("TOKIO_WORKER_THREADS", "1")
            .env("PORTKEY_API_KEY", "key-of-the-measurements")
            .env("PORTKEY_PROVIDER_VIRTUAL_KEY", "virtual-key-of-them");
        let mut gateway = Server::start(command, log)?;
        let address = gateway.said_address().await?;
        match work {
            Work::Hit(head) => {
                let id = format!("done-{SIZE}-0-1");
                // Fetched and stored once, which the subtraction takes out.
                let mut line = Line::connect(address).await?;
                line.ask(&path(&id), Head::Bare).await?;
                line.answer("; stored").await?;
                drop(line);
                hit(address, &id, head, times).await?;
            }
            Work::Forward => forward(address, "detail=not_final", times).await?,
            Work::Join => join(address, times).await?,
            Work::Bare | Work::Relay | Work::Verdict => {
                return Err("no gateway has a part in it".into());
            }
        }
        gateway.end().await?;
        origin.end().await
    }

    async fn origin(&self) -> Result<(Server, SocketAddr), Failure> {
        let address = free_address()?;
        let mut command = Command::new(self.own);
        command.args(["origin", "--listen", &address.to_string()]);
        let mut origin = Server::start(command, self.folder.join("origin.log"))?;
        origin.taking(address).await?;
        Ok((origin, address))
    }
}

/// As a tuned sidecar has it: no line per fetch.
fn configuration(upstream: SocketAddr) -> String {
    format!(
        "server.listen = [\"127.0.0.1:0\"]\n\
         admin.listen = \"127.0.0.1:0\"\n\
         upstream.base_url = \"http://{upstream}/v1\"\n\
         log.access = \"off\"\n"
    )
}

fn path(id: &str) -> String {
    format!("/v1/threads/thread_1/runs/run_1/steps/{id}")
}

fn body(id: &str, status: &str) -> Vec<u8> {
    step(["thread_1", "run_1", id], status, SIZE).into_bytes()
}

/// Takes the answer, which must be this body.
async fn expect(line: &mut Line, said: &str, body: &[u8]) -> Result<(), Failure> {
    if line.answer(said).await? == body {
        Ok(())
    } else {
        Err("an answer with another body".into())
    }
}

async fn hit(address: SocketAddr, id: &str, head: Head, times: u64) -> Result<(), Failure> {
    let (path, body) = (path(id), body(id, "completed"));
    let mut line = Line::connect(address).await?;
    for _ in 0..times {
        line.ask(&path, head).await?;
        expect(&mut line, "stepgate; hit; ttl=", &body).await?;
    }
    Ok(())
}

async fn forward(address: SocketAddr, said: &str, times: u64) -> Result<(), Failure> {
    let mut line = Line::connect(address).await?;
    for number in 0..times {
        // All as long as each other.
        let id = format!("live-{SIZE}-0-{number:06}");
        line.ask(&path(&id), Head::Bare).await?;
        expect(&mut line, said, &body(&id, "in_progress")).await?;
    }
    Ok(())
}

/// All ask, then all are answered. They gather within one window, so a round is one departure.
async fn join(address: SocketAddr, times: u64) -> Result<(), Failure> {
    let id = format!("live-{SIZE}-20-1");
    let (path, body) = (path(&id), body(&id, "in_progress"));
    let mut lines = Vec::new();
    for _ in 0..POLLERS {
        lines.push(Line::connect(address).await?);
    }
    for _ in 0..times {
        for line in &mut lines {
            line.ask(&path, Head::Bare).await?;
        }
        for line in &mut lines {
            expect(line, "detail=not_final", &body).await?;
        }
    }
    Ok(())
}
