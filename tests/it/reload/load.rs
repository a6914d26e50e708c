//! Tests a thousand reloads under load (catalogue 47).

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::{KEY, config_for, keys, start};
use crate::support::client::head;
use crate::support::process::FILE;
use crate::support::{
    Action, Origin, Process, RawClient, client::Response, step, step_json, within,
};

const RELOADS: usize = 1000;
const CLIENTS: usize = 6;
/// The pause between requests, so that the reloads get their share of a small machine.
const PAUSE: Duration = Duration::from_millis(2);
/// Invalid configurations. Every second reload reads one of these, or no file.
const BROKEN: [&str; 4] = [
    "",
    "[upstream]\nbase_url = \"http://127.",
    "[sever]\n",
    "\u{0}",
];

/// Holds a shell that sends the signal at every line, which is faster than one shell for each signal.
struct Signals {
    shell: Child,
    line: String,
}

impl Signals {
    fn to(process: &Process) -> Self {
        let mut command = Command::new("sh");
        let shell = command.stdin(Stdio::piped()).kill_on_drop(true).spawn();
        Self {
            shell: shell.unwrap(),
            line: format!("kill -HUP {}\n", process.id()),
        }
    }

    async fn send(&mut self) {
        let stdin = self.shell.stdin.as_mut().expect("it is piped");
        stdin.write_all(self.line.as_bytes()).await.unwrap();
    }
}

/// Holds a keep-alive connection.
struct Client(RawClient);

impl Client {
    async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.0.send(head("GET", path, "127.0.0.1", headers)).await;
        self.0.response().await
    }

    async fn reloads(&mut self) -> f64 {
        let metrics = self.get("/metrics", &[]).await;
        let of = |result| metrics.sample(&format!("stepgate_reloads_total{{result=\"{result}\"}}"));
        of("success") + of("failure")
    }
}

/// Returns the origin of the body. Each origin has statuses of its own.
fn origin_of(response: &Response, id: &str) -> char {
    let of = |status| step_json("thread_1", "run_1", id, status) == response.body;
    match response.status {
        200 if of("completed") || of("at_a") => 'a',
        200 if of("failed") || of("at_b") => 'b',
        status => panic!("{status} for {id}: {}", response.text()),
    }
}

/// Sends requests until `stop` is set: fetches, hits, and long polls of live steps.
async fn poll(mut client: Client, nth: usize, stop: Arc<AtomicBool>, served: Arc<AtomicUsize>) {
    let mut count = nth;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let id = format!("s{}", count / 16);
        let headers = match count % 16 {
            0 => &[("Cache-Control", "no-cache")][..],
            1 => &[("Prefer", "wait=1")],
            _ => &[],
        };
        origin_of(&client.get(&step(&id), headers).await, &id);
        served.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn c47_a_thousand_reloads_under_load() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let with = |origin, key: char| {
        let headers = format!("[upstream.headers]\nx-portkey-api-key = {{ file = \"{key}\" }}\n");
        config_for(origin, &headers)
    };
    let good = [('a', with(&a, 'a')), ('b', with(&b, 'b'))];
    let process = start(&good[0].1, &[("a", "key-a"), ("b", "key-b")]).await;
    let (stop, served) = (Arc::default(), Arc::default());
    let mut clients = JoinSet::new();
    for nth in 0..CLIENTS {
        let client = Client(RawClient::connect(process.data).await);
        clients.spawn(poll(client, nth, Arc::clone(&stop), Arc::clone(&served)));
    }
    let mut signals = Signals::to(&process);
    let mut admin = Client(RawClient::connect(process.admin).await);
    let mut judge = Client(RawClient::connect(process.data).await);
    let (mut memory, mut descriptors) = (0, 0);
    for nth in 0..RELOADS {
        let (expected, text) = &good[nth / 2 % 2];
        match nth / 2 % 5 {
            _ if nth % 2 == 0 => process.write(FILE, text),
            4 => std::fs::remove_file(process.path(FILE)).unwrap(),
            kind => process.write(FILE, BROKEN[kind]),
        }
        let (live_a, live_b) = [("completed", "failed"), ("at_a", "at_b")][nth / 10 % 2];
        a.set_status(live_a);
        b.set_status(live_b);
        signals.send().await;
        let counted = async {
            while admin.reloads().await < (nth + 1) as f64 {
                tokio::time::sleep(PAUSE).await;
            }
        };
        within("a reload", counted).await;
        let id = format!("j{}", nth / 8);
        let response = judge.get(&step(&id), &[]).await;
        assert_eq!(origin_of(&response, &id), *expected, "after reload {nth}");
        descriptors = descriptors.max(process.descriptors());
        if nth == RELOADS / 4 {
            memory = process.memory("VmHWM:");
        }
    }
    stop.store(true, Ordering::Relaxed);
    within("the clients", clients.join_all()).await;
    assert_eq!(process.reloads("success").await, RELOADS as f64 / 2.0);
    for (origin, key) in [(&a, "key-a"), (&b, "key-b")] {
        assert!(origin.count() > RELOADS / 10, "{} at {key}", origin.count());
        assert!(keys(origin).iter().all(|k| k == key), "{key}");
    }
    let grown = process.memory("VmHWM:") - memory;
    assert!(
        grown < 32 << 20,
        "memory grew by {} KiB in the last three quarters",
        grown >> 10
    );
    assert!(descriptors < 100, "{descriptors} open descriptors");
    let served = served.load(Ordering::Relaxed);
    assert!(served > RELOADS, "only {served} responses");
}

