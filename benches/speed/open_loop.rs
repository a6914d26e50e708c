//! Load at a fixed pace: every request has its time, goes out then whatever is still outstanding, and
//! its latency counts from then. A server that stalls is charged for everybody who would have come
//! meanwhile, as it is not when its callers wait for it.
//!
//! A process of its own that spins on its core: no timer's coarseness, and no wake-up, is in what it
//! measures.

use std::collections::VecDeque;
use std::hint;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::clock::now;
use crate::line::Line;
use crate::process::LOAD;

/// How long after the last request's time answers may still come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections are opened as they are needed, up to here: more outstanding is no pace that holds.
const MOST: usize = 4096;

#[derive(clap::Args)]
pub(crate) struct Load {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    path: String,
    /// Requests a second.
    #[arg(long)]
    rate: u32,
    #[arg(long)]
    seconds: u32,
    /// Connections that are open before it begins.
    #[arg(long)]
    connections: usize,
    /// So many at a time, at the same pace.
    #[arg(long, default_value_t = 1)]
    burst: u32,
}

/// Latencies in microseconds.
pub(crate) struct Latencies {
    pub(crate) requests: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Load {
    pub(crate) fn run(&self) -> ExitCode {
        match self.latencies() {
            Ok(mut latencies) => {
                latencies.sort_unstable();
                let at = |share: f64| micros(quantile(&latencies, share));
                let _ = writeln!(
                    io::stdout(),
                    "requests {}\np50 {}\np99 {}\np99.9 {}",
                    latencies.len(),
                    at(0.5),
                    at(0.99),
                    at(0.999)
                );
                ExitCode::SUCCESS
            }
            Err(error) => {
                let _ = writeln!(io::stderr(), "load: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn latencies(&self) -> Fallible<Vec<Duration>> {
        let connect = || -> io::Result<Line> {
            let line = Line::connect(self.to)?;
            line.never_wait()?;
            Ok(line)
        };
        // In turn, as callers with a connection each would ask.
        let mut idle = (0..self.connections)
            .map(|_| connect())
            .collect::<io::Result<VecDeque<_>>>()?;
        let mut outstanding: Vec<(Instant, Line)> = Vec::new();
        let requests = self.rate * self.seconds;
        let begun = now();
        let due = |number: u32| {
            begun + Duration::from_secs(1) * (number - number % self.burst) / self.rate
        };
        let mut latencies = Vec::new();
        let mut sent = 0;
        while sent < requests || !outstanding.is_empty() {
            let time = now();
            while sent < requests && due(sent) <= time {
                let mut line = match idle.pop_front() {
                    Some(line) => line,
                    None if outstanding.len() < MOST => connect()?,
                    None => return Err(format!("{MOST} requests are outstanding").into()),
                };
                line.send(&self.path)?;
                outstanding.push((due(sent), line));
                sent += 1;
            }
            let mut looked_at = 0;
            while let Some((scheduled, line)) = outstanding.get_mut(looked_at) {
                match line.receive()? {
                    None => looked_at += 1,
                    Some(200) => {
                        latencies.push(scheduled.elapsed());
                        idle.push_back(outstanding.swap_remove(looked_at).1);
                    }
                    Some(other) => return Err(format!("status {other}").into()),
                }
            }
            if time > due(requests) + PATIENCE {
                return Err("answers are missing".into());
            }
            hint::spin_loop();
        }
        Ok(latencies)
    }
}

/// The nearest rank.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "some thousands, and a share of them"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

pub(crate) fn micros(length: Duration) -> f64 {
    length.as_secs_f64() * 1e6
}

/// Runs it on the load's core against `path`.
pub(crate) fn pace(
    to: SocketAddr,
    path: &str,
    rate: u32,
    seconds: u32,
    connections: u32,
    burst: u32,
) -> Fallible<Latencies> {
    let mut command: Command = LOAD.command(std::env::current_exe()?);
    command.args(["load", "--to"]).arg(to.to_string());
    command.arg("--path").arg(path);
    for (flag, number) in [
        ("--rate", rate),
        ("--seconds", seconds),
        ("--connections", connections),
        ("--burst", burst),
    ] {
        command.arg(flag).arg(number.to_string());
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let figure = |word: &str| {
        let mut lines = said.lines().filter_map(|line| line.split_once(' '));
        let (_, figure) = lines.find(|(said, _)| *said == word)?;
        figure.parse::<f64>().ok()
    };
    let read = || {
        Some(Latencies {
            requests: u64::from(rate) * u64::from(seconds),
            p50: figure("p50")?,
            p99: figure("p99")?,
            p999: figure("p99.9")?,
        })
    };
    let why = || String::from_utf8_lossy(&output.stderr).into_owned().into();
    read().filter(|_| output.status.success()).ok_or_else(why)
}
