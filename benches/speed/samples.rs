//! Holds what clients and upstreams send.

/// Are the headers of openai-python 3.54.0, without Host.
pub(crate) const SDK_HEADERS: [(&str, &str); 15] = [
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

/// Returns the body of a run step of so many bytes (at least some 600), written as upstreams write them.
pub(crate) fn step_body([thread, run, id]: [&str; 3], status: &str, size: usize) -> String {
    let head = format!(
        "{{\n  \"id\": \"{id}\",\n  \"object\": \"thread.run.step\",\n  \"created_at\": 1699063291,\n  \
         \"run_id\": \"{run}\",\n  \"assistant_id\": \"asst_abc123\",\n  \"thread_id\": \"{thread}\",\n  \
         \"type\": \"message_creation\",\n  \"status\": \"{status}\",\n  \"cancelled_at\": null,\n  \
         \"completed_at\": null,\n  \"expires_at\": 1699063891,\n  \"failed_at\": null,\n  \
         \"last_error\": null,\n  \"step_details\": {{\n    \"type\": \"message_creation\",\n    \
         \"message_creation\": {{\n      \"message_id\": \"msg_"
    );
    let tail = "\"\n    }\n  },\n  \"usage\": {\n    \"prompt_tokens\": 123,\n    \
                \"completion_tokens\": 456,\n    \"total_tokens\": 579\n  }\n}\n";
    let padding = size.saturating_sub(head.len() + tail.len());
    [&head, &"a".repeat(padding), tail].concat()
}
