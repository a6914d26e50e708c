//! Tests reloads of a process (catalogue 47): SIGHUP, and secret files that change.

mod broken;
mod changes;
mod in_flight;
mod load;
mod pipes;
mod secrets;
mod signals;
mod tokens;

use crate::support::process::Launch;
use crate::support::process::{FILE, folder};
use crate::support::{Origin, Process, client, client::Response};

/// Injects one secret from the file `key`.
const KEY: &str = "[upstream.headers]\nx-portkey-api-key = { file = \"key\" }\n";

/// Flags for both listeners, so that the configuration file does not set them.
const LISTEN: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

/// Returns a configuration in front of `origin`. `rest` continues the table `[upstream]`.
fn config_for(origin: &Origin, rest: &str) -> String {
    format!("[upstream]\nbase_url = \"{}\"\n{rest}", origin.url())
}

/// Starts a gateway with this configuration and these files beside it.
async fn start(toml: &str, files: &[(&str, &str)]) -> Process {
    let files = [&[(FILE, toml)], files].concat();
    Launch::new_in(folder(&files), &LISTEN).start().await
}

/// Returns the values of the injected key, in the order of the requests.
fn keys(origin: &Origin) -> Vec<String> {
    let requests = origin.requests();
    let keys = requests.iter().flat_map(|r| r.all("x-portkey-api-key"));
    keys.collect()
}

/// Returns when every request sent before has been read, because later requests were answered.
async fn wait_until_all_read(process: &Process) {
    for _ in 0..3 {
        assert_eq!(process.get("/v1/nowhere", &[]).await.status, 404);
    }
}

/// Sends a GET with this client token.
async fn get_with_token(process: &Process, path: &str, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    process.get(path, &[("Authorization", &bearer)]).await
}

/// Sends a GET with this token to the admin listener.
async fn get_admin(process: &Process, path: &str, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    client::send(process.admin, "GET", path, &headers)
        .await
        .unwrap()
}
