//! What a well-behaved upstream sends.

/// What a well-behaved upstream answers for this target.
pub(super) fn well_formed(target: &str, status: &str, number: Option<usize>) -> Vec<u8> {
    let path = target.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let mut body = match *segments.as_slice() {
        ["v1", "threads", thread, "runs", run, "steps", step] => {
            step_json(thread, run, step, status)
        }
        ["v1", "responses", id] => {
            format!(r#"{{"id": "{id}", "object": "response", "status": "{status}"}}"#).into_bytes()
        }
        _ => br#"{"object": "list", "data": [], "has_more": false}"#.to_vec(),
    };
    if let Some(number) = number {
        body.splice(..1, format!("{{\"fetch\": {number},").into_bytes());
    }
    respond("200 OK", &[("x-request-id", "req_origin")], &body)
}

/// A whole answer; `application/json` and its length unless `headers` says otherwise.
pub(crate) fn respond(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut bytes = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    if !has("content-type") {
        bytes += "content-type: application/json\r\n";
    }
    if !has("content-length") && !has("transfer-encoding") {
        bytes += &format!("content-length: {}\r\n", body.len());
    }
    [bytes.as_bytes(), b"\r\n", body].concat()
}

/// A step as the wire shows it: indented by two, members that no description knows.
pub(crate) fn step_json(thread: &str, run: &str, step: &str, status: &str) -> Vec<u8> {
    format!(
        r#"{{
  "id": "{step}",
  "object": "thread.run.step",
  "created_at": 1699063291,
  "run_id": "{run}",
  "assistant_id": "asst_1",
  "thread_id": "{thread}",
  "type": "message_creation",
  "status": "{status}",
  "cancelled_at": null,
  "expires_at": null,
  "last_error": null,
  "step_details": {{
    "type": "message_creation",
    "message_creation": {{ "message_id": "msg_1" }}
  }},
  "usage": {{ "prompt_tokens": 123, "prompt_token_details": {{}} }}
}}
"#
    )
    .into_bytes()
}
