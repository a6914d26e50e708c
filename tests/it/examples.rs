//! `config/examples/`: each file does what its comment says, and each of its rules works.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use stepgate::Server;
use stepgate::config::{Address, Config, Flags, Sources};
use stepgate::server::Workers;

use crate::support::origin::Request;
use crate::support::{Action, Origin, client, client::Response, process, respond, within};

const FOLDER: &str = "config/examples";

/// Holds what the gateway sends with an example, and where to.
struct Example {
    file: &'static str,
    base_url: &'static str,
    /// Holds all injected headers. [`value`] gives the value of a variable.
    headers: &'static [(&'static str, &'static str)],
    query: &'static str,
}

const PORTKEY: &str = "https://api.portkey.ai/v1";
const BETA: (&str, &str) = ("openai-beta", "assistants=v2");
const FRESH: (&str, &str) = ("x-portkey-cache-force-refresh", "true");
const KEY: (&str, &str) = ("x-portkey-api-key", "canary-PORTKEY_API_KEY");
const VIRTUAL_KEY: (&str, &str) = (
    "x-portkey-virtual-key",
    "canary-PORTKEY_PROVIDER_VIRTUAL_KEY",
);

const EXAMPLES: [Example; 7] = [
    Example {
        file: "azure.toml",
        base_url: "https://your-resource.openai.azure.com/openai",
        headers: &[("api-key", "canary-AZURE_OPENAI_API_KEY"), BETA],
        query: "?api-version=2025-04-01-preview",
    },
    Example {
        file: "portkey-bearer.toml",
        base_url: "https://aigw.portkey.ai/v1",
        headers: &[
            ("authorization", "Bearer canary-PORTKEY_AUTHORIZATION"),
            ("x-portkey-provider", "@openai-prod"),
            BETA,
            FRESH,
        ],
        query: "",
    },
    Example {
        file: "portkey-config.toml",
        base_url: PORTKEY,
        headers: &[KEY, ("x-portkey-config", "pc-steps-1a2b3c"), BETA, FRESH],
        query: "",
    },
    Example {
        file: "portkey-provider.toml",
        base_url: PORTKEY,
        headers: &[KEY, ("x-portkey-provider", "@openai-prod"), BETA, FRESH],
        query: "",
    },
    Example {
        file: "portkey-self-hosted.toml",
        base_url: "http://127.0.0.1:8787/v1",
        headers: &[
            ("authorization", "Bearer canary-PROVIDER_AUTHORIZATION"),
            ("x-portkey-provider", "openai"),
            BETA,
            FRESH,
        ],
        query: "",
    },
    Example {
        file: "portkey-virtual-key.toml",
        base_url: PORTKEY,
        headers: &[KEY, VIRTUAL_KEY, BETA, FRESH],
        query: "",
    },
    Example {
        file: "responses-and-batches.toml",
        base_url: PORTKEY,
        headers: &[KEY, VIRTUAL_KEY, BETA, FRESH],
        query: "",
    },
];

/// Describes a resource by its API, independently of its rule.
struct Resource {
    rule: &'static str,
    path: &'static str,
    /// Holds a body in which `STATUS` stands for the status.
    body: &'static str,
    live: &'static [&'static str],
    terminal: &'static [&'static str],
}

const RESOURCES: [Resource; 3] = [
    Resource {
        rule: "run-step",
        path: "/threads/thread_1/runs/run_1/steps/step_STATUS",
        body: r#"{"id": "step_STATUS", "object": "thread.run.step", "run_id": "run_1",
            "thread_id": "thread_1", "status": "STATUS"}"#,
        live: &["in_progress"],
        terminal: &["completed", "failed", "cancelled", "expired"],
    },
    Resource {
        rule: "response",
        path: "/responses/resp_STATUS",
        body: r#"{"id": "resp_STATUS", "object": "response", "background": true,
            "status": "STATUS", "output": [{"id": "msg_1", "status": "completed"}]}"#,
        live: &["queued", "in_progress"],
        terminal: &["completed", "failed", "cancelled", "incomplete"],
    },
    Resource {
        rule: "batch",
        path: "/batches/batch_STATUS",
        body: r#"{"id": "batch_STATUS", "object": "batch", "endpoint": "/v1/responses",
            "status": "STATUS", "request_counts": {"completed": 1}}"#,
        live: &["validating", "in_progress", "finalizing", "cancelling"],
        terminal: &["completed", "failed", "cancelled", "expired"],
    },
];

impl Example {
    fn path(&self) -> String {
        format!("{FOLDER}/{}", self.file)
    }

    /// Returns the variables that the file's comment lists.
    fn variables(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path()).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("# Variables: "));
        let line =
            line.unwrap_or_else(|| panic!("{} has no comment that lists its variables", self.file));
        let words = line.split([' ', ',', '.']);
        let named = words.filter(|word| word.contains('_')).map(str::to_owned);
        named.collect()
    }

    /// Loads the example with these variables, on any port. `upstream` replaces its base URL.
    fn load(&self, variables: &[String], upstream: Option<String>) -> Config {
        let any = "127.0.0.1:0";
        let loaded = Config::load(&Sources {
            file: Some(self.path().into()),
            flags: Flags {
                listen: vec![any.to_owned()],
                admin: Some(any.to_owned()),
                upstream,
                log_format: None,
            },
            env: &|name| {
                let is_set = variables.iter().any(|variable| variable == name);
                is_set.then(|| value(name))
            },
        });
        loaded.unwrap_or_else(|problems| panic!("{}:\n{problems}", self.file))
    }
}

