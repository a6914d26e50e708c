//! The gateway as a process of its own: for signals, exit codes, logs and memory.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::gateway::ENVIRONMENT;
use super::{Answer, Origin, raw, within};

pub(crate) struct Process {
    child: Child,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    output: Arc<watch::Sender<String>>,
    readers: JoinSet<()>,
    _folder: TempDir,
}

impl Process {
    /// In front of `origin`, with this configuration file and this log filter.
    pub(crate) async fn start(origin: &Origin, toml: &str, filter: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stepgate.toml");
        // A file without a word is refused as half written.
        std::fs::write(&file, format!("# {}\n{toml}", file!())).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_stepgate"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--admin", "127.0.0.1:0", "--upstream", &origin.url()])
            .arg("--config")
            .arg(&file)
            .env_clear()
            .envs(ENVIRONMENT)
            .env("STEPGATE_LOG", filter)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = Arc::new(watch::Sender::default());
        let mut readers = JoinSet::new();
        readers.spawn(collect(child.stdout.take().unwrap(), Arc::clone(&output)));
        readers.spawn(collect(child.stderr.take().unwrap(), Arc::clone(&output)));
        let both = async {
            let data = listening(&output, "on=data").await;
            (data, listening(&output, "on=admin").await)
        };
        let (data, admin) = tokio::select! {
            both = both => both,
            status = child.wait() => panic!("{status:?} at its start: {}", output.borrow().clone()),
        };
        Self {
            child,
            data,
            admin,
            output,
            readers,
            _folder: folder,
        }
    }

    /// Both streams, as far as they came.
    pub(crate) fn output(&self) -> String {
        self.output.borrow().clone()
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        raw::ask(self.data, "GET", path, headers).await.unwrap()
    }

    fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    pub(crate) async fn terminate(&self) {
        self.signal("TERM").await;
    }

    pub(crate) async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.id());
        let status = Command::new("sh").args(["-c", &kill]).status().await;
        assert!(status.unwrap().success(), "{kill}");
    }

    /// Its exit, and both streams whole.
    pub(crate) async fn exit(mut self) -> (ExitStatus, String) {
        let status = within("the process to exit", self.child.wait()).await;
        let all_read = async { while self.readers.join_next().await.is_some() {} };
        within("the end of its output", all_read).await;
        (status.unwrap(), self.output())
    }

    /// `VmRSS` or `VmHWM`, in bytes.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(field));
        let number = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        number.expect("a field in kB") * 1024
    }
}

async fn collect(stream: impl AsyncRead + Unpin, output: Arc<watch::Sender<String>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        output.send_modify(|all| {
            all.push_str(&line);
            all.push('\n');
        });
    }
}

/// The address in the line that says so.
async fn listening(output: &watch::Sender<String>, on: &str) -> SocketAddr {
    let find = |text: &str| {
        let mut lines = text.lines();
        let line = lines.find(|l| l.contains("listening") && l.contains(on))?;
        let address = line.split("address=").nth(1)?.split_whitespace().next()?;
        address.parse().ok()
    };
    let mut seen = output.subscribe();
    let said = within("a listening line", seen.wait_for(|t| find(t).is_some())).await;
    find(&said.unwrap()).expect("it was just found")
}
