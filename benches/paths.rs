//! What the paths that every request takes cost in time: one group each for match, key, verdict,
//! hygiene and lookup.
//!
//! `cargo bench --bench paths`; with a word, those whose names contain it. Times swing on a busy
//! machine: `benches/instructions` is what a change is held against, this shows where to look.

#[path = "paths/answers.rs"]
mod answers;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use stepgate::cache::{Cache, Entry};
use stepgate::config::{self, Header, Secret, SecretSource, Value};
use stepgate::policy::{CacheKey, Partition, Query, Route, Rule, check};
use stepgate::upstream::{HeaderPolicy, SecretScanner, filter_response_headers};
use tokio::time::Instant;

use answers::{HEAD, IDS, large, small};

const HIT: &str = "/v1/threads/thread_abc123/runs/run_abc123/steps/step_abc123";
const SECRETS: [&str; 2] = ["pk-live-0123456789abcdef", "vk-openai-0123456789"];

/// What openai-python 3.54.0 sends.
const SDK: [(&str, &str); 16] = [
    ("host", "127.0.0.1:8180"),
    ("accept-encoding", "gzip, deflate"),
    ("connection", "keep-alive"),
    ("authorization", "Bearer unused"),
    ("accept", "application/json"),
    ("user-agent", "OpenAI/Python 3.54.0"),
    ("x-stainless-lang", "python"),
    ("x-stainless-package-version", "3.54.0"),
    ("x-stainless-os", "Linux"),
    ("x-stainless-arch", "x64"),
    ("x-stainless-runtime", "CPython"),
    ("x-stainless-runtime-version", "3.11.7"),
    ("x-stainless-async", "false"),
    ("openai-beta", "assistants=v2"),
    ("x-stainless-retry-count", "0"),
    ("x-stainless-read-timeout", "600"),
];

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
        .collect()
}

fn path(criterion: &mut Criterion) {
    let rules = [Rule::run_step()];
    let mut group = criterion.benchmark_group("match");
    for (name, path) in [
        ("hit", HIT),
        ("list", "/v1/threads/thread_abc123/runs/run_abc123/steps"),
        ("other", "/v1/chat/completions"),
        (
            "refused",
            "/v1/threads/thread_abc123/runs/run_abc123/%73teps/step_abc123",
        ),
    ] {
        group.bench_function(name, |b| b.iter(|| Route::parse(&rules, black_box(path))));
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

fn verdict(criterion: &mut Criterion) {
    let rule = Rule::run_step();
    let head = headers(&HEAD);
    let mut group = criterion.benchmark_group("verdict");
    for (name, body) in [
        ("live, 590 B", small("in_progress", 590)),
        ("final, 790 B", small("completed", 790)),
        ("final, 72 KB", large("completed", 72 * 1024)),
        (
            "not ours, 590 B",
            small("completed", 590).replace(IDS[2], "step_another"),
        ),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let body = black_box(body.as_bytes());
                check(&rule, &IDS, StatusCode::OK, &head, body, true)
            });
        });
    }
    group.finish();
}

fn hygiene(criterion: &mut Criterion) {
    let injected = ["x-portkey-api-key", "x-portkey-virtual-key"];
    let injected: Vec<Header> = injected
        .into_iter()
        .zip(SECRETS)
        .map(|(name, secret)| Header {
            name: HeaderName::from_static(name),
            value: Value::Secret(
                Secret::new(SecretSource::Env("KEY".to_owned()), secret).expect("a plain word"),
            ),
        })
        .collect();
    let policy = HeaderPolicy::new(&injected, &[]);
    let caller = headers(&SDK);
    let (answer, redactor) = (headers(&HEAD), SecretScanner::new(SECRETS));
    let mut group = criterion.benchmark_group("hygiene");
    group.bench_function("upward", |b| {
        b.iter(|| policy.fetch_headers(black_box(&caller)));
    });
    group.bench_function("filter_response_headers", |b| {
        b.iter_batched_ref(
            || answer.clone(),
            |answer| filter_response_headers(answer, &redactor),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn lookup(criterion: &mut Criterion) {
    let now = Instant::now();
    let terms = config::Cache::default();
    let key = |number: usize| {
        let id = format!("step_{number:06}");
        CacheKey::new(
            Partition::of(["https://api.portkey.ai/v1"]),
            "run-step",
            &[IDS[0], IDS[1], &id],
            "",
        )
    };
    let body = small("completed", 790);
    let mut group = criterion.benchmark_group("lookup");
    for entries in [1000, 100_000] {
        // Evicts nothing.
        let cache = Cache::new(1 << 30);
        let keys: Vec<CacheKey> = (0..entries).map(key).collect();
        for key in &keys {
            let entry = Entry::new(body.as_bytes(), None);
            let stored = cache.store(&cache.begin_fetch(), key, entry, &terms, now);
            assert_eq!(stored, Ok(()));
        }
        // Across them all: one that is asked for again and again would stay in the processor's caches.
        let mut order = (0..entries).map(|n| n * 7919 % entries).cycle();
        group.bench_function(format!("hit, {entries} entries"), |b| {
            b.iter(|| {
                let key = &keys[order.next().expect("endless")];
                cache.lookup(key, now).expect("stored")
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
    path(&mut criterion);
    key(&mut criterion);
    verdict(&mut criterion);
    hygiene(&mut criterion);
    lookup(&mut criterion);
    criterion.final_summary();
}
