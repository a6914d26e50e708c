//! The notifications to a service manager by `sd_notify(3)`. The service manager is a datagram socket here.

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
    /// Separate from the directory of the process, which the process owns.
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = folder(&[]);
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Self { socket, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts a gateway with `environment` and the socket.
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

    /// Returns the lines of the next message.
    async fn message(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let received = within("a message", self.socket.recv(&mut buffer)).await;
        let text = std::str::from_utf8(&buffer[..received.unwrap()]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Expects the begin of a reload, and returns its time in microseconds of the monotonic clock.
    async fn reloading(&self) -> u64 {
        let message = self.message().await;
        assert_eq!(message[0], "RELOADING=1", "{message:?}");
        let time = message[1].strip_prefix("MONOTONIC_USEC=");
        time.expect("the time").parse().unwrap()
    }
}

#[tokio::test]
async fn ready_is_sent_once_the_listeners_accept() {
    // This Redis accepts connections and never responds, which delays the start.
    let redis = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", redis.local_addr().unwrap());
    let toml = format!("[cache.redis]\nurl = \"{url}\"\nprefix = \"p\"\n");
    let manager = Manager::new();
    let data = manager.path("data");
    let listen = format!("unix:{}", data.display());
    let arguments = ["--listen", &listen];
    let (process, ()) = tokio::join!(manager.start(&toml, &arguments, &[]), async {
        assert_eq!(manager.message().await, ["READY=1", "STATUS=serving"]);
        UnixStream::connect(&data)
            .await
            .expect("the listener accepts");
    });
    assert_eq!(process.get("/v1/nowhere", &[]).await.status, 404);
}

#[tokio::test]
async fn gateway_that_cannot_start_sends_nothing() {
    let manager = Manager::new();
    let socket = manager.path("notify");
    let environment = [("NOTIFY_SOCKET", socket.to_str().unwrap())];
    let (code, output) = run(&["serve"], &environment).await;
    assert_eq!(code, Some(78), "no credentials: {output}");
    assert!(manager.socket.try_recv(&mut [0; 64]).is_err());
}

#[tokio::test]
async fn stopping_is_sent_with_the_time_that_the_drain_may_take() {
    let origin = Origin::start().await;
    let manager = Manager::new();
    let toml = format!(
        "[server]\ndrain_timeout = \"7s\"\n[upstream]\nbase_url = \"{}\"\n",
        origin.url()
    );
    let process = manager.start(&toml, &[], &[]).await;
    manager.message().await;
    let latch = Latch::closed();
    origin.next(vec![Action::Wait(latch.clone()), Action::Respond]);
    let mut client = process.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    process.terminate().await;
    let message = manager.message().await;
    latch.open();
    // The drain timeout of 7 s, and 5 s for the rest of the shutdown.
    let timeout = "EXTEND_TIMEOUT_USEC=12000000";
    assert_eq!(message, ["STOPPING=1", "STATUS=draining", timeout]);
    assert_eq!(client.response().await.status, 200);
    let (status, output) = process.exit().await;
    assert_eq!(status.code(), Some(0), "{output}");
}

#[tokio::test]
async fn reload_is_sent_with_its_begin_and_end_even_if_it_fails() {
    let manager = Manager::new();
    let toml = "[upstream]\nbase_url = \"http://127.0.0.1:1/v1\"\n";
    let process = manager.start(toml, &[], &[]).await;
    manager.message().await;

    let start = Instant::now();
    process.signal("HUP").await;
    let first = manager.reloading().await;
    assert_eq!(manager.message().await, ["READY=1", "STATUS=serving"]);

    process.write(FILE, "no = 1");
    process.signal("HUP").await;
    let second = manager.reloading().await;
    let interval = Duration::from_micros(second - first);
    assert!(
        !interval.is_zero() && interval < start.elapsed(),
        "{interval:?}"
    );
    let message = manager.message().await;
    assert_eq!(
        message[0], "READY=1",
        "the old configuration is still in use"
    );
    assert!(message[1].contains("not reloaded"), "{message:?}");

    process.write(FILE, toml);
    process.signal("HUP").await;
    manager.reloading().await;
    assert_eq!(manager.message().await, ["READY=1", "STATUS=serving"]);
}

#[tokio::test]
async fn watchdog_is_notified_within_its_limit() {
    const LIMIT: Duration = Duration::from_secs(1);
    let manager = Manager::new();
    let environment = [("WATCHDOG_USEC", "1000000"), ("TOKIO_WORKER_THREADS", "3")];
    let _process = manager.start("# empty\n", &[], &environment).await;
    assert_eq!(manager.message().await[0], "READY=1");
    let mut last = Instant::now();
    for _ in 0..4 {
        assert_eq!(manager.message().await, ["WATCHDOG=1"]);
        assert!(last.elapsed() < LIMIT, "{:?}", last.elapsed());
        last = Instant::now();
    }
}

#[tokio::test]
async fn missing_service_manager_does_not_stop_the_gateway() {
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
