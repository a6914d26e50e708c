//! Responses that pass through byte for byte and are not stored, each with its reason (promise 1,
//! items 23 to 27).

use crate::support::{Action, Gateway, Origin, STEP, body, respond};

/// Returns the body of a completed step with its first `from` replaced by `to`.
fn with(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(body("completed")).unwrap();
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1).into_bytes()
}

/// Asserts that two polls of this response are two fetches, each whole and unstored for this reason.
async fn assert_passes_unstored(headers: &[(&str, &str)], body: &[u8], reason: &str, toml: &str) {
    let what = String::from_utf8_lossy(&body[..body.len().min(900)]).into_owned();
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, toml).await;
    origin.always(vec![Action::Send(respond("200 OK", headers, body))]);
    for polls in 1..=2 {
        let response = gateway.get(STEP).await;
        assert_eq!(response.status, 200, "{reason}: {what}");
        assert!(response.body == body, "{reason}: other bytes than {what}");
        let expected = format!("stepgate; fwd=uri-miss; fwd-status=200; detail={reason}");
        assert_eq!(response.cache_status(), expected, "{what}");
        assert_eq!(origin.count(), polls, "{reason}: {what}");
    }
    let sample = format!("stepgate_not_stored_total{{reason=\"{reason}\"}}");
    assert_eq!(gateway.metric(&sample).await, 2.0, "{sample}");
}

async fn assert_all_pass_unstored(reason: &str, bodies: &[Vec<u8>]) {
    for body in bodies {
        assert_passes_unstored(&[], body, reason, "").await;
    }
}

