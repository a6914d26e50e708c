//! The faults of clients, and what the gateway must answer them.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::fault::{CORRECT, Effect, Expected, Fault, INVALID, Injection, faults};
use crate::fixtures::client::{self, H2Client, RawClient, Version, h2_request, head};
use crate::fixtures::origin::{Action, Protocol};
use crate::judge::{Sent, raw};
use crate::ledger::{Verdict, shows_secret};
use crate::step::Step;
use crate::testbed::{ACCOUNT, DEADLINE, LIMIT, OWN_HEADERS, Testbed};
use crate::upstream::Material;
use crate::upstream_faults::whole;

pub(crate) const FAULTS: &[Fault] = faults! { Run:
    "client_leaves_unanswered" => leave_unanswered;
    "client_resets_unanswered" => reset_unanswered;
    "client_leaves_half_answered" => leave_half_answered;
    "client_half_a_head" => half_head;
    "client_slowloris" => slowloris;
    "client_silent" => silence;
    "client_half_a_preface" => half_preface;
    "client_reads_slowly" => read_slowly;
    "client_pipelines" => pipeline;
    "client_junk" => junk;
    "client_tls_hello" => tls_hello;
    "client_two_content_lengths" => two_content_lengths;
    "client_request_smuggling" => smuggle_a_request;
    "client_large_head" => large_head;
    "client_long_target" => long_target;
    "client_bad_id" => bad_id;
    "client_dns_rebinding" => foreign_host;
    "client_cross_site" => foreign_origin;
    "client_wrong_method" => wrong_method;
    "client_rapid_reset" => rapid_reset;
    "many_clients" => many_clients;
    "many_clients_meet_a_failure" => many_clients_meet_a_failure;
    "many_clients_lose_the_first" => many_clients_lose_the_first;
};

/// The time of a slow fetch, in which clients come and go.
const SLOW: Duration = Duration::from_millis(150);

/// The statuses that a connection may be answered with that sends no valid request.
const BAD_REQUEST: &[&str] = &["400 ", "408 ", "413 ", "414 ", "431 "];

fn slow(m: &Material) -> Vec<Action> {
    let response = whole("200 OK", &[], &m.good);
    vec![Action::Pause(SLOW), Action::Send(response)]
}

fn large(m: &Material) -> Vec<Action> {
    vec![Action::Send(whole(
        "200 OK",
        &[],
        &m.false_final.repeat(2000),
    ))]
}

fn truncated(m: &Material) -> Vec<Action> {
    let mut response = whole("200 OK", &[], &m.false_final);
    response.truncate(response.len() - 5);
    vec![Action::Pause(SLOW), Action::Send(response), Action::Close]
}

/// Returns the head of a GET, with these further lines.
fn get(target: &str, lines: &[(&str, &str)]) -> String {
    head("GET", target, "localhost", lines)
}

/// Returns the head of a GET for a step that every client sends.
fn own_get(step: &Step) -> String {
    get(&step.target(), &OWN_HEADERS)
}

const CLOSE: (&str, &str) = ("connection", "close");

/// Connects to the gateway. If that fails, the probes behind the fault show it.
async fn connect(testbed: &Testbed) -> Option<RawClient> {
    RawClient::try_connect(testbed.gateway.data).await.ok()
}

/// Waits until the upstream has got a fetch for `step`.
pub(crate) async fn is_under_way(testbed: &Testbed, step: &Step) {
    let deadline = Instant::now() + LIMIT;
    while testbed.upstream.fetches(ACCOUNT, step).count == 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(2)).await;
    }
}

async fn leave_unanswered(injection: &Injection<'_>) {
    leave(injection, connect(injection.testbed).await).await;
}

async fn reset_unanswered(injection: &Injection<'_>) {
    let client = RawClient::try_connect_abortive(injection.testbed.gateway.data).await;
    leave(injection, client.ok()).await;
}

async fn leave(Injection { testbed, step, .. }: &Injection<'_>, client: Option<RawClient>) {
    testbed.upstream.plan(step, Effect::Response(slow));
    if let Some(mut client) = client {
        let _ = client.try_send(own_get(step)).await;
        is_under_way(testbed, step).await;
    }
    testbed.upstream.unplan(step);
}

async fn leave_half_answered(Injection { testbed, step, .. }: &Injection<'_>) {
    testbed.upstream.plan(step, Effect::Response(large));
    if let Some(mut client) = connect(testbed).await {
        let _ = client.try_send(own_get(step)).await;
        client.read_slowly(1024, Duration::from_millis(5));
        let some = Duration::from_millis(50);
        let _ = client.response_within("GET", some).await;
    }
    testbed.upstream.unplan(step);
}

async fn half_head(injection: &Injection<'_>) {
    let half = format!("GET {} HTTP/1.1\r\nhost: loc", injection.step.target());
    expect_rejected(injection, half, BAD_REQUEST).await;
}

