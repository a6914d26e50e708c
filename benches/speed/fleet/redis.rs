//! The fleet's Redis: a server of the run's own on loopback, without a disk, and what it counts.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Fallible;
use crate::process::{LOAD, Process, free_address};
use crate::weight::Used;

/// What a gateway sends while steps are asked for. Commands that scripts run are counted beside these
/// by Redis, and are not among them.
const SENT: [&str; 4] = ["eval", "hgetall", "xrange", "unlink"];

/// Looks and writes.
const SCRIPTS: &str = "eval";

/// The keepers' rounds.
const ROUNDS: &str = "hgetall";

pub(super) struct Redis {
    pub(super) address: SocketAddr,
    process: Process,
    /// What its own questions moved, there and back.
    asked: Cell<(u64, u64)>,
}

/// What it has counted up to now.
pub(super) struct Counted {
    pub(super) commands: u64,
    pub(super) scripts: u64,
    pub(super) rounds: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// In use, not resident.
    pub(super) memory: u64,
    used: Used,
}

impl Redis {
    pub(super) fn start() -> Fallible<Self> {
        let address = free_address()?;
        let mut command = LOAD.command("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--port")
            .arg(address.port().to_string());
        let mut process = Process::start("redis-server", command)?;
        process.wait_until(|| info(address, "server").is_ok())?;
        let redis = Self {
            address,
            process,
            asked: Cell::default(),
        };
        // What was asked until it answered is not of interest, so that it may be subtracted.
        let stats = info(address, "stats")?;
        let moved = |name: &str| field(&stats, name);
        let (there, back) = (
            moved("total_net_input_bytes")?,
            moved("total_net_output_bytes")?,
        );
        redis.asked.set((there, back + reply_size(&stats)));
        Ok(redis)
    }

    pub(super) fn counted(&self) -> Fallible<Counted> {
        let commands = self.info("commandstats")?;
        let calls = |name: &str| field(&commands, &format!("cmdstat_{name}"));
        let memory = self.info("memory")?;
        let used = self.process.used();
        let (_, back) = self.asked.get();
        let stats = self.info("stats")?;
        let (there, _) = self.asked.get();
        Ok(Counted {
            commands: SENT.iter().map(|name| calls(name).unwrap_or(0)).sum(),
            scripts: calls(SCRIPTS).unwrap_or(0),
            rounds: calls(ROUNDS).unwrap_or(0),
            // It has read this question when it counts, and not written its answer.
            bytes_in: field(&stats, "total_net_input_bytes")?.saturating_sub(there),
            bytes_out: field(&stats, "total_net_output_bytes")?.saturating_sub(back),
            memory: field(&memory, "used_memory")?,
            used,
        })
    }

    fn info(&self, section: &str) -> io::Result<String> {
        let text = info(self.address, section)?;
        let (there, back) = self.asked.get();
        let size = question(section).len() as u64;
        self.asked.set((there + size, back + reply_size(&text)));
        Ok(text)
    }
}

impl Counted {
    /// What was counted from `before` to this one; memory may have shrunk meanwhile, and then it is 0.
    pub(super) fn since(&self, before: &Self) -> Moved {
        Moved {
            commands: self.commands - before.commands,
            scripts: self.scripts - before.scripts,
            rounds: self.rounds - before.rounds,
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            memory: self.memory.saturating_sub(before.memory),
            cpu: self.used.since(&before.used),
        }
    }
}

/// The difference of two counts.
pub(super) struct Moved {
    pub(super) commands: u64,
    pub(super) scripts: u64,
    pub(super) rounds: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) memory: u64,
    pub(super) cpu: Duration,
}

fn question(section: &str) -> String {
    format!("INFO {section}\r\n")
}

/// With the length before it and the line's end behind it.
fn reply_size(text: &str) -> u64 {
    let length = text.len();
    (format!("${length}\r\n").len() + length + 2) as u64
}

fn info(address: SocketAddr, section: &str) -> io::Result<String> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    (&stream).write_all(question(section).as_bytes())?;
    let mut answer = BufReader::new(&stream);
    let mut first = String::new();
    answer.read_line(&mut first)?;
    let length = first.strip_prefix('$').map(str::trim_end);
    let length = length.and_then(|length| length.parse::<usize>().ok());
    let mut text = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    answer.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A field's number; of a command's, how often it was called.
fn field(info: &str, name: &str) -> Fallible<u64> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields
        .find(|(field, _)| *field == name)
        .ok_or_else(|| format!("INFO says no {name}"))?;
    let value = value.strip_prefix("calls=").unwrap_or(value);
    let digits = value.split(|c: char| !c.is_ascii_digit()).next();
    Ok(digits.unwrap_or_default().parse()?)
}
