//! Starts, watches and ends processes, and reads what they use.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::Result;

/// Limits how long a process may take to start and to end, also under callgrind.
const TIMEOUT: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Starts a command line on the core of the server under measurement.
pub(crate) const ON_SERVER_CORE: &str = "taskset -c 0";

/// Starts a command line on the core of the load, the upstream and Redis.
pub(crate) const ON_LOAD_CORE: &str = "taskset -c 1";

pub(crate) const ON_ALL_CORES: &str = "taskset ffffffff";

/// Returns the words of a command line without quotes.
pub(crate) fn split(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

/// Moves this process to the core of the load.
///
/// Threads and processes that it starts later begin there, too.
pub(crate) fn move_to_load_core() -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(1)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}

/// Owns a process, which ends when the value is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: File,
}

impl Process {
    /// Starts a command line, with no environment but `PATH`.
    pub(crate) fn start(name: &str, words: &[String]) -> Result<Self> {
        let log = tempfile::tempfile()?;
        let (program, arguments) = words.split_first().ok_or("an empty command line")?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .map_err(|error| format!("{name}: {program}: {error}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Waits until `is_ready` holds; fails if the process ends first, or after 30 s.
    pub(crate) fn wait_until(&mut self, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !is_ready() {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failed(&format!("ended: {status}")).into());
            }
            if Instant::now() > deadline {
                return Err(self.failed("is not ready in time").into());
            }
            pause(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Waits for the process to end and returns what it printed; fails if its exit status is not 0.
    pub(crate) fn output(mut self) -> Result<String> {
        let status = self.child.wait()?;
        if status.success() {
            Ok(self.printed())
        } else {
            Err(self.failed(&format!("failed: {status}")).into())
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// Returns the processor time that the process and its children have used, in microseconds.
    pub(crate) fn cpu_micros(&self) -> Result<f64> {
        let processes = self.tree().into_iter();
        let times = processes.map(|process| -> Result<f64> {
            let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(process.try_into()?))?;
            Ok(Duration::from(clock.now()?).as_secs_f64() * 1e6)
        });
        times.sum()
    }

    /// Returns the resident memory of the process and its children, in bytes.
    ///
    /// The figures in `status` lag behind by up to 64 pages a thread, so they are not used.
    pub(crate) fn resident(&self) -> u64 {
        let kilobytes = self.tree().into_iter().filter_map(|process| {
            let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
        kilobytes.sum::<u64>() * 1024
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into()?))
    }

    /// Returns the process and all its descendants.
    fn tree(&self) -> Vec<u32> {
        let mut tree = vec![self.child.id()];
        let mut next = 0;
        while let Some(process) = tree.get(next) {
            let threads = fs::read_dir(format!("/proc/{process}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                let children = fs::read_to_string(thread.path().join("children"));
                let children = children.unwrap_or_default();
                let children = children.split_whitespace();
                tree.extend(children.filter_map(|id| id.parse::<u32>().ok()));
            }
            next += 1;
        }
        tree
    }

    fn printed(&self) -> String {
        let (mut log, mut text) = (&self.log, String::new());
        let read = log.rewind().and_then(|()| log.read_to_string(&mut text));
        read.map_or_else(|error| error.to_string(), |_| text)
    }

    fn failed(&self, how: &str) -> String {
        format!("{} {how}\n{}", self.name, self.printed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM first, because a killed process leaves its children behind.
        let deadline = Instant::now() + TIMEOUT;
        if matches!(self.child.try_wait(), Ok(None)) && self.signal(Signal::SIGTERM).is_ok() {
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                pause(POLL_INTERVAL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns an address of loopback on which nothing listens, for servers that cannot report the port
/// that the kernel gave them.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no worker here to block"
)]
pub(crate) fn pause(length: Duration) {
    std::thread::sleep(length);
}
