//! Counts what requests cost in instructions in user space. Other programs on the machine leave this
//! figure as it is, so a bound on it can be close.
//!
//! A row is the difference of two runs under callgrind that differ only in how often the work is
//! done, divided by how often. What happens once thereby cancels out: start, end, warm-up. The
//! kernel's part is not counted. gungraun (iai-callgrind) has bounds only on whole processes, of which
//! the start is a part that varies, so it cannot hold a bound per request.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use tokio::task::JoinSet;

use crate::Result;
use crate::http::{self, Client};
use crate::origin::Origin;
use crate::process::Process;
use crate::report::{Table, show};
use crate::run_step::{NEARBY, SMALL, body_of, done, live};
use crate::samples::SDK_HEADERS;
use crate::server::{BARE, RELAY, STEPGATE, Stage};

/// Describes what is counted and how much it may be.
struct Row {
    name: &'static str,
    /// Is the end of the name of callgrind's files.
    file: &'static str,
    work: Work,
    /// Is the figure of the day when it was set, and 5 %. Runs differ by up to 2 %, with what malloc's
    /// free lists hold; other libcs and processors need the rest. A change that makes a row cheaper
    /// lowers its bound.
    bound: u64,
}

impl Row {
    const fn new(name: &'static str, file: &'static str, work: Work, bound: u64) -> Self {
        Self {
            name,
            file,
            work,
            bound,
        }
    }
}

#[derive(Clone, Copy)]
enum Work {
    /// Responses of this server without a gateway's part: a hit of hyper alone.
    Bare,
    /// Fetches of hyper alone.
    Relay,
    /// Hits of one stored step, with these headers.
    Hit(&'static [(&'static str, &'static str)]),
    /// Fetches of live steps, another one each time; the upstream connection is kept.
    Fetch,
    /// Polls of one live step, [`POLLERS`] at once, again and again.
    Coalesced,
    /// Checks of a final body, with no server.
    Cacheability,
}

const POLLERS: u64 = 64;

const ROWS: [Row; 7] = [
    Row::new("bare hyper, hit 790 B", "bare", Work::Bare, 9_550),
    Row::new("hit 790 B", "hit", Work::Hit(&[]), 13_200),
    Row::new(
        "hit 790 B, an SDK's headers",
        "hit-sdk",
        Work::Hit(&SDK_HEADERS),
        28_900,
    ),
    Row::new(
        "bare hyper on both sides, fetch 790 B",
        "relay",
        Work::Relay,
        26_400,
    ),
    Row::new("fetch of a live step, 790 B", "fetch", Work::Fetch, 52_600),
    Row::new(
        "coalesced poll, 64 pollers of a live step",
        "coalesced",
        Work::Coalesced,
        20_200,
    ),
    Row::new(
        "cacheability, 790 B",
        "cacheability",
        Work::Cacheability,
        5_570,
    ),
];

#[derive(clap::Args)]
pub(crate) struct Instructions {
    /// Binary to be counted, from a plain release build: cargo builds benches with test features
    #[arg(long)]
    stepgate: PathBuf,
    /// Directory for callgrind's files, for callgrind_annotate
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Instructions {
    pub(crate) fn run(self) -> Result<()> {
        let stage = Stage::new(&self.stepgate)?;
        let folder = tempfile::tempdir()?;
        let folder = self.keep.as_deref().unwrap_or(folder.path());
        std::fs::create_dir_all(folder)?;
        let head = ["work", "instructions per request", "bound", "× bare hyper"];
        let (mut table, mut above, mut bare) = (Table::new(head), Vec::new(), None);
        for row in &ROWS {
            let count = row.count(&stage, folder);
            let count = count.map_err(|error| format!("{}: {error}", row.name))?;
            let ratio = count as f64 / *bare.get_or_insert(count) as f64;
            let [shown, bound] = [count, row.bound].map(|number| show(number as f64));
            table.row([row.name.to_owned(), shown, bound, show(ratio)]);
            if count > row.bound {
                let percent = (count - row.bound) as f64 * 100.0 / row.bound as f64;
                above.push(format!("{} is {percent:.1} % above its bound", row.name));
            }
        }
        writeln!(io::stdout(), "\n{}", table.markdown())?;
        if above.is_empty() {
            Ok(())
        } else {
            Err(above.join("\n").into())
        }
    }
}

impl Row {
    /// Returns the instructions of one request.
    fn count(&self, stage: &Stage, folder: &Path) -> Result<u64> {
        let ([few, many], requests) = match self.work {
            // Each round lasts a coalesce window.
            Work::Coalesced => ([10, 50], POLLERS),
            Work::Bare | Work::Relay | Work::Hit(_) | Work::Fetch | Work::Cacheability => {
                ([500, 2500], 1)
            }
        };
        let less = self.count_process(stage, folder, few)?;
        let more = self.count_process(stage, folder, many)?;
        let grown = more.checked_sub(less).filter(|grown| *grown > 0);
        Ok(grown.ok_or("more requests took no more instructions")? / ((many - few) * requests))
    }

