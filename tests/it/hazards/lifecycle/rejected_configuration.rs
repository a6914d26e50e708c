//! Insecure configurations are rejected at the start, before anything listens (item 48).

use crate::support::process::run;

const ENVIRONMENT: [(&str, &str); 2] = [
    ("PORTKEY_API_KEY", "k"),
    ("PORTKEY_PROVIDER_VIRTUAL_KEY", "v"),
];

/// Asserts that `serve` exits with 78 and prints the place and the problem.
async fn assert_rejected(arguments: &[&str], place: &str, problem: &str) {
    let (code, text) = run(&[&["serve"], arguments].concat(), &ENVIRONMENT).await;
    assert_eq!(code, Some(78), "{arguments:?}: {text}");
    assert!(
        text.contains(place) && text.contains(problem),
        "{arguments:?}: {text}"
    );
    assert!(!text.contains("on=data"), "the gateway listened: {text}");
}

/// Asserts the same of a value as a flag and in the file, each with its place.
async fn assert_rejected_as_flag_and_key(
    flag: &str,
    table: &str,
    key: &str,
    value: &str,
    problem: &str,
) {
    assert_rejected(&[flag, value], flag, problem).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stepgate.toml").display().to_string();
    std::fs::write(&file, format!("[{table}]\n{key} = \"{value}\"\n")).unwrap();
    assert_rejected(&["--config", &file], &format!("{file}:2:"), problem).await;
}

#[tokio::test]
async fn c48_base_url_with_another_scheme_or_userinfo_is_rejected() {
    for (url, problem) in [
        (
            "file:///etc/passwd",
            "the scheme \"file\" is not http or https",
        ),
        ("file:/etc/passwd", "is not http or https"),
        ("unix:///run/upstream.sock", "is not http or https"),
        (
            "http://user:password@127.0.0.1/v1",
            "contains a user name or password",
        ),
        (
            "https://user@api.portkey.ai/v1",
            "contains a user name or password",
        ),
        (
            "https://:password@api.portkey.ai",
            "contains a user name or password",
        ),
        ("http://@127.0.0.1/v1", "contains a user name or password"),
        ("//api.portkey.ai/v1", "has no scheme"),
        ("http://", "has no host"),
        ("http://h:99999/", "is not a host with an optional port"),
        ("http://h/v1?key=1", "contains a query"),
        ("http://h/v1#f", "contains a fragment"),
        ("http://h/../v1", "is not plain"),
        ("http://h/%2e%2e/v1", "is not plain"),
    ] {
        assert_rejected_as_flag_and_key("--upstream", "upstream", "base_url", url, problem).await;
    }
}

#[tokio::test]
async fn c48_open_proxy_a_listener_beyond_loopback_without_clients_is_rejected() {
    for address in [
        "0.0.0.0:8180",
        "[::]:8180",
        "192.0.2.1:8180",
        "[2001:db8::1]:8180",
        "[::ffff:192.0.2.1]:8180",
    ] {
        let problem = "can be reached from other machines";
        assert_rejected_as_flag_and_key("--listen", "server", "listen", address, problem).await;
        assert_rejected_as_flag_and_key("--admin", "admin", "listen", address, "admin.token").await;
    }
}

#[tokio::test]
async fn c48_open_proxy_one_of_several_listeners_is_enough_to_be_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stepgate.toml").display().to_string();
    let listen = "[server]\nlisten = [\"127.0.0.1:0\", \"unix:/tmp/s.sock\", \"0.0.0.0:0\"]\n";
    std::fs::write(&file, listen).unwrap();
    assert_rejected(
        &["--config", &file],
        &format!("{file}:2:"),
        "0.0.0.0:0 can be reached",
    )
    .await;
}

#[tokio::test]
async fn c48_all_configuration_problems_are_reported_at_once() {
    let arguments = [
        "--upstream",
        "file:///x",
        "--listen",
        "0.0.0.0:1",
        "--admin",
        "0.0.0.0:2",
    ];
    for place in ["--upstream: ", "--listen: ", "--admin: "] {
        assert_rejected(&arguments, place, "is not http or https").await;
    }
}
