//! Header tables: what may be injected, what may pass, and that no credential is written down.

use super::{parse, refused, told};

#[test]
fn headers_that_may_not_be_injected_are_refused() {
    let place = "f.toml:2:";
    for (line, words) in [
        ("host = \"x\"", "the gateway itself decides about host"),
        (
            "Transfer-Encoding = \"chunked\"",
            "the gateway itself decides about transfer-encoding",
        ),
        ("x-forwarded-for = \"x\"", "the gateway itself decides"),
        (
            "\"a\\nb\" = \"x\"",
            "upstream.headers.a\\nb: is not a header name",
        ),
        ("\"a b\" = \"x\"", "is not a header name"),
        ("x = \"\"", "write false"),
        ("x = \"a\\nb\"", "contains what no header can carry"),
        ("x = true", "or false to send none"),
        (
            "x = { env = \"NONE\" }",
            "the environment variable NONE is not set",
        ),
        ("x = { env = \"EMPTY\" }", "env:EMPTY is empty"),
        (
            "x = { env = \"TWO_LINES\" }",
            "env:TWO_LINES contains a control character",
        ),
        (
            "x = { env = \"UMLAUT\" }",
            "env:UMLAUT contains what no header can carry",
        ),
        (
            "x = { file = \"/does/not/exist\" }",
            "/does/not/exist cannot be read",
        ),
        (
            "x = { env = \"TOKEN_A\", file = \"x\" }",
            "expected exactly one of them",
        ),
        ("x = {}", "expected exactly one of them"),
        (
            "x = { evn = \"TOKEN_A\", file = \"/dev/null\" }",
            "unknown key \"evn\"; did you mean \"env\"?",
        ),
    ] {
        let told = told(&format!("[upstream.headers]\n{line}"));
        assert!(
            told.starts_with(place) && told.contains(words),
            "{line}\n{told}"
        );
        assert!(!told.contains("canary"), "{told}");
    }
}

#[test]
fn a_literal_credential_is_refused_and_not_repeated() {
    for name in [
        "authorization",
        "Proxy-Authorization",
        "api-key",
        "x-api-key",
        "x-portkey-api-key",
        "x-portkey-virtual-key",
        "x-auth-token",
        "cookie",
    ] {
        refused(&[(
            &format!("[upstream.headers]\n{name} = \"canary\""),
            "f.toml:2:",
            "secrets come from the environment or files only",
        )]);
    }
    refused(&[
        (
            "[admin]\ntoken = \"canary\"",
            "f.toml:2:9: admin.token: ",
            "secrets come from",
        ),
        (
            "[[client]]\nname = \"a\"\ntoken = \"canary\"",
            "f.toml:3:9: client.token: ",
            "secrets come from",
        ),
        (
            "[upstream.query]\napi-key = \"canary\"",
            "f.toml:2:1: upstream.query.api-key: ",
            "a query cannot carry one",
        ),
    ]);
}

#[test]
fn headers_that_may_not_be_passed_on_are_refused() {
    for (name, words) in [
        ("authorization", "never goes up from a caller"),
        ("cookie", "never goes up"),
        ("x-portkey-config", "never goes up"),
        ("x-portkey-custom-host", "never goes up"),
        ("openai-beta", "is injected"),
        ("connection", "the gateway itself decides"),
        ("If-None-Match", "the gateway itself decides"),
        ("user-agent", "goes up anyway"),
    ] {
        let text = format!("[upstream]\nvary_headers = [{name:?}]");
        refused(&[(&text, "f.toml:2:17: upstream.vary_headers: ", words)]);
    }
    let read = parse("[upstream]\nvary_headers = [\"X-Tenant\", \"x-portkey-metadata\"]").unwrap();
    assert_eq!(
        read.upstream.vary_headers,
        ["x-tenant", "x-portkey-metadata"]
    );
}
