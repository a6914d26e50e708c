//! The gateway as a process of its own: for signals, exit codes, logs and memory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::gateway::ENVIRONMENT;
use super::{Answer, Origin, Raw, raw, until, within};

const ANY: &str = "127.0.0.1:0";

const PROGRAM: &str = env!("CARGO_BIN_EXE_stepgate");

/// The configuration file, in the folder of the process.
pub(crate) const FILE: &str = "stepgate.toml";

pub(crate) struct Process {
    child: Child,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    output: Arc<watch::Sender<String>>,
    readers: JoinSet<()>,
    folder: TempDir,
}

impl Process {
    /// In front of `origin`, with this configuration file and this log filter.
    pub(crate) async fn start(origin: &Origin, toml: &str, filter: &str) -> Self {
        let program = Command::new(PROGRAM);
        Self::run(program, &origin.url(), ANY, toml, filter).await
    }

    /// Where another one listened before.
    pub(crate) async fn start_at(origin: &Origin, listen: &str, toml: &str) -> Self {
        Self::run(Command::new(PROGRAM), &origin.url(), listen, toml, "info").await
    }

    /// With so many descriptors, and no way to more.
    pub(crate) async fn start_with_descriptors(origin: &Origin, limit: usize, toml: &str) -> Self {
        let mut shell = Command::new("/bin/sh");
        let limited = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        shell.args(["-c", &limited, PROGRAM]);
        Self::run(shell, &origin.url(), ANY, toml, "info").await
    }

    /// With so many worker threads, whatever the machine has.
    pub(crate) async fn start_with_workers(origin: &Origin, workers: usize, toml: &str) -> Self {
        let mut shell = Command::new("/bin/sh");
        let prepared = format!("TOKIO_WORKER_THREADS={workers} exec \"$0\" \"$@\"");
        shell.args(["-c", &prepared, PROGRAM]);
        Self::run(shell, &origin.url(), ANY, toml, "info").await
    }

    /// With this in its environment, too.
    pub(crate) async fn start_with_env(upstream: &str, toml: &str, env: &[(&str, &str)]) -> Self {
        Self::run(with_env(env), upstream, ANY, toml, "info").await
    }

    /// The same, in this folder.
    pub(crate) async fn start_in_with_env(
        folder: TempDir,
        arguments: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        Self::run_in(with_env(env), folder, arguments, "info").await
    }

    /// In front of any URL.
    pub(crate) async fn start_before(upstream: &str, toml: &str, filter: &str) -> Self {
        Self::run(Command::new(PROGRAM), upstream, ANY, toml, filter).await
    }

    /// In this folder, with the configuration file that is in it, if one is.
    pub(crate) async fn start_in(folder: TempDir, arguments: &[&str], filter: &str) -> Self {
        Self::run_in(Command::new(PROGRAM), folder, arguments, filter).await
    }

    /// The same, with this in its environment besides.
    pub(crate) async fn start_with(
        folder: TempDir,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        // What an environment cleared later does not take away.
        let mut program = Command::new("/usr/bin/env");
        let settings = environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        program.args(settings).arg(PROGRAM);
        Self::run_in(program, folder, arguments, "info").await
    }

    async fn run(program: Command, upstream: &str, listen: &str, toml: &str, filter: &str) -> Self {
        // A file without a word is refused as half written.
        let folder = folder(&[(FILE, &format!("# {}\n{toml}", file!()))]);
        let arguments = ["--listen", listen, "--admin", ANY, "--upstream", upstream];
        Self::run_in(program, folder, &arguments, filter).await
    }

    async fn run_in(
        mut program: Command,
        folder: TempDir,
        arguments: &[&str],
        filter: &str,
    ) -> Self {
        program.arg("serve");
        let file = folder.path().join(FILE);
        if file.exists() {
            program.arg("--config").arg(&file);
        }
        let mut child = program
            .args(arguments)
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
            let data = listening(&output, "data").await;
            (data, listening(&output, "admin").await)
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
            folder,
        }
    }

    /// Both streams, as far as they came.
    pub(crate) fn output(&self) -> String {
        self.output.borrow().clone()
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        raw::ask(self.data, "GET", path, headers).await.unwrap()
    }

    /// A file of its folder: the configuration, or a secret that it names.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes such a file, in place.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Another configuration file, and the signal to read it; returns when it has been read.
    pub(crate) async fn configure(&self, toml: &str) {
        self.write(FILE, toml);
        self.reload().await;
    }

    /// The signal, and the wait until one more reload is counted, whatever its result.
    pub(crate) async fn reload(&self) {
        let counted = async || self.reloads("success").await + self.reloads("failure").await;
        let before = counted().await;
        self.signal("HUP").await;
        until("a reload", async || counted().await > before).await;
    }

    /// How many reloads had this result.
    pub(crate) async fn reloads(&self, result: &str) -> f64 {
        let sample = format!("stepgate_reloads_total{{result=\"{result}\"}}");
        self.metric(&sample).await
    }

    /// The sample of that name and these labels; 0 where there is none.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let metrics = raw::ask(self.admin, "GET", "/metrics", &[]).await;
        metrics.unwrap().sample(sample)
    }

    /// What `/status` says.
    pub(crate) async fn status(&self) -> serde_json::Value {
        let status = raw::ask(self.admin, "GET", "/status", &[]).await;
        status.unwrap().json()
    }

    pub(crate) fn id(&self) -> u32 {
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

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.data).await
    }

    /// Asks and goes on: the answer is read from the connection later.
    pub(crate) async fn question(&self, path: &str, headers: &[(&str, &str)]) -> Raw {
        let mut raw = self.connect().await;
        raw.send(raw::head("GET", path, "127.0.0.1", headers)).await;
        raw
    }

    /// Waits until so many connections are open on the data listener.
    pub(crate) async fn has_open(&self, connections: usize) {
        let open = async || self.metric("stepgate_connections").await == connections as f64;
        until("connections to come or go", open).await;
    }

    /// The time that processors have spent on it so far.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // After the name in parentheses; utime and stime are the 14th and 15th of all fields.
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
        let ticks: u64 = fields
            .skip(11)
            .take(2)
            .map(|f| f.parse::<u64>().unwrap())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// `VmRSS` or `VmHWM`, in bytes.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(field));
        let number = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        number.expect("a field in kB") * 1024
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        open.unwrap().count()
    }
}

/// The program, with this in its environment, too.
fn with_env(env: &[(&str, &str)]) -> Command {
    let mut program = Command::new("/usr/bin/env");
    program.args(env.iter().map(|(name, value)| format!("{name}={value}")));
    program.arg(PROGRAM);
    program
}

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// Runs it to its end, with this environment alone: exit code, both streams.
pub(crate) async fn run(arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .env_clear()
        .envs(env.iter().copied());
    let ended = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = within("the program's end", ended).await.unwrap();
    let streams = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&streams).into_owned();
    (output.status.code(), text)
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

/// The address in the line that says so, text or JSON.
async fn listening(output: &watch::Sender<String>, on: &str) -> SocketAddr {
    let marks = [format!("on={on} "), format!("\"on\":\"{on}\"")];
    let find = |text: &str| {
        let mut lines = text.lines().filter(|line| line.contains("listening"));
        let line = lines.find(|line| marks.iter().any(|mark| line.contains(mark)))?;
        let address = line.split_once("address")?.1;
        let address = address.trim_start_matches(['=', ':', '"']);
        address.split([' ', '"']).next()?.parse().ok()
    };
    let mut seen = output.subscribe();
    let said = within("a listening line", seen.wait_for(|t| find(t).is_some())).await;
    find(&said.unwrap()).expect("it was just found")
}
