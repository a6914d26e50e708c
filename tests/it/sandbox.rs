//! Tests the demo's sandbox over a real socket: it must look like the upstream and give the same bytes
//! each time, because other tests rely on it.

use std::time::Duration;

use serde_json::Value;
use stepgate::demo::Sandbox;
use stepgate::demo::sandbox::{Settings, Status};
use tokio::net::TcpStream;

use crate::support::client::{self, Response};

const STEP: &str = "/v1/threads/thread_abc123/runs/run_abc123/steps/step_abc123";
const CREDENTIALS: [(&str, &str); 2] = [
    ("x-portkey-api-key", "a key"),
    ("x-portkey-virtual-key", "another"),
];
const FOREVER: Duration = Duration::from_secs(3600);

async fn request(
    sandbox: &Sandbox,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    let response = client::send(sandbox.address(), method, path, headers).await;
    response.expect("the response arrives whole")
}

async fn poll(sandbox: &Sandbox, path: &str) -> Response {
    request(sandbox, "GET", path, &CREDENTIALS).await
}

async fn start_sandbox(lifetime: Duration) -> Sandbox {
    let settings = Settings {
        lifetime: lifetime..=lifetime,
        record_requests: true,
        ..Settings::default()
    };
    Sandbox::start(settings).await.expect("a free port")
}