/// Returns the test value of a variable.
fn value(variable: &str) -> String {
    let scheme = if variable.ends_with("AUTHORIZATION") {
        "Bearer "
    } else {
        ""
    };
    format!("{scheme}canary-{variable}")
}

#[test]
fn every_example_is_tested() {
    let files = fs::read_dir(FOLDER).unwrap();
    let files: BTreeSet<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    let tested: BTreeSet<String> = EXAMPLES.iter().map(|e| e.file.to_owned()).collect();
    assert_eq!(files, tested);
}

#[tokio::test]
async fn check_accepts_each_example_only_with_its_variables() {
    for example in &EXAMPLES {
        let variables = example.variables();
        let pairs: Vec<(&str, String)> = variables.iter().map(|v| (&**v, value(v))).collect();
        let set: Vec<(&str, &str)> = pairs.iter().map(|(name, v)| (*name, &**v)).collect();
        let (code, printed) = process::run(&["check", "--config", &example.path()], &set).await;
        assert_eq!(code, Some(0), "{printed}");
        let base_url = format!("base_url = {:?}", example.base_url);
        assert!(printed.contains(&base_url), "{printed}");
        assert!(!printed.contains("canary"), "{printed}");

        for left_out in &variables {
            let rest: Vec<_> = set
                .iter()
                .filter(|(name, _)| name != left_out)
                .copied()
                .collect();
            let (code, output) = process::run(&["check", "--config", &example.path()], &rest).await;
            assert_eq!(code, Some(78), "{}: {output}", example.file);
            assert!(output.contains(left_out), "{output}");
        }
    }
}

#[tokio::test]
async fn each_rule_of_each_example_fetches_live_and_stores_final_resources() {
    for example in &EXAMPLES {
        let base_path = example
            .load(&example.variables(), None)
            .upstream
            .base_url
            .path;
        let origin = Origin::start().await;
        let upstream = format!("http://{}{base_path}", origin.address);
        let config = example.load(&example.variables(), Some(upstream));
        let names: Vec<String> = config.rules.iter().map(|r| r.name().to_owned()).collect();
        let workers = Workers::current();
        let started = within("the start", Box::pin(Server::start(config, &workers)));
        let server = started.await.unwrap();
        let Address::Tcp(address) = server.data()[0].clone() else {
            panic!("a socket");
        };
        for name in names {
            let resource = RESOURCES.iter().find(|r| r.rule == name);
            let resource = resource.unwrap_or_else(|| panic!("no resource for the rule {name}"));
            for status in resource.live {
                for _ in 0..2 {
                    let response = request(&origin, address, resource, status).await;
                    assert!(
                        !response.is_hit() && !response.is_stored(),
                        "{name} {status}"
                    );
                    example.assert_sent(&origin.last(), &base_path, resource, status);
                }
            }
            for status in resource.terminal {
                let fetched = request(&origin, address, resource, status).await;
                assert!(
                    fetched.is_stored(),
                    "{name} {status}: {}",
                    fetched.everything()
                );
                example.assert_sent(&origin.last(), &base_path, resource, status);
                let count = origin.count();
                let stored = request(&origin, address, resource, status).await;
                assert!(stored.is_hit(), "{name} {status}: {}", stored.everything());
                assert_eq!(stored.body, fetched.body);
                assert_eq!(origin.count(), count);
            }
        }
    }
}

/// Requests a resource with this status, as a client with its own credentials.
async fn request(
    origin: &Origin,
    address: SocketAddr,
    resource: &Resource,
    status: &str,
) -> Response {
    let body = resource.body.replace("STATUS", status);
    origin.always(vec![Action::Send(respond("200 OK", &[], &body))]);
    let path = format!("/v1{}", resource.path.replace("STATUS", status));
    let client_headers = [("authorization", "Bearer own"), ("api-key", "own")];
    let response = client::send(address, "GET", &path, &client_headers)
        .await
        .unwrap();
    assert_eq!(response.status, 200, "{path}: {}", response.everything());
    assert_eq!(response.text(), body);
    response
}

impl Example {
    /// Asserts that the request has the example's headers, each once, and no others that matter.
    fn assert_sent(&self, request: &Request, base_path: &str, resource: &Resource, status: &str) {
        let path = resource.path.replace("STATUS", status);
        let target = format!("{base_path}{path}{}", self.query);
        assert_eq!(request.target(), target, "{}", self.file);
        let text = request.text();
        let lines = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let sent: BTreeSet<(&str, &str)> = lines
            .filter(|(name, _)| !["accept", "accept-encoding", "host"].contains(name))
            .collect();
        let injected: BTreeSet<(&str, &str)> = self.headers.iter().copied().collect();
        assert_eq!(sent, injected, "{}", self.file);
        for (name, _) in self.headers {
            assert_eq!(request.all(name).len(), 1, "{}: {name}", self.file);
        }
    }
}
