//! The gateway: the real binary, a process of its own, so that memory, descriptors and log are its
//! own, too.

use std::collections::VecDeque;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::caller::{Got, Line};
use crate::ledger::{Case, Ledger, Verdict, shows_secret};

/// A start, a scrape, an end: never so long on a machine that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// Log lines that are kept, for whoever looks for the cause of something.
const KEPT: usize = 60;

pub(crate) struct Gateway {
    child: Child,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<VecDeque<String>>>,
    _readers: JoinSet<()>,
    folder: TempDir,
}

impl Gateway {
    /// Starts it with this configuration; `files` lie beside it, `env` is all of its environment.
    pub(crate) async fn start(
        toml: &str,
        files: &[(&str, &str)],
        env: &[(&str, &str)],
        ledger: &Ledger,
    ) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text)?;
        }
        let file = folder.path().join("stepgate.toml");
        std::fs::write(&file, toml)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_stepgate"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--admin", "127.0.0.1:0", "--config"])
            .arg(&file)
            .env_clear()
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let log = Arc::<Mutex<VecDeque<String>>>::default();
        let (addresses, mut found) = watch::channel((None, None));
        let addresses = Arc::new(addresses);
        let mut readers = JoinSet::new();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (out, err) = (out.ok_or("no stdout")?, err.ok_or("no stderr")?);
        let collect = |stream| Reader {
            stream,
            log: Arc::clone(&log),
            addresses: Arc::clone(&addresses),
            ledger: ledger.clone(),
        };
        readers.spawn(collect(Box::new(out) as Box<_>).run());
        readers.spawn(collect(Box::new(err) as Box<_>).run());
        let both = found.wait_for(|both| both.0.is_some() && both.1.is_some());
        let both = tokio::select! {
            both = timeout(PATIENCE, both) => both,
            status = child.wait() => {
                return Err(format!("the gateway ended at its start: {status:?} {log:?}").into());
            }
        };
        let (Some(data), Some(admin)) = *both?? else {
            return Err("no address".into());
        };
        Ok(Self {
            child,
            data,
            admin,
            log,
            _readers: readers,
            folder,
        })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether it could be sent.
    pub(crate) async fn signal(&self, name: &str) -> bool {
        let kill = format!("kill -{name} {}", self.id());
        let status = Command::new("sh").args(["-c", &kill]).status().await;
        status.is_ok_and(|status| status.success())
    }

    /// An answer of the admin listener.
    pub(crate) async fn admin(&self, method: &str, path: &str) -> Got {
        match Line::connect(self.admin).await {
            Ok(mut line) => match line.send(method, path, &[("connection", "close")]).await {
                Ok(()) => line.answer(method == "HEAD", PATIENCE).await,
                Err(error) => Got::Closed(error.to_string()),
            },
            Err(error) => Got::Closed(error.to_string()),
        }
    }

    /// `/status`, if it answers.
    pub(crate) async fn status(&self) -> Option<serde_json::Value> {
        match self.admin("GET", "/status").await {
            Got::Whole(answer) => serde_json::from_slice(&answer.body).ok(),
            Got::Cut(_) | Got::Closed(_) | Got::Late(_) | Got::Garbled(..) => None,
        }
    }

    /// `VmRSS`, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let number = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0) * 1024
    }

    pub(crate) fn descriptors(&self) -> u64 {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        entries.map_or(0, |entries| u64::try_from(entries.count()).unwrap_or(0))
    }

    /// Its last words.
    pub(crate) fn last_lines(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Ends it as a supervisor would; whether it went well.
    pub(crate) async fn end(mut self) -> bool {
        if !self.signal("TERM").await {
            return false;
        }
        let ended = timeout(PATIENCE, self.child.wait()).await;
        matches!(ended, Ok(Ok(status)) if status.success())
    }
}

/// Reads one of its streams: finds the addresses, and secrets that must not be there.
struct Reader {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    log: Arc<Mutex<VecDeque<String>>>,
    addresses: Arc<watch::Sender<(Option<SocketAddr>, Option<SocketAddr>)>>,
    ledger: Ledger,
}

impl Reader {
    async fn run(self) {
        let mut lines = BufReader::new(self.stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if shows_secret(line.as_bytes()) {
                let case = Case {
                    seed: 0,
                    number: 0,
                    kind: "log".to_owned(),
                };
                let why = "a secret in the log".to_owned();
                self.ledger
                    .note(&case, &Verdict::Leaked(why), line.as_bytes());
            }
            if line.contains("listening") {
                let address = line
                    .split("address=")
                    .nth(1)
                    .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
                self.addresses.send_modify(|both| {
                    if line.contains("on=data") {
                        both.0 = address;
                    } else {
                        both.1 = address;
                    }
                });
            }
            let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == KEPT {
                log.pop_front();
            }
            log.push_back(line);
        }
    }
}
