//! wrk: closed-loop load, each of its connections asking again as soon as it is answered.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Fallible;
use crate::process::Place;

/// Longer than any answer takes under any load here: one that comes later is counted as lost.
const TIMEOUT: &str = "30s";

pub(crate) struct Wrk {
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
    pub(crate) place: Place,
    pub(crate) url: String,
    /// For `steps.lua`; none: always the same step.
    pub(crate) others: Option<Others>,
}

/// Another step with every request: the id's beginning, and behind it a number.
pub(crate) struct Others {
    pub(crate) prefix: String,
    /// None: counted up. Else drawn below `.0`, with the seed `.1`.
    pub(crate) drawn: Option<(u32, u32)>,
}

/// What it says at its end.
#[derive(Debug, PartialEq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
}

/// wrk at work. Ended with its value.
pub(crate) struct Running(Option<Child>);

impl Wrk {
    pub(crate) fn run(&self) -> Fallible<Tally> {
        self.start()?.finish()
    }

    pub(crate) fn start(&self) -> Fallible<Running> {
        let mut command = self.place.command("wrk");
        command
            .args(["-t1", "--timeout", TIMEOUT])
            .arg(format!("-c{}", self.connections))
            .arg(format!("-d{}s", self.seconds));
        if let Some(others) = &self.others {
            others.describe(&mut command, &self.url);
        } else {
            command.arg(&self.url);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Running(Some(child)))
    }
}

impl Others {
    fn describe(&self, command: &mut Command, url: &str) {
        command
            .arg("-s")
            .arg(script())
            .args([url, "--", &self.prefix]);
        if let Some((below, seed)) = self.drawn {
            command.args([below.to_string(), seed.to_string()]);
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/steps.lua")
}

impl Running {
    pub(crate) fn finish(mut self) -> Fallible<Tally> {
        let child = self.0.take().expect("it is finished once");
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("wrk: {}\n{said}{why}", output.status).into());
        }
        Tally::read(&said)
    }
}

impl Running {
    /// Ends it before its time; it still says what it saw.
    pub(crate) fn stop(self) -> Fallible<Tally> {
        let id = self.0.as_ref().map(Child::id);
        let id = id.expect("it is finished once").to_string();
        Command::new("kill").args(["-INT", &id]).status()?;
        self.finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Tally {
    /// Any error is the end: what answers with errors is not to be timed.
    fn read(said: &str) -> Fallible<Self> {
        let wrong = ["Socket errors", "Non-2xx"];
        if wrong.iter().any(|word| said.contains(word)) {
            return Err(format!("wrk saw errors\n{said}").into());
        }
        let requests = said
            .lines()
            .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
        let per_second = said
            .lines()
            .find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
        match (requests, per_second) {
            (Some(requests @ 1..), Some(per_second)) => Ok(Self {
                requests,
                per_second,
            }),
            _ => Err(format!("wrk says nothing that counts\n{said}").into()),
        }
    }
}
