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
use crate::process::{Process, split};
use crate::report::{Table, show};
use crate::run_step::{NEARBY, SMALL, body_of, done, live};
use crate::samples::SDK_HEADERS;
use crate::server::{BARE, RELAY, STEPGATE, Stage};

/// Describes what is counted, and the most that it may be.
///
/// A bound is the figure of the day when it was set, and 5 %. Runs differ by up to 2 %, with what
/// malloc's free lists hold; other libcs and processors need the rest. A change that makes a row cheaper
/// lowers its bound.
struct Row(&'static str, Work, u64);

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
    Row("bare hyper hit, 790 B", Work::Bare, 9_550),
    Row("hit, 790 B", Work::Hit(&[]), 13_200),
    Row(
        "hit with SDK headers, 790 B",
        Work::Hit(&SDK_HEADERS),
        28_900,
    ),
    Row("bare hyper fetch, 790 B", Work::Relay, 26_400),
    Row("fetch of a live step, 790 B", Work::Fetch, 52_600),
    Row("coalesced poll, 64 pollers", Work::Coalesced, 20_200),
    Row("cacheability, 790 B", Work::Cacheability, 5_570),
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
        let folder = folder.path();
        let head = ["work", "instructions per request", "bound", "× bare hyper"];
        let (mut table, mut above, mut bare) = (Table::new(head), Vec::new(), None);
        for row in &ROWS {
            let Row(name, _, bound) = *row;
            let count = row
                .count(&stage, folder)
                .map_err(|error| format!("{name}: {error}"))?;
            let ratio = count as f64 / *bare.get_or_insert(count) as f64;
            table.row([
                name.to_owned(),
                show(count as f64),
                show(bound as f64),
                show(ratio),
            ]);
            if count > bound {
                let percent = (count - bound) as f64 * 100.0 / bound as f64;
                above.push(format!("{name} is {percent:.1} % above its bound"));
            }
        }
        writeln!(io::stdout(), "\n{}", table.markdown())?;
        if let Some(keep) = &self.keep {
            std::fs::create_dir_all(keep)?;
            for file in std::fs::read_dir(folder)? {
                let file = file?;
                std::fs::copy(file.path(), keep.join(file.file_name()))?;
            }
        }
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
        let ([few, many], requests) = match self.1 {
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
        let name = self
            .0
            .split(',')
            .next()
            .unwrap_or_default()
            .replace(' ', "-");
        let file = folder.join(format!("callgrind.out.{name}-{times}"));
        let callgrind = format!(
            "valgrind --tool=callgrind --callgrind-out-file={}",
            file.display()
        );
        if let Work::Cacheability = self.1 {
            let mut words = split(&callgrind);
            words.push(std::env::current_exe()?.display().to_string());
            words.extend(split(&format!("cacheability --times {times}")));
            Process::start(self.0, &words)?.output()?;
        } else {
            let kind = match self.1 {
                Work::Bare => BARE,
                Work::Relay => RELAY,
                Work::Hit(_) | Work::Fetch | Work::Coalesced | Work::Cacheability => STEPGATE,
            };
            let origin = Origin::start_lenient()?;
            let server = stage.start(kind, &origin, &callgrind, None)?;
            if let Work::Hit(_) = self.1 {
                server.check(&origin, &done(SMALL, "1"))?;
            }
            let client = Rc::new(Client::new(server.address));
            http::run(self.request(client, times))?;
            // Dropped, it ends, and callgrind writes its file.
            drop(server);
        }
        let text = std::fs::read_to_string(&file);
        let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
        let mut lines = text.lines();
        let total = lines.find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
        total.ok_or_else(|| format!("{}: no totals", file.display()).into())
    }

    /// Sends the requests in lock step with the server, so that every run does the same, and checks
    /// every response.
    async fn request(&self, client: Rc<Client>, times: u64) -> Result<()> {
        let (pollers, headers, cache_status): (_, &'static [_], _) = match self.1 {
            Work::Hit(headers) => (1, headers, "stepgate; hit; ttl="),
            Work::Fetch => (1, &[], "detail=not_final"),
            Work::Coalesced => (POLLERS, &[], "detail=not_final"),
            Work::Bare | Work::Relay | Work::Cacheability => (1, &[], ""),
        };
        for number in 0..times {
            let path = match self.1 {
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
            for response in responses.join_all().await {
                let (head, received) = response?.into_parts();
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
