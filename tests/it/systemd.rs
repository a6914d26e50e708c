//! Under a service manager that speaks `sd_notify(3)`: what it is told, and when. The manager here is a
//! datagram socket.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::{TcpListener, UnixDatagram, UnixStream};
use tokio::time::Instant;

use crate::support::process::Launch;
use crate::support::process::{FILE, folder, run};
use crate::support::{Action, Latch, Origin, Process, STEP, within};

struct Manager {
    socket: UnixDatagram,
    /// Kept apart from the folder of the process, which the process owns.
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = folder(&[]);
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { socket, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a gateway; `environment` is what it has besides the socket.
    async fn start(&self, toml: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        let socket = self.path("notify");
        let environment = [environment, &[("NOTIFY_SOCKET", socket.to_str().unwrap())]].concat();
        let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let arguments = [&listen[..], arguments].concat();
        Launch::new_in(folder(&[(FILE, toml)]), &arguments)
            .env(&environment)
            .start()
            .await
    }

    /// The lines of the next message.
    async fn told(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let received = within("a message", self.socket.recv(&mut buffer)).await;
        let text = std::str::from_utf8(&buffer[..received.unwrap()]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// That a reload begins: when, in microseconds of the system's monotonic clock.
    async fn told_of_a_reload(&self) -> u64 {
        let message = self.told().await;
        assert_eq!(message[0], "RELOADING=1", "{message:?}");
        let time = message[1].strip_prefix("MONOTONIC_USEC=");
        time.expect("the time").parse().unwrap()
    }
}

#[tokio::test]
async fn ready_is_said_when_the_listeners_answer_and_not_before() {
    // Takes connections and says nothing: the start waits for it a while.
    let redis = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", redis.local_addr().unwrap());
    let toml = format!("[cache.redis]\nurl = \"{url}\"\nprefix = \"p\"\n");
    let manager = Manager::new();
    let data = manager.path("data");
    let listen = format!("unix:{}", data.display());
    let arguments = ["--listen", &listen];
    let (process, ()) = tokio::join!(manager.start(&toml, &arguments, &[]), async {
        assert_eq!(manager.told().await, ["READY=1", "STATUS=serving"]);
        UnixStream::connect(&data).await.expect("it listens");
    });
    assert_eq!(process.get("/v1/nowhere", &[]).await.status, 404);
}

#[tokio::test]
async fn a_gateway_that_cannot_start_is_never_ready() {
    let manager = Manager::new();
    let socket = manager.path("notify");
    let environment = [("NOTIFY_SOCKET", socket.to_str().unwrap())];
    let (code, output) = run(&["serve"], &environment).await;
    assert_eq!(code, Some(78), "it has no credentials: {output}");
    assert!(manager.socket.try_recv(&mut [0; 64]).is_err());
}

#[tokio::test]
async fn an_ending_is_said_at_its_beginning_and_how_long_it_may_take() {
    let origin = Origin::start().await;
    let manager = Manager::new();
    let toml = format!(
        "[server]\ndrain_timeout = \"7s\"\n[upstream]\nbase_url = \"{}\"\n",
        origin.url()
    );
    let process = manager.start(&toml, &[], &[]).await;
    manager.told().await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut caller = process.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    process.terminate().await;
    let message = manager.told().await;
    gate.open();
    // Its own seven seconds, and five for what comes after them.
    let patience = "EXTEND_TIMEOUT_USEC=12000000";
    assert_eq!(message, ["STOPPING=1", "STATUS=draining", patience]);
    assert_eq!(caller.response().await.status, 200);
    let (status, output) = process.exit().await;
    assert_eq!(status.code(), Some(0), "{output}");
}

#[tokio::test]
async fn a_reload_is_said_to_begin_and_to_end_whatever_comes_of_it() {
    let manager = Manager::new();
    let toml = "[upstream]\nbase_url = \"http://127.0.0.1:1/v1\"\n";
    let process = manager.start(toml, &[], &[]).await;
    manager.told().await;

    let start = Instant::now();
    process.signal("HUP").await;
    let first = manager.told_of_a_reload().await;
    assert_eq!(manager.told().await, ["READY=1", "STATUS=serving"]);

    process.write(FILE, "no = 1");
    process.signal("HUP").await;
    let second = manager.told_of_a_reload().await;
    let apart = Duration::from_micros(second - first);
    assert!(!apart.is_zero() && apart < start.elapsed(), "{apart:?}");
    let message = manager.told().await;
    assert_eq!(message[0], "READY=1", "the old configuration serves");
    assert!(message[1].contains("not reloaded"), "{message:?}");

    process.write(FILE, toml);
    process.signal("HUP").await;
    manager.told_of_a_reload().await;
    assert_eq!(manager.told().await, ["READY=1", "STATUS=serving"]);
}

#[tokio::test]
async fn a_watchdog_hears_of_it_in_time() {
    const LIMIT: Duration = Duration::from_secs(1);
    let manager = Manager::new();
    let environment = [("WATCHDOG_USEC", "1000000"), ("TOKIO_WORKER_THREADS", "3")];
    let _process = manager.start("# empty\n", &[], &environment).await;
    assert_eq!(manager.told().await[0], "READY=1");
    let mut heard = Instant::now();
    for _ in 0..4 {
        assert_eq!(manager.told().await, ["WATCHDOG=1"]);
        assert!(heard.elapsed() < LIMIT, "{:?}", heard.elapsed());
        heard = Instant::now();
    }
}

#[tokio::test]
async fn a_manager_that_is_gone_is_no_reason_to_end() {
    let environment = [("NOTIFY_SOCKET", "/nowhere/notify")];
    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let process = Launch::new_in(folder(&[]), &listen)
        .env(&environment)
        .start()
        .await;
    assert_eq!(process.get("/v1/nowhere", &[]).await.status, 404);
    process.terminate().await;
    let (status, output) = process.exit().await;
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("service manager"), "{output}");
}
