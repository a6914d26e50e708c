//! Times the code that every request runs, with criterion: routing, cache key, cacheability, headers
//! and lookup, one group each.
//!
//! `cargo bench --bench paths WORD` times those whose names contain WORD. Times vary on a busy machine.
//! So a change is judged by `benches/instructions`; this shows where to look.

#[path = "speed/samples.rs"]
mod samples;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use hyper::StatusCode;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use stepgate::cache::{Cache, Entry};
use stepgate::config::{self, Header, Secret, SecretSource, Value};
use stepgate::policy::{CacheKey, Partition, Query, Route, Rule, check};
use stepgate::upstream::{HeaderPolicy, SecretScanner, filter_response_headers};
use tokio::time::Instant;

use samples::{SDK_HEADERS, step_body};

const IDS: [&str; 3] = ["thread_abc123", "run_abc123", "step_abc123"];
const SECRETS: [&str; 2] = ["pk-live-0123456789abcdef", "vk-openai-0123456789"];

/// Are response headers of Portkey in front of OpenAI.
const UPSTREAM_HEADERS: [(&str, &str); 20] = [
    ("date", "Fri, 03 Nov 2023 22:41:31 GMT"),
    ("content-type", "application/json"),
    ("content-length", "790"),
    ("connection", "keep-alive"),
    ("openai-version", "2020-10-01"),
    ("openai-organization", "org-abc123"),
    ("openai-processing-ms", "87"),
    ("x-request-id", "req_0f7e6a1b2c3d4e5f60718293a4b5c6d7"),
    ("x-ratelimit-limit-requests", "10000"),
    ("x-ratelimit-remaining-requests", "9999"),
    (
        "strict-transport-security",
        "max-age=15552000; includeSubDomains; preload",
    ),
    ("x-portkey-cache-status", "MISS"),
    ("x-portkey-last-used-option-index", "config"),
    ("x-portkey-retry-attempt-count", "0"),
    ("x-portkey-trace-id", "3f0c1a52-8f0e-4a62-9d43-0d6a1f9f5b11"),
    (
        "set-cookie",
        "__cf_bm=abcdefghijklmnopqrstuvwxyz0123456789; path=/; HttpOnly; Secure",
    ),
    ("x-content-type-options", "nosniff"),
    ("server", "cloudflare"),
    ("cf-ray", "8207d0f1ebd2c3a4-FRA"),
    ("alt-svc", "h3=\":443\"; ma=86400"),
];

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
        .collect()
}

fn route(criterion: &mut Criterion) {
    let rules = [Rule::run_step()];
    let run = "/v1/threads/thread_abc123/runs/run_abc123";
    let mut group = criterion.benchmark_group("route");
    for (name, path) in [
        ("resource", format!("{run}/steps/step_abc123")),
        ("list", format!("{run}/steps")),
        ("other", "/v1/chat/completions".to_owned()),
        ("rejected", format!("{run}/%73teps/step_abc123")),
    ] {
        group.bench_function(name, |b| b.iter(|| Route::parse(&rules, black_box(&path))));
    }
    group.finish();
}

fn key(criterion: &mut Criterion) {
    let rule = Rule::run_step();
    let partition = Partition::of(["https://api.portkey.ai/v1"]);
    let mut group = criterion.benchmark_group("key");
    group.bench_function("ids", |b| {
        b.iter(|| CacheKey::new(partition, rule.name(), black_box(&IDS), ""));
    });
    let raw = "include[]=step_details.tool_calls[*].file_search.results[*].content";
    group.bench_function("query", |b| {
        b.iter(|| Query::for_resource(&rule, black_box(Some(raw)), &[]));
    });
    group.finish();
}

