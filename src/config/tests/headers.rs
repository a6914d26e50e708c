//! Header tables: which headers may be injected or vary the key, and that credentials are no literals.

use super::{assert_each_rejected, assert_rejected, parse, problems_in};

#[test]
fn invalid_injected_headers_are_rejected() {
    let place = "f.toml:2:";
    for (line, words) in [
        ("host = \"x\"", "the gateway controls host"),
        (
            "Transfer-Encoding = \"chunked\"",
            "the gateway controls transfer-encoding",
        ),
        ("x-forwarded-for = \"x\"", "the gateway controls"),
        (
            "\"a\\nb\" = \"x\"",
            "upstream.headers.a\\nb: is not a header name",
        ),
        ("\"a b\" = \"x\"", "is not a header name"),
        ("x = \"\"", "write false"),
        (
            "x = \"a\\nb\"",
            "contains characters that no header can carry",
        ),
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
            "env:UMLAUT contains characters that no header can carry",
        ),
        (
            "x = { file = \"/does/not/exist\" }",
            "/does/not/exist cannot be read",
        ),
        (
            "x = { env = \"TOKEN_A\", file = \"x\" }",
            "needs exactly one of `env` and `file`",
        ),
        ("x = {}", "needs exactly one of `env` and `file`"),
        (
            "x = { evn = \"TOKEN_A\", file = \"/dev/null\" }",
            "unknown key \"evn\"; did you mean \"env\"?",
        ),
    ] {
        let problems = problems_in(&format!("[upstream.headers]\n{line}"));
        assert!(
            problems.starts_with(place) && problems.contains(words),
            "{line}\n{problems}"
        );
        assert!(!problems.contains("canary"), "{problems}");
    }
}

#[test]
fn a_literal_credential_is_rejected_and_not_repeated() {
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
        assert_rejected(&[(
            &format!("[upstream.headers]\n{name} = \"canary\""),
            "f.toml:2:",
            "secrets come from the environment or files only",
        )]);
    }
    assert_each_rejected(
        r#"
        [admin]\ntoken = "canary" | 2:9: admin.token: | secrets come from
        [[client]]\nname = "a"\ntoken = "canary" | 3:9: client.token: | secrets come from
        [upstream.query]\napi-key = "canary" | 2:1: upstream.query.api-key: | queries end up in logs
        "#,
    );
}

#[test]
fn invalid_vary_headers_are_rejected() {
    for (name, words) in [
        ("authorization", "a client's value is never sent"),
        ("cookie", "is never sent"),
        ("x-portkey-config", "is never sent"),
        ("x-portkey-custom-host", "is never sent"),
        ("openai-beta", "is injected"),
        ("connection", "the gateway controls"),
        ("If-None-Match", "the gateway controls"),
        ("user-agent", "is always sent"),
    ] {
        let text = format!("[upstream]\nvary_headers = [{name:?}]");
        assert_rejected(&[(&text, "f.toml:2:17: upstream.vary_headers: ", words)]);
    }
    let read = parse("[upstream]\nvary_headers = [\"X-Tenant\", \"x-portkey-metadata\"]").unwrap();
    assert_eq!(
        read.upstream.vary_headers,
        ["x-tenant", "x-portkey-metadata"]
    );
}
