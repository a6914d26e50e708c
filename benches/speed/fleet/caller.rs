//! Who asks a gateway: over kept-alive connections, as many as are busy at once, and every body is
//! held against what the step's is.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::Fallible;
use crate::clock::now;
use crate::open_loop::{micros, quantile};
use crate::origin::of_path;

/// Everything ends by itself, whatever is measured.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Caller {
    address: SocketAddr,
    idle: RefCell<Vec<TcpStream>>,
}

/// Where an answer came from, as its `Cache-Status` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Memory,
    Shared,
    Upstream,
}

pub(super) struct Told {
    pub(super) status: u16,
    pub(super) source: Source,
    pub(super) body: Vec<u8>,
    pub(super) took: Duration,
}

impl Caller {
    pub(super) fn of(address: SocketAddr) -> Self {
        Self {
            address,
            idle: RefCell::default(),
        }
    }

    pub(super) async fn ask(&self, path: &str) -> io::Result<Told> {
        let idle = self.idle.borrow_mut().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        let mut come = Vec::with_capacity(4096);
        let sent = now();
        stream.write_all(head.as_bytes()).await?;
        loop {
            if stream.read_buf(&mut come).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(mut told) = whole(&come)? {
                told.took = sent.elapsed();
                self.idle.borrow_mut().push(stream);
                return Ok(told);
            }
        }
    }
}

/// The answer, once it is here whole.
fn whole(come: &[u8]) -> io::Result<Option<Told>> {
    let Some(end) = come.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&come[..end]).to_ascii_lowercase();
    let header = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    };
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
    let (Some(status), Some(length)) = (status, length) else {
        return Err(io::Error::other("an answer without a status or a length"));
    };
    let body = &come[end + 4..];
    if body.len() < length {
        return Ok(None);
    }
    let said = header("cache-status").unwrap_or_default();
    let source = if !said.contains("; hit") {
        Source::Upstream
    } else if said.contains("detail=shared") {
        Source::Shared
    } else {
        Source::Memory
    };
    Ok(Some(Told {
        status,
        source,
        body: body.to_vec(),
        took: Duration::ZERO,
    }))
}

/// What callers were told.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) wrong: u64,
    pub(super) memory: Vec<Duration>,
    pub(super) shared: Vec<Duration>,
    pub(super) upstream: Vec<Duration>,
}

impl Tally {
    pub(super) fn count(&mut self, told: &Told, is_right: bool) {
        if !is_right {
            self.wrong += 1;
        }
        match told.source {
            Source::Memory => self.memory.push(told.took),
            Source::Shared => self.shared.push(told.took),
            Source::Upstream => self.upstream.push(told.took),
        }
    }

    pub(super) fn answers(&self) -> usize {
        self.memory.len() + self.shared.len() + self.upstream.len()
    }
}

/// In microseconds; none of nothing.
pub(super) fn p50_and_p99(latencies: &[Duration]) -> Option<(f64, f64)> {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| micros(quantile(&sorted, share));
    (!sorted.is_empty()).then(|| (at(0.5), at(0.99)))
}

/// Runs what calls, on a runtime of its own.
pub(super) fn run<T>(calls: impl Future<Output = Fallible<T>>) -> Fallible<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new()
        .block_on(&runtime, async { timeout(LIMIT, calls).await })
        .map_err(|_| format!("it takes longer than {LIMIT:?}"))?
}

/// Asks for every path once, so many at a time, each as soon as one before it is answered.
pub(super) fn ask_each(address: SocketAddr, paths: Vec<String>, abreast: u32) -> Fallible<Tally> {
    let (caller, paths) = (Rc::new(Caller::of(address)), Rc::new(paths));
    let (next, tally) = (Rc::new(Cell::new(0)), Rc::<RefCell<Tally>>::default());
    let result = Rc::clone(&tally);
    run(async move {
        let mut all = JoinSet::new();
        for _ in 0..abreast {
            let (caller, paths) = (Rc::clone(&caller), Rc::clone(&paths));
            let (next, tally) = (Rc::clone(&next), Rc::clone(&tally));
            all.spawn_local(async move {
                while let Some(path) = paths.get(next.replace(next.get() + 1)) {
                    let told = caller.ask(path).await?;
                    let body = of_path(path).unwrap_or_default();
                    let is_right = told.status == 200 && told.body == body.as_bytes();
                    tally.borrow_mut().count(&told, is_right);
                }
                io::Result::Ok(())
            });
        }
        while let Some(ended) = all.join_next().await {
            ended??;
        }
        Ok(())
    })?;
    Ok(result.take())
}