async fn silence(injection: &Injection<'_>) {
    expect_rejected(injection, "", &[]).await;
}

async fn half_preface(injection: &Injection<'_>) {
    expect_rejected(injection, "PRI * HTTP/2.0\r\n\r\nSM", BAD_REQUEST).await;
}

async fn junk(injection: &Injection<'_>) {
    let mut rng = injection.rng();
    let mut junk: Vec<u8> = (0..480).map(|_| rng.u8(..)).collect();
    junk.extend_from_slice(b"\r\n\r\n");
    expect_rejected(injection, junk, BAD_REQUEST).await;
}

async fn tls_hello(injection: &Injection<'_>) {
    let mut hello = vec![22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    hello.extend_from_slice(&[7; 194]);
    expect_rejected(injection, hello, BAD_REQUEST).await;
}

async fn two_content_lengths(injection: &Injection<'_>) {
    let lines = [("content-length", "5"), ("content-length", "6")];
    let head = get(&injection.step.target(), &lines);
    expect_rejected(injection, head, BAD_REQUEST).await;
}

async fn large_head(injection: &Injection<'_>) {
    let note = "a".repeat(600_000);
    let head = get(&injection.step.target(), &[("x-note", &note)]);
    expect_rejected(injection, head, BAD_REQUEST).await;
}

async fn long_target(injection: &Injection<'_>) {
    let query = format!("include[]={}", "a".repeat(80_000));
    let target = format!("{}?{query}", injection.step.target());
    expect_rejected(injection, get(&target, &[CLOSE]), BAD_REQUEST).await;
}

async fn bad_id(injection: &Injection<'_>) {
    let bad = ["..", "%2e%2e", "a%00b", "a;b", "", "a/", "a b", "é"];
    let step = Step {
        id: Some(bad[injection.rng().usize(..bad.len())].to_owned()),
        ..injection.step.clone()
    };
    expect_rejected(injection, get(&step.target(), &[CLOSE]), &["400 "]).await;
}

async fn foreign_host(injection: &Injection<'_>) {
    let lines = [("host", "rebound.example"), CLOSE];
    let head = get(&injection.step.target(), &lines);
    expect_rejected(injection, head, &["403 "]).await;
}

async fn foreign_origin(injection: &Injection<'_>) {
    let lines = [("origin", "https://evil.example"), CLOSE];
    let head = get(&injection.step.target(), &lines);
    expect_rejected(injection, head, &["403 "]).await;
}

async fn wrong_method(injection: &Injection<'_>) {
    let target = injection.step.target();
    let head = head("DELETE", &target, "localhost", &[CLOSE]);
    expect_rejected(injection, head, &["405 "]).await;
}

/// Expects that these bytes are answered with one of these statuses, or that the connection ends, in
/// time; and that nothing goes up.
async fn expect_rejected(
    Injection { testbed, case, .. }: &Injection<'_>,
    bytes: impl AsRef<[u8]>,
    statuses: &[&str],
) {
    let fetches = testbed.upstream.all_fetches();
    let Some(mut client) = connect(testbed).await else {
        let lost = Verdict::Lost("no connection".to_owned());
        return testbed.note(case, &lost, b"");
    };
    // The gateway may hang up before it has read all.
    let _ = client.try_send(&bytes).await;
    let (verdict, answer) = match client.rest_within(LIMIT).await {
        None => (Verdict::Lost("not ended in time".to_owned()), Vec::new()),
        Some(answer) => (rejection(&answer, statuses), answer),
    };
    testbed.note(case, &verdict, &answer);
    if testbed.upstream.all_fetches() != fetches {
        let wrong = Verdict::Wrong("it went up".to_owned());
        testbed.note(case, &wrong, bytes.as_ref());
    }
}

fn rejection(answer: &[u8], statuses: &[&str]) -> Verdict {
    if shows_secret(answer) {
        return Verdict::Leaked("a secret in a rejection".to_owned());
    }
    let is_allowed = statuses.iter().any(|status| {
        let line = format!("HTTP/1.1 {status}");
        answer.starts_with(line.as_bytes())
    });
    // The end of an HTTP/2 connection begins with SETTINGS (type 4).
    let is_http2 = answer.get(3) == Some(&4);
    let is_strict = statuses.len() == 1;
    if is_allowed || (!is_strict && (answer.is_empty() || is_http2)) {
        Verdict::Error
    } else {
        Verdict::Wrong("not rejected as expected".to_owned())
    }
}

/// Sends a head one byte at a time.
async fn slowloris(
    Injection {
        testbed,
        case,
        step,
        ..
    }: &Injection<'_>,
) {
    let started = Instant::now();
    let Some(mut client) = connect(testbed).await else {
        return;
    };
    for byte in get(&step.target(), &[]).bytes() {
        if client.try_send([byte]).await.is_err() || started.elapsed() > LIMIT {
            break;
        }
        sleep(Duration::from_millis(40)).await;
    }
    let verdict = match client.rest_within(LIMIT).await {
        Some(answer) => rejection(&answer, &["400 ", "408 "]),
        None => Verdict::Lost("not ended in time".to_owned()),
    };
    testbed.note(case, &verdict, b"");
}

/// Reads the next response, which must be correct.
async fn expect_correct(
    Injection { testbed, case, .. }: &Injection<'_>,
    sent: Sent<'_>,
    client: &mut RawClient,
) {
    let outcome = client.response_within("GET", LIMIT).await;
    let verdict = sent.judge(&outcome, CORRECT, &[]).await;
    testbed.note(case, &verdict, raw(&outcome));
}

async fn read_slowly(injection: &Injection<'_>) {
    let Injection { testbed, step, .. } = injection;
    let sent = testbed.sent(step);
    let Some(mut client) = connect(testbed).await else {
        return;
    };
    let _ = client.try_send(own_get(step)).await;
    client.read_slowly(700, Duration::from_millis(4));
    expect_correct(injection, sent, &mut client).await;
}

async fn pipeline(injection: &Injection<'_>) {
    let Injection {
        testbed,
        step,
        other,
        ..
    } = injection;
    let steps = [step, other, step, other, step];
    let sent = steps.map(|step| testbed.sent(step));
    let Some(mut client) = connect(testbed).await else {
        return;
    };
    let all = steps.map(|step| get(&step.target(), &[])).concat();
    let _ = client.try_send(all).await;
    for sent in sent {
        expect_correct(injection, sent, &mut client).await;
    }
}

/// Sends a request as the body of another one.
async fn smuggle_a_request(injection: &Injection<'_>) {
    let Injection {
        testbed,
        case,
        step,
        other,
        ..
    } = injection;
    let hidden = get(&other.target(), &[]);
    let length = hidden.len().to_string();
    let outer = get(&step.target(), &[("content-length", &length)]);
    let sent = testbed.sent(step);
    let Some(mut client) = connect(testbed).await else {
        return;
    };
    let _ = client.try_send(outer + &hidden).await;
    expect_correct(injection, sent, &mut client).await;
    // The connection may stay open, and then nothing more may come.
    let quiet = Duration::from_millis(30);
    let more = client.response_within("GET", quiet).await;
    if more.is_ok() || testbed.upstream.fetches(ACCOUNT, other).count > 0 {
        let wrong = Verdict::Wrong("a body was taken for a request".to_owned());
        testbed.note(case, &wrong, raw(&more));
    }
}

async fn rapid_reset(
    Injection {
        testbed,
        case,
        step,
        ..
    }: &Injection<'_>,
) {
    let Ok(client) = H2Client::try_connect(testbed.gateway.data).await else {
        return;
    };
    for _ in 0..40 {
        let Ok(mut requests) = client.requests().ready().await else {
            break;
        };
        let Ok(request) = h2_request("GET", &step.target(), &[]).body(()) else {
            break;
        };
        let Ok((_, mut stream)) = requests.send_request(request, true) else {
            break;
        };
        stream.send_reset(h2::Reason::CANCEL);
    }
    testbed.expect_correct(case, Version::Http2, step).await;
}

async fn many_clients(injection: &Injection<'_>) {
    expect_all(injection, CORRECT).await;
}

async fn many_clients_meet_a_failure(injection: &Injection<'_>) {
    let Injection { testbed, step, .. } = injection;
    testbed.upstream.plan(step, Effect::Response(truncated));
    expect_all(injection, INVALID).await;
    testbed.upstream.unplan(step);
}

async fn many_clients_lose_the_first(injection: &Injection<'_>) {
    let Injection { testbed, step, .. } = injection;
    testbed.upstream.plan(step, Effect::Response(slow));
    if let Some(mut first) = connect(testbed).await {
        let _ = first.try_send(own_get(step)).await;
        is_under_way(testbed, step).await;
        let leaves = async {
            sleep(SLOW / 3).await;
            drop(first);
        };
        tokio::join!(expect_all(injection, CORRECT), leaves);
    }
    testbed.upstream.unplan(step);
}

/// Lets many clients request one step at once, and expects the same of all.
async fn expect_all(
    Injection {
        testbed,
        case,
        step,
        ..
    }: &Injection<'_>,
    expected: Expected,
) {
    let sent = testbed.sent(step);
    let mut clients = JoinSet::new();
    for number in 0..24 {
        let (data, target) = (testbed.gateway.data, step.target());
        let version = if number % 6 == 0 {
            Version::Http2
        } else {
            Version::Http1
        };
        clients.spawn(async move {
            client::try_send(data, version, "GET", &target, &OWN_HEADERS, DEADLINE).await
        });
    }
    while let Some(Ok(outcome)) = clients.join_next().await {
        let verdict = sent.judge(&outcome, expected, &[]).await;
        testbed.note(case, &verdict, raw(&outcome));
    }
}
