//! A server under measurement: started, waited for, weighed, ended.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Fallible;
use crate::ask::ask;
use crate::clock::{now, pause};
use crate::weight::{Used, resident};

/// A start or an end takes no longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at whether something has come about.
const LOOK: Duration = Duration::from_millis(5);

/// The cores that a process may use.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Core(u32),
    Anywhere,
}

/// What is measured has a core to itself; load and upstream share the other.
pub(crate) const SERVED: Place = Place::Core(0);
pub(crate) const LOAD: Place = Place::Core(1);

impl Place {
    /// Starts the program there; the arguments are still to come.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Anywhere => Command::new(program),
            Self::Core(core) => {
                // It becomes the program: the process id is the program's.
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(program);
                command
            }
        }
    }
}

/// Ends with its value, and its children with it.
pub(crate) struct Process {
    name: String,
    child: Child,
    said: File,
}

impl Process {
    pub(crate) fn start(name: &str, mut command: Command) -> Fallible<Self> {
        let said = tempfile::tempfile()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said.try_clone()?)
            .spawn()
            .map_err(|error| format!("{name}: {:?}: {error}", command.get_program()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            said,
        })
    }

    /// Waits until it answers there, whatever it answers.
    pub(crate) fn wait_for(&mut self, address: SocketAddr) -> Fallible<()> {
        self.wait_until(|| ask(address, "/").is_ok())
    }

    /// Waits, and sees if it ends instead.
    pub(crate) fn wait_until(&mut self, is_ready: impl Fn() -> bool) -> Fallible<()> {
        let begun = now();
        while !is_ready() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended: {status}\n{}", self.name, self.said()).into());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{} does not answer\n{}", self.name, self.said()).into());
            }
            pause(LOOK);
        }
        Ok(())
    }

    pub(crate) fn used(&self) -> Used {
        Used::by(self.child.id())
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        resident(self.child.id())
    }

    /// Both of its streams up to now.
    fn said(&self) -> String {
        let (mut said, mut text) = (&self.said, String::new());
        let read = said.rewind().and_then(|()| said.read_to_string(&mut text));
        match read {
            Ok(_) => text,
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Asked first: one that is killed leaves its children behind.
        let id = self.child.id().to_string();
        let asked = Command::new("kill").arg(id).status();
        let begun = now();
        while asked.is_ok() && begun.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of loopback on which nobody listened a moment ago: not every peer says which one it took.
pub(crate) fn free_address() -> Fallible<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}