/// Returns the injected key of the fetch of `path`.
fn key_of(origin: &Origin, path: &str) -> String {
    let requests = origin.requests();
    let fetch = requests
        .iter()
        .find(|r| r.text().contains(&format!("{path} ")));
    let key = fetch.and_then(|r| r.all("x-portkey-api-key").pop());
    key.expect("the path was fetched")
}

#[tokio::test]
async fn c47_a_fetch_that_starts_beside_a_reload_is_not_stored_after_it() {
    const LATENCY: Duration = Duration::from_millis(4);
    let origin = Origin::start().await;
    origin.always(vec![Action::Pause(LATENCY), Action::Respond]);
    let process = start(&config_for(&origin, KEY), &[("key", "key-0")]).await;
    let mut signals = Signals::to(&process);
    let mut admin = Client(RawClient::connect(process.admin).await);
    let mut waiter = Client(RawClient::connect(process.data).await);
    let mut reader = Client(RawClient::connect(process.data).await);
    let stored = [("Cache-Control", "only-if-cached")];
    let (mut reloads, mut unstored) = (0.0, 0);
    for nth in 1..=200 {
        let key = format!("key-{nth}");
        process.write("key", &key);
        let path = step(&format!("s{nth}"));
        let request = head("GET", &path, "127.0.0.1", &[]);
        waiter.0.send(request).await;
        tokio::time::sleep(LATENCY * (nth % 4) / 3).await;
        signals.send().await;
        let counted = async {
            loop {
                let now = admin.reloads().await;
                if now > reloads {
                    break now;
                }
                tokio::time::sleep(PAUSE / 2).await;
            }
        };
        reloads = within("a reload", counted).await;
        // The count may include a late reload of the key before. A fetch with the new key shows that the new
        // key is in force.
        let in_force = async {
            for probe in 0.. {
                let path = step(&format!("probe{nth}_{probe}"));
                reader.get(&path, &[]).await;
                if key_of(&origin, &path) == key {
                    break;
                }
            }
        };
        within("the new key", in_force).await;
        let before = reader.get(&path, &stored).await.is_hit();
        assert_eq!(waiter.0.response().await.status, 200);
        let after = reader.get(&path, &stored).await.is_hit();
        if after && !before {
            let used = key_of(&origin, &path);
            assert_eq!(used, key, "stored by a fetch from before the reload");
        }
        unstored += usize::from(!after);
    }
    assert!(
        unstored > 0,
        "no reload came between the start of a fetch and its end"
    );
}
