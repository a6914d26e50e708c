//! Reload and rotation, on the real process: SIGHUP, and secret files that change (DESIGN sections
//! 3, 5 and 8, catalogue 47).

mod broken;
mod changes;
mod flights;
mod load;
mod pipes;
mod secrets;
mod signals;
mod tokens;

use crate::support::process::Launch;
use crate::support::process::{FILE, folder};
use crate::support::{Origin, Process, client, client::Response};

/// One injected secret, from the file `key`.
const KEY: &str = "[upstream.headers]\nx-portkey-api-key = { file = \"key\" }\n";

/// Both listeners, where the configuration is not to move them.
const LISTEN: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

/// A configuration that points at this origin; `rest` goes on in `[upstream]`.
fn toward(origin: &Origin, rest: &str) -> String {
    format!("[upstream]\nbase_url = \"{}\"\n{rest}", origin.url())
}

/// On this configuration, with these files beside it.
async fn start(toml: &str, files: &[(&str, &str)]) -> Process {
    let files = [&[(FILE, toml)], files].concat();
    Launch::new_in(folder(&files), &LISTEN).start().await
}

/// The values of the injected key in the order in which they came.
fn keys(origin: &Origin) -> Vec<String> {
    let requests = origin.requests();
    let keys = requests.iter().flat_map(|r| r.all("x-portkey-api-key"));
    keys.collect()
}

/// Returns when what was sent to it before must have been read: later questions were answered.
async fn has_read_all(process: &Process) {
    for _ in 0..3 {
        assert_eq!(process.get("/v1/nowhere", &[]).await.status, 404);
    }
}

async fn with_token(process: &Process, path: &str, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    process.get(path, &[("Authorization", &bearer)]).await
}

/// Asks the admin listener with this token.
async fn admin(process: &Process, path: &str, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    client::send(process.admin, "GET", path, &headers)
        .await
        .unwrap()
}