    /// Returns the instructions of a whole process that does the work so often.
    fn count_process(&self, stage: &Stage, folder: &Path, times: u64) -> Result<u64> {
        let file = folder.join(format!("callgrind.out.{}-{times}", self.file));
        // An earlier run's file must not be taken for this one's.
        let _ = std::fs::remove_file(&file);
        let out = format!("--callgrind-out-file={}", file.display());
        let callgrind = ["valgrind", "--tool=callgrind", &out]
            .map(str::to_owned)
            .to_vec();
        if let Work::Cacheability = self.work {
            let own = std::env::current_exe()?.display().to_string();
            let times = times.to_string();
            let command = [&own, "cacheability", "--times", &times].map(str::to_owned);
            Process::start(self.name, &[callgrind, command.to_vec()].concat(), &[])?.output()?;
        } else {
            let kind = match self.work {
                Work::Bare => BARE,
                Work::Relay => RELAY,
                Work::Hit(_) | Work::Fetch | Work::Coalesced | Work::Cacheability => STEPGATE,
            };
            let origin = Origin::start_lenient()?;
            let server = stage.start(kind, &origin, callgrind, None)?;
            if let Work::Hit(_) = self.work {
                server.check(&origin, &done(SMALL, "1"))?;
            }
            let client = Rc::new(Client::new(server.address));
            http::run(self.request(client, times))?;
            // Dropped, it ends, and callgrind writes its file.
            drop(server);
        }
        let text = std::fs::read_to_string(&file);
        let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
        let total = text
            .lines()
            .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
        total.ok_or_else(|| format!("{}: no totals", file.display()).into())
    }

    /// Sends the requests in lock step with the server, so that every run does the same, and checks
    /// every response.
    async fn request(&self, client: Rc<Client>, times: u64) -> Result<()> {
        let (pollers, headers, cache_status): (_, &'static [_], _) = match self.work {
            Work::Hit(headers) => (1, headers, "stepgate; hit; ttl="),
            Work::Fetch => (1, &[], "detail=not_final"),
            Work::Coalesced => (POLLERS, &[], "detail=not_final"),
            Work::Bare | Work::Relay | Work::Cacheability => (1, &[], ""),
        };
        for number in 0..times {
            let path = match self.work {
                Work::Bare | Work::Hit(_) | Work::Cacheability => done(SMALL, "1"),
                // All paths are equally long.
                Work::Relay | Work::Fetch => live(SMALL, 0, &format!("{number:06}")),
                Work::Coalesced => live(SMALL, NEARBY, "1"),
            };
            let body = body_of(&path).ok_or("not a path of a step")?;
            let mut responses = JoinSet::new();
            for _ in 0..pollers {
                let (client, path) = (Rc::clone(&client), path.clone());
                responses.spawn_local(async move { client.get_with(&path, headers).await });
            }
            while let Some(response) = responses.join_next().await {
                let (head, received) = response??.into_parts();
                let status = head.headers.get("cache-status").map(HeaderValue::to_str);
                let status = status.transpose()?.unwrap_or_default();
                if head.status != StatusCode::OK
                    || !status.contains(cache_status)
                    || received != body
                {
                    return Err(format!("wrong response to {path}: {head:?}").into());
                }
            }
        }
        Ok(())
    }
}