#[tokio::test]
async fn a_step_is_created_by_its_first_poll_and_ends() {
    let sandbox = start_sandbox(Duration::from_millis(300)).await;
    assert_eq!(poll(&sandbox, STEP).await.json()["status"], "in_progress");
    let ended = async {
        while poll(&sandbox, STEP).await.json()["status"] != "completed" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .expect("the step completes");
    assert_eq!(sandbox.status("step_abc123"), Status::Completed);
}

#[tokio::test]
async fn a_response_has_the_expected_body_and_the_headers_of_the_real_service() {
    let sandbox = start_sandbox(FOREVER).await;
    for status in Status::ALL {
        sandbox.set_status("step_abc123", status);
        let response = poll(&sandbox, STEP).await;
        let expected = sandbox.current_body("thread_abc123", "run_abc123", "step_abc123", false);
        assert_eq!(response.status, 200);
        assert_eq!(response.body, expected);
        assert_eq!(response.json()["status"], status.as_str());
        assert_eq!(response.header("content-type"), Some("application/json"));
        let length = response.body.len().to_string();
        assert_eq!(response.header("content-length"), Some(&*length));
        for name in [
            "openai-organization",
            "openai-processing-ms",
            "x-request-id",
        ] {
            assert!(response.header(name).is_some(), "{name}");
        }
        for name in ["etag", "cache-control", "age"] {
            assert!(response.header(name).is_none(), "{name}");
        }
    }
}

#[tokio::test]
async fn two_sandboxes_send_the_same_bytes() {
    let (one, other) = (
        start_sandbox(Duration::ZERO).await,
        start_sandbox(Duration::ZERO).await,
    );
    assert_eq!(poll(&one, STEP).await.body, poll(&other, STEP).await.body);
}

#[tokio::test]
async fn include_adds_the_content_of_file_search_results() {
    let sandbox = start_sandbox(Duration::ZERO).await;
    let include = "include[]=step_details.tool_calls%5B*%5D.file_search.results%5B*%5D.content";
    let mut differ = 0;
    for n in 0..20 {
        let (step, path) = (
            format!("step_{n}"),
            format!("/v1/threads/t/runs/r/steps/step_{n}"),
        );
        let with = poll(&sandbox, &format!("{path}?{include}")).await;
        let without = poll(&sandbox, &path).await;
        assert_eq!(with.body, sandbox.current_body("t", "r", &step, true));
        assert_eq!(without.body, sandbox.current_body("t", "r", &step, false));
        differ += usize::from(with.body != without.body);
    }
    assert!((1..20).contains(&differ), "{differ}");
}

#[tokio::test]
async fn requests_without_the_injected_credentials_are_refused() {
    let sandbox = start_sandbox(FOREVER).await;
    for headers in [&CREDENTIALS[..1], &CREDENTIALS[1..], &[]] {
        let response = request(&sandbox, "GET", STEP, headers).await;
        assert_eq!(response.status, 401);
        assert_eq!(response.json()["error"]["code"], "invalid_api_key");
    }
    assert_eq!(sandbox.polls_of("step_abc123"), 0);
    assert_eq!(sandbox.request_count(), 3);
}

#[tokio::test]
async fn errors_have_the_upstreams_format() {
    let sandbox = start_sandbox(FOREVER).await;
    let odd = format!("{STEP}?include[]=all");
    for (method, path, status) in [
        ("GET", "/v1/models", 404),
        ("GET", "/v1/threads/t/runs/r/steps/", 404),
        ("GET", "/v1/threads/t/runs/r/steps/a%2fb", 404),
        ("POST", STEP, 405),
        ("GET", odd.as_str(), 400),
    ] {
        let response = request(&sandbox, method, path, &CREDENTIALS).await;
        assert_eq!(response.status, status, "{method} {path}");
        let error = &response.json()["error"];
        assert!(error["message"].is_string() && error["type"] == "invalid_request_error");
    }
}

#[tokio::test]
async fn a_status_that_was_set_stays_until_it_is_set_again() {
    let sandbox = start_sandbox(Duration::ZERO).await;
    sandbox.set_status("step_abc123", Status::InProgress);
    assert_eq!(poll(&sandbox, STEP).await.json()["status"], "in_progress");
    sandbox.set_status("step_abc123", Status::Failed);
    let failed = poll(&sandbox, STEP).await.json();
    assert_eq!(failed["status"], "failed");
    assert!(failed["last_error"]["code"].is_string() && failed["completed_at"].is_null());
}

#[tokio::test]
async fn a_run_lists_its_steps_in_pages() {
    let sandbox = start_sandbox(Duration::ZERO).await;
    let steps = "/v1/threads/t/runs/r/steps";
    for n in 1..=3 {
        poll(&sandbox, &format!("{steps}/step_{n}")).await;
    }
    let ids = |list: &Value| -> Vec<String> {
        let data = list["data"].as_array().unwrap();
        data.iter()
            .map(|step| step["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let first_page = poll(&sandbox, &format!("{steps}?limit=2")).await.json();
    assert_eq!(first_page["object"], "list");
    assert_eq!(ids(&first_page), ["step_3", "step_2"]);
    assert_eq!(
        (&first_page["last_id"], &first_page["has_more"]),
        (&"step_2".into(), &true.into())
    );
    let second_page = poll(&sandbox, &format!("{steps}?limit=2&after=step_2"))
        .await
        .json();
    assert_eq!(
        (ids(&second_page), &second_page["has_more"]),
        (vec!["step_1".to_owned()], &false.into())
    );
    let other = poll(&sandbox, "/v1/threads/t/runs/other/steps")
        .await
        .json();
    assert!(ids(&other).is_empty() && other["first_id"].is_null());
}

#[tokio::test]
async fn requests_are_counted_and_recorded() {
    let sandbox = start_sandbox(FOREVER).await;
    poll(&sandbox, STEP).await;
    poll(&sandbox, &format!("{STEP}?x=1")).await;
    poll(&sandbox, "/v1/models").await;
    assert_eq!(
        (sandbox.request_count(), sandbox.polls_of("step_abc123")),
        (3, 2)
    );
    let requests = sandbox.recorded_requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[1].uri.to_string(), format!("{STEP}?x=1"));
    assert_eq!(requests[1].headers["x-portkey-api-key"], "a key");
}

#[tokio::test]
async fn stop_closes_the_port_and_the_connections() {
    let sandbox = start_sandbox(FOREVER).await;
    let address = sandbox.address();
    let open = TcpStream::connect(address).await.unwrap();
    sandbox.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    let mut end = [0];
    let read = open.readable().await.map(|()| open.try_read(&mut end));
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
}