#[tokio::test]
async fn c23_status_that_is_not_terminal_is_not_final() {
    let status = r#""status": "completed""#;
    let bodies = [
        body("in_progress"),
        body("requires_action"),
        body("incomplete"),
        body("COMPLETED"),
        body("completed "),
        body(""),
        with(status, r#""status": null"#),
        with(status, r#""status": true"#),
        with(status, r#""status": ["completed"]"#),
        with(status, r#""status": {"status": "completed"}"#),
        with(status, r#""state": "completed""#),
        with(status, r#""Status": "completed""#),
        with(status, r#""nested": {"status": "completed"}"#),
    ];
    assert_all_pass_unstored("not_final", &bodies).await;
}

#[tokio::test]
async fn c23_duplicate_keys_are_not_stored() {
    let duplicate = |member: &str, first: &str| with("{\n", &format!("{{ {member}: {first},\n"));
    let mut bodies = vec![
        duplicate(r#""status""#, r#""in_progress""#),
        duplicate(r#""status""#, r#""completed""#),
        duplicate(r#""st\u0061tus""#, r#""in_progress""#),
        duplicate(r#""\u0073\u0074\u0061\u0074\u0075\u0073""#, "null"),
        duplicate(r#""object""#, r#""thread.run.step""#),
        duplicate(r#""obj\u0065ct""#, r#""thread.run.step""#),
        duplicate(r#""id""#, r#""step_1""#),
        duplicate(r#""\u0069d""#, r#""step_2""#),
        duplicate(r#""run_id""#, r#""run_1""#),
        duplicate(r#""thread_id""#, r#""thread_1""#),
    ];
    bodies.push(with("\n}\n", ",\n\"status\": \"in_progress\"}\n"));
    assert_all_pass_unstored("duplicate_member", &bodies).await;
}

#[tokio::test]
async fn c23_body_that_is_not_one_json_object_in_utf_8_is_not_stored() {
    let whole = body("completed");
    let bom = [b"\xef\xbb\xbf", &whole[..]].concat();
    let invalid = |bytes: &[u8]| {
        let at = whole.windows(5).position(|w| w == b"msg_1").unwrap();
        [&whole[..at], bytes, &whole[at..]].concat()
    };
    let bodies = [
        bom,
        [&whole[..], b"x"].concat(),
        [&whole[..], b"{}"].concat(),
        [&whole[..], b"\0"].concat(),
        [b"[", &whole[..], b"]"].concat(),
        whole[..whole.len() - 2].to_vec(),
        invalid(b"\xff"),
        invalid(b"\xc0\xaf"),
        invalid(b"\xed\xa0\x80"),
        invalid(b"\x01"),
        b"\"completed\"".to_vec(),
        b"null".to_vec(),
        b"data: {}\n\n".to_vec(),
        whole.iter().flat_map(|b| [*b, 0]).collect(),
        Vec::new(),
    ];
    assert_all_pass_unstored("not_json", &bodies).await;
}

#[tokio::test]
async fn c24_deeply_nested_json_does_not_crash_and_is_not_stored() {
    let deep = "[".repeat(100_000);
    let bodies = [
        deep.clone().into_bytes(),
        format!("{{\"x\": {deep}").into_bytes(),
        "{\"x\":".repeat(100_000).into_bytes(),
    ];
    assert_all_pass_unstored("not_json", &bodies).await;
}

#[tokio::test]
async fn c25_content_encoding_is_neither_stored_nor_decompressed() {
    // The body need not be valid gzip, because the gateway must not decode it.
    for (coding, body) in [
        (
            "gzip",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0".to_vec(),
        ),
        ("gzip", body("completed")),
        ("br", body("completed")),
    ] {
        let headers = [("content-encoding", coding)];
        assert_passes_unstored(&headers, &body, "encoded", "").await;
    }
}

#[tokio::test]
async fn c25_content_encoding_is_passed_through() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let bytes = respond("200 OK", &[("content-encoding", "gzip")], body("completed"));
    origin.next(vec![Action::Send(bytes)]);
    assert_eq!(
        gateway.get(STEP).await.header("content-encoding"),
        Some("gzip")
    );
}

#[tokio::test]
async fn c26_body_over_max_entry_bytes_is_streamed_unstored() {
    let toml = "[cache]\nmax_entry_bytes = \"4KiB\"\n";
    let padded = |size: usize| {
        let mut whole = body("completed");
        whole.resize(size, b' ');
        whole
    };
    for size in [4097, 300 * 1024, 3 * 1024 * 1024] {
        let large = padded(size);
        assert_passes_unstored(&[], &large, "too_large", toml).await;
        let chunked = [format!("{size:x}\r\n").as_bytes(), &large, b"\r\n0\r\n\r\n"].concat();
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, toml).await;
        let coding = [("transfer-encoding", "chunked")];
        origin.next(vec![Action::Send(respond("200 OK", &coding, chunked))]);
        let response = gateway.get(STEP).await;
        assert!(response.body == large, "other bytes, of {size}");
        assert!(response.cache_status().contains("detail=too_large"));
    }
    // Bodies of exactly max_entry_bytes are stored; 100 KiB is more than is scanned for secrets.
    for kib in [4, 100] {
        let origin = Origin::start().await;
        let toml = format!("[cache]\nmax_entry_bytes = \"{kib}KiB\"\n");
        let gateway = Gateway::start(&origin, &toml).await;
        let whole = padded(kib * 1024);
        origin.next(vec![Action::Send(respond("200 OK", &[], &whole))]);
        assert!(gateway.get(STEP).await.is_stored(), "{kib} KiB");
    }
}

#[tokio::test]
async fn c27_cache_poisoning_by_a_body_with_another_id_is_not_stored() {
    let mut bodies = Vec::new();
    for (member, id) in [
        ("id", "step_1"),
        ("run_id", "run_1"),
        ("thread_id", "thread_1"),
    ] {
        let right = format!(r#""{member}": "{id}""#);
        for wrong in [
            format!(r#""{member}": "{id}0""#),
            format!(r#""{member}": "{}""#, id.to_uppercase()),
            format!(r#""{member}": null"#),
            format!(r#""{member}": ["{id}"]"#),
            format!(r#""not_{member}": "{id}""#),
        ] {
            bodies.push(with(&right, &wrong));
        }
    }
    assert_all_pass_unstored("wrong_id", &bodies).await;
}

#[tokio::test]
async fn a_final_body_of_another_object_type_is_not_stored() {
    let right = r#""object": "thread.run.step""#;
    let bodies = [
        with(right, r#""object": "thread.run""#),
        with(right, r#""object": "thread.run.step.delta""#),
        with(right, r#""object": null"#),
        with(right, r#""kind": "thread.run.step""#),
    ];
    assert_all_pass_unstored("wrong_object", &bodies).await;
}

#[tokio::test]
async fn a_response_from_another_cache_is_not_stored() {
    for header in [
        ("age", "1"),
        ("age", "86400"),
        ("x-portkey-cache-status", "HIT"),
        ("x-portkey-cache-status", "hit"),
    ] {
        assert_passes_unstored(&[header], &body("completed"), "upstream_cached", "").await;
    }
}

#[tokio::test]
async fn a_response_that_only_names_a_cache_is_stored() {
    for header in [
        ("age", "0"),
        ("x-portkey-cache-status", "MISS"),
        ("x-portkey-cache-status", "DISABLED"),
        ("cache-control", "max-age=0, no-cache"),
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        origin.next(vec![Action::Send(respond(
            "200 OK",
            &[header],
            body("completed"),
        ))]);
        let response = gateway.get(STEP).await;
        assert!(
            response.is_stored(),
            "{header:?}: {}",
            response.cache_status()
        );
        assert!(gateway.get(STEP).await.is_hit(), "{header:?}");
    }
}

#[tokio::test]
async fn upstream_no_store_is_honored() {
    for value in ["no-store", "private, No-Store", "max-age=60,no-store"] {
        let headers = [("cache-control", value)];
        assert_passes_unstored(&headers, &body("completed"), "upstream_no_store", "").await;
    }
}

#[tokio::test]
async fn upstream_no_store_is_ignored_if_honor_no_store_is_false() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "[cache]\nhonor_no_store = false\n").await;
    let headers = [("cache-control", "no-store")];
    origin.next(vec![Action::Send(respond(
        "200 OK",
        &headers,
        body("completed"),
    ))]);
    assert!(gateway.get(STEP).await.is_stored());
}
