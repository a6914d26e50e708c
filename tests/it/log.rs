//! Tests the log of a process: one line for each fetch and one for each request, with the same fields as
//! text and as JSON.

mod lines;

use serde_json::Value;

use crate::support::gateway::{BILLING_TOKEN, ENVIRONMENT, TWO_CLIENTS};
use crate::support::process::{self, folder};
use crate::support::{Action, Origin, Process, STEP, until};
use lines::{Line, json, text};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const LIST: &str = "/v1/threads/thread_1/runs/run_1/steps";

/// The fields of a line about a fetch, in their order.
const FETCH_FIELDS: [&str; 8] = [
    "rule",
    "client",
    "ids",
    "status",
    "not_stored",
    "error",
    "ms",
    "trace_id",
];
/// The fields of a line about a request, in their order.
const REQUEST_FIELDS: [&str; 12] = [
    "outcome",
    "rule",
    "client",
    "ids",
    "path",
    "status",
    "not_stored",
    "code",
    "error",
    "ms",
    "fetch_ms",
    "trace_id",
];

fn settings(format: &str, more: &str) -> String {
    format!("{TWO_CLIENTS}[log]\nformat = {format:?}\n{more}")
}

/// Runs a gateway through a live step, a final one, a hit, a rejected request and a lost fetch. Returns
/// its output after it has ended.
async fn run_gateway(toml: &str, filter: &str) -> String {
    let origin = Origin::start().await;
    let process = Process::start(&origin, toml, filter).await;
    let bearer = format!("Bearer {BILLING_TOKEN}");
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [
        ("authorization", &*bearer),
        ("traceparent", &*parent),
        ("user-agent", "canary-agent"),
    ];
    let status_of = async |path: &str| process.get(path, &headers).await.status;
    origin.next(vec![Action::RespondStatus("in_progress")]);
    assert_eq!(status_of(STEP).await, 200);
    assert_eq!(status_of(STEP).await, 200);
    assert_eq!(status_of(STEP).await, 200);
    assert_eq!(process.get(STEP, &[]).await.status, 401);
    // The reused connection is closed, and the new one, too.
    origin.next(vec![Action::Close]);
    origin.next(vec![Action::Close]);
    assert_eq!(status_of(LIST).await, 502);
    process.terminate().await;
    process.exit().await.1
}

/// Returns the lines with this message.
fn with_message<'l>(lines: &'l [Line], message: &str) -> Vec<&'l Line> {
    lines.iter().filter(|l| l.message == message).collect()
}

fn names(line: &Line) -> Vec<&str> {
    line.fields.iter().map(|(name, _)| &**name).collect()
}

/// Asserts that the line has only `known` fields, in this order.
#[track_caller]
fn assert_field_order(line: &Line, known: &[&str]) {
    let expected: Vec<&str> = known
        .iter()
        .copied()
        .filter(|name| names(line).contains(name))
        .collect();
    assert_eq!(names(line), expected, "{line:?}");
}

/// Asserts that the lines describe what [`run_gateway`] did, with these ids or without any.
#[track_caller]
fn assert_complete(lines: &[Line], ids: Option<&str>) {
    let field = |line: &Line, name: &str| line.get(name).map(ToOwned::to_owned);
    let fetches = with_message(lines, "fetch");
    let requests = with_message(lines, "GET");
    assert_eq!((fetches.len(), requests.len()), (3, 5), "{lines:?}");
    for line in &fetches {
        assert_field_order(line, &FETCH_FIELDS);
        assert_eq!(field(line, "client").as_deref(), Some("billing"));
        assert_eq!(field(line, "trace_id").as_deref(), Some(TRACE));
        assert!(line.get("ms").unwrap().parse::<f64>().unwrap() > 0.0);
    }
    for line in &requests {
        assert_field_order(line, &REQUEST_FIELDS);
    }
    let column = |lines: &[&Line], name: &str| -> Vec<String> {
        let cells = lines.iter().map(|line| field(line, name));
        cells.map(Option::unwrap_or_default).collect()
    };
    assert_eq!(column(&fetches, "status"), ["200", "200", ""]);
    assert_eq!(column(&fetches, "not_stored"), ["not_final", "", ""]);
    assert!(column(&fetches, "error")[2].starts_with("connection lost before a response"));
    let outcomes = ["miss", "miss", "hit", "rejected", "error"];
    assert_eq!(column(&requests, "outcome"), outcomes);
    let statuses = ["200", "200", "200", "401", "502"];
    assert_eq!(column(&requests, "status"), statuses);
    let codes = ["", "", "", "unauthorized", "upstream_unreachable"];
    assert_eq!(column(&requests, "code"), codes);
    let clients = ["billing", "billing", "billing", "", "billing"];
    assert_eq!(column(&requests, "client"), clients);
    let traces = [TRACE, TRACE, TRACE, "", TRACE];
    assert_eq!(column(&requests, "trace_id"), traces);
    let has_fetch_time: Vec<bool> = requests
        .iter()
        .map(|l| l.get("fetch_ms").is_some())
        .collect();
    assert_eq!(has_fetch_time, [true, true, false, false, false]);
    let step = ids.unwrap_or_default();
    let list = step.rsplit_once('/').map_or("", |(list, _)| list);
    assert_eq!(column(&fetches, "ids"), [step, step, list]);
    assert_eq!(column(&requests, "ids"), [step, step, step, step, list]);
}