fn cacheability(criterion: &mut Criterion) {
    let rule = Rule::run_step();
    let headers = headers(&UPSTREAM_HEADERS);
    let other = [IDS[0], IDS[1], "step_another"];
    let mut group = criterion.benchmark_group("cacheability");
    for (name, body) in [
        ("live, 590 B", step_body(IDS, "in_progress", 590)),
        ("final, 790 B", step_body(IDS, "completed", 790)),
        ("final, 72 KB", step_with_output(72 * 1024)),
        ("wrong id, 590 B", step_body(other, "completed", 590)),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let body = black_box(body.as_bytes());
                check(&rule, &IDS, StatusCode::OK, &headers, body, true)
            });
        });
    }
    group.finish();
}

/// Returns a final step with tool calls and their output, of at least this many bytes.
fn step_with_output(size: usize) -> String {
    let step = step_body(IDS, "completed", 0);
    let (head, tail) = step
        .split_once("\"message_creation\": {")
        .expect("a message step");
    let call = r#"{
        "id": "call_1",
        "type": "code_interpreter",
        "code_interpreter": {
          "input": "rows = table[table['a'] > 1]\nprint(rows.describe())",
          "outputs": [
            {
              "type": "logs",
              "logs": "count    1.000000\nmean     2.718282\nname: \"a\""
            }
          ]
        }
      }"#;
    let calls = vec![call; size.div_ceil(call.len())].join(",\n      ");
    format!("{head}\"tool_calls\": [\n      {calls}\n    ],\n    \"message_creation\": {{{tail}")
}

fn header_policy(criterion: &mut Criterion) {
    let secret =
        |secret| Secret::new(SecretSource::Env("KEY".to_owned()), secret).expect("a plain word");
    let names = ["x-portkey-api-key", "x-portkey-virtual-key"];
    let injected = names.into_iter().zip(SECRETS).map(|(name, value)| Header {
        name: HeaderName::from_static(name),
        value: Value::Secret(secret(value)),
    });
    let policy = HeaderPolicy::new(&injected.collect::<Vec<_>>(), &[]);
    let mut request = headers(&SDK_HEADERS);
    request.insert(HOST, HeaderValue::from_static("127.0.0.1:8180"));
    let (response, scanner) = (headers(&UPSTREAM_HEADERS), SecretScanner::new(SECRETS));
    let mut group = criterion.benchmark_group("headers");
    group.bench_function("fetch", |b| {
        b.iter(|| policy.fetch_headers(black_box(&request)));
    });
    group.bench_function("response", |b| {
        b.iter_batched_ref(
            || response.clone(),
            |response| filter_response_headers(response, &scanner),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn lookup(criterion: &mut Criterion) {
    let (now, options) = (Instant::now(), config::Cache::default());
    let partition = Partition::of(["https://api.portkey.ai/v1"]);
    let key = |number: usize| {
        let id = format!("step_{number:06}");
        CacheKey::new(partition, "run-step", &[IDS[0], IDS[1], &id], "")
    };
    let body = step_body(IDS, "completed", 790);
    let mut group = criterion.benchmark_group("lookup");
    for entries in [1000, 100_000] {
        // It has room for all.
        let cache = Cache::new(1 << 30);
        let keys: Vec<CacheKey> = (0..entries).map(key).collect();
        for key in &keys {
            let entry = Entry::new(body.as_bytes(), None);
            let stored = cache.store(&cache.begin_fetch(), key, entry, &options, now);
            assert_eq!(stored, Ok(()));
        }
        // Another key each time, because the same one would stay in the processor's caches.
        let mut order = (0..entries).map(|n| n * 7919 % entries).cycle();
        group.bench_function(format!("hit, {entries} entries"), |b| {
            b.iter(|| {
                let key = &keys[order.next().expect("the order is endless")];
                cache.lookup(key, now).expect("it is stored")
            });
        });
        let absent = key(entries);
        group.bench_function(format!("miss, {entries} entries"), |b| {
            b.iter(|| assert!(cache.lookup(black_box(&absent), now).is_none()));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    route(&mut criterion);
    key(&mut criterion);
    cacheability(&mut criterion);
    header_policy(&mut criterion);
    lookup(&mut criterion);
    criterion.final_summary();
}
