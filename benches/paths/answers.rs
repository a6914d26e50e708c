//! What an upstream answers: a typical head, and bodies written as upstreams write them.

pub(crate) const IDS: [&str; 3] = ["thread_abc123", "run_abc123", "step_abc123"];

/// As Portkey's in front of OpenAI may look.
pub(crate) const HEAD: [(&str, &str); 20] = [
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

fn step(status: &str, details: &str) -> String {
    let [thread, run, id] = IDS;
    format!(
        "{{\n  \"id\": \"{id}\",\n  \"object\": \"thread.run.step\",\n  \"created_at\": 1699063291,\n  \
         \"run_id\": \"{run}\",\n  \"assistant_id\": \"asst_abc123\",\n  \"thread_id\": \"{thread}\",\n  \
         \"status\": \"{status}\",\n  \"cancelled_at\": null,\n  \"completed_at\": null,\n  \
         \"expires_at\": 1699063891,\n  \"failed_at\": null,\n  \"last_error\": null,\n  \
         \"step_details\": {{{details}\n  }},\n  \"usage\": null\n}}\n"
    )
}

/// A message of this many bytes in all.
pub(crate) fn small(status: &str, size: usize) -> String {
    let of = |message: &str| {
        let details = format!(
            "\n    \"type\": \"message_creation\",\n    \"message_creation\": {{\n      \
             \"message_id\": \"msg_{message}\"\n    }}"
        );
        step(status, &details)
    };
    of(&"a".repeat(size - of("").len()))
}

/// Tool calls with their output, of at least this many bytes in all.
pub(crate) fn large(status: &str, size: usize) -> String {
    let mut calls = String::new();
    for number in 0.. {
        let details =
            format!("\n    \"type\": \"tool_calls\",\n    \"tool_calls\": [{calls}\n    ]");
        let body = step(status, &details);
        if body.len() >= size {
            return body;
        }
        let comma = if number == 0 { "" } else { "," };
        calls.push_str(&format!(
            "{comma}\n      {{\n        \"id\": \"call_{number}\",\n        \
             \"type\": \"code_interpreter\",\n        \"code_interpreter\": {{\n          \
             \"input\": \"rows = table[table['a'] > {number}]\\nprint(rows.describe())\",\n          \
             \"outputs\": [\n            {{\n              \"type\": \"logs\",\n              \
             \"logs\": \"count    {number}.000000\\nmean     2.718282\\nname: \\\"a\\\"\"\n            \
             }}\n          ]\n        }}\n      }}"
        ));
    }
    unreachable!("it grows until it is large enough")
}