const IDS: &str = "thread_1/run_1/step_1";

#[tokio::test]
async fn json_and_text_have_the_same_fields_of_every_fetch_and_request() {
    let all = "access = \"all\"\n";
    assert_complete(
        &json(&run_gateway(&settings("json", all), "info").await),
        None,
    );
    assert_complete(
        &text(&run_gateway(&settings("text", all), "info").await),
        None,
    );
}

#[tokio::test]
async fn ids_are_logged_if_configured_or_at_debug_level() {
    let all = "access = \"all\"\n";
    let with_ids = settings("json", &format!("{all}ids = true\n"));
    assert_complete(&json(&run_gateway(&with_ids, "info").await), Some(IDS));
    let at_debug = run_gateway(&settings("text", all), "info,stepgate=debug").await;
    assert_complete(&text(&at_debug), Some(IDS));
}

#[tokio::test]
async fn no_line_contains_a_secret_or_a_client_header() {
    for format in ["json", "text"] {
        let toml = settings(format, "access = \"all\"\nids = true\n");
        let output = run_gateway(&toml, "trace").await;
        assert!(output.lines().count() > 8, "{output}");
        assert!(!output.contains("canary"), "{output}");
    }
}

#[tokio::test]
async fn access_off_logs_nothing_and_the_default_logs_fetches_and_errors() {
    let off = json(&run_gateway(&settings("json", "access = \"off\"\n"), "info").await);
    assert_eq!(
        (
            with_message(&off, "fetch").len(),
            with_message(&off, "GET").len()
        ),
        (0, 0)
    );
    let default = json(&run_gateway(&settings("json", ""), "info").await);
    assert_eq!(
        (
            with_message(&default, "fetch").len(),
            with_message(&default, "GET").len()
        ),
        (3, 2)
    );
}

#[tokio::test]
async fn a_fetch_without_waiters_and_one_past_its_deadline_are_logged() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "[log]\nformat = \"json\"\n", "info").await;
    origin.next(vec![Action::Stall]);
    let client = process.send_get(STEP, &[]).await;
    until("the fetch", async || origin.count() == 1).await;
    drop(client);
    let logged = async || process.output().contains("cancelled: no waiters left");
    until("the line of the fetch", logged).await;

    origin.next(vec![Action::Stall]);
    let toml = "[upstream]\ntimeout = \"200ms\"\n[log]\nformat = \"json\"\n";
    let process = Process::start(&origin, toml, "info").await;
    assert_eq!(process.get(STEP, &[]).await.status, 504);
    process.terminate().await;
    let lines = json(&process.exit().await.1);
    let fetches = with_message(&lines, "fetch");
    assert_eq!(fetches.len(), 1, "{lines:?}");
    assert_eq!(fetches[0].get("error"), Some("deadline exceeded"));
}

#[tokio::test]
async fn a_malformed_traceparent_is_forwarded_and_not_logged() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "[log]\naccess = \"all\"\n", "info").await;
    let malformed = format!("ff-{TRACE}-00f067aa0ba902b7-01");
    process.get(STEP, &[("traceparent", &malformed)]).await;
    assert_eq!(origin.requests()[0].all("traceparent"), [malformed]);
    process.terminate().await;
    let output = process.exit().await.1;
    assert!(output.contains("outcome=\"miss\""), "{output}");
    assert!(!output.contains("trace_id"), "{output}");
}

#[tokio::test]
async fn a_failed_start_is_logged_as_json_too() {
    let taken = Origin::start().await;
    let address = taken.address.to_string();
    let toml = "[server]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n";
    let folder = folder(&[(process::FILE, toml)]);
    let file = folder.path().join(process::FILE).display().to_string();
    let arguments = ["--config", &file, "--admin", &address];
    let (code, output) = process::run(&arguments, &ENVIRONMENT).await;
    assert_eq!(code, Some(1), "{output}");
    let lines = json(&output);
    let last = lines.last().expect("a line");
    assert!(last.message.contains(&address), "{output}");
}

#[tokio::test]
async fn a_reload_changes_whether_ids_are_logged() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    let toml = |ids: bool| {
        let url = origin.url();
        format!("[upstream]\nbase_url = {url:?}\n[log]\naccess = \"all\"\nids = {ids}\n")
    };
    process.configure(&toml(true)).await;
    process.get(STEP, &[]).await;
    let ids = format!("ids={IDS}");
    until("the ids", async || {
        process.output().matches(&ids).count() == 2
    })
    .await;
    process.configure(&toml(false)).await;
    process.get(STEP, &[]).await;
    let hits = async || process.output().contains("outcome=\"hit\"");
    until("the line", hits).await;
    assert_eq!(process.output().matches(&ids).count(), 2);
}

#[test]
fn the_parsers_keep_the_order_of_the_fields() {
    let line = r#"{"timestamp":"t","level":"INFO","message":"GET","b":1,"a":"x"}"#;
    let value: Value = serde_json::from_str(line).unwrap();
    assert!(value.is_object());
    let read = json(line);
    assert_eq!(names(&read[0]), ["b", "a"]);
    let read = text("2026-11-23T05:00:00.000000Z  INFO GET b=1 a=\"x \\\"y\\\"\" c=z");
    assert_eq!(names(&read[0]), ["b", "a", "c"]);
    assert_eq!(read[0].get("a"), Some("x \"y\""));
}
