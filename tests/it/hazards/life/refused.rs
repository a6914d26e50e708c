//! What is refused at the start, before anything listens.

use crate::support::process::run;

const ENVIRONMENT: [(&str, &str); 2] = [
    ("PORTKEY_API_KEY", "k"),
    ("PORTKEY_PROVIDER_VIRTUAL_KEY", "v"),
];

/// Exit 78, the place, and what is wrong.
async fn assert_refused(arguments: &[&str], place: &str, says: &str) {
    let (code, text) = run(&[&["serve"], arguments].concat(), &ENVIRONMENT).await;
    assert_eq!(code, Some(78), "{arguments:?}: {text}");
    assert!(
        text.contains(place) && text.contains(says),
        "{arguments:?}: {text}"
    );
    assert!(!text.contains("on=data"), "it listened: {text}");
}

/// As a flag and in the file, where the place is told.
async fn assert_refused_either_way(flag: &str, table: &str, key: &str, value: &str, says: &str) {
    assert_refused(&[flag, value], flag, says).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stepgate.toml").display().to_string();
    std::fs::write(&file, format!("[{table}]\n{key} = \"{value}\"\n")).unwrap();
    assert_refused(&["--config", &file], &format!("{file}:2:"), says).await;
}

#[tokio::test]
async fn c48_an_upstream_that_is_no_plain_http_url_is_refused() {
    for (url, says) in [
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
        assert_refused_either_way("--upstream", "upstream", "base_url", url, says).await;
    }
}

#[tokio::test]
async fn c48_an_open_listener_beyond_this_machine_is_refused() {
    for address in [
        "0.0.0.0:8180",
        "[::]:8180",
        "192.0.2.1:8180",
        "[2001:db8::1]:8180",
        "[::ffff:192.0.2.1]:8180",
    ] {
        let says = "can be reached from other machines";
        assert_refused_either_way("--listen", "server", "listen", address, says).await;
        assert_refused_either_way("--admin", "admin", "listen", address, "admin.token").await;
    }
}

#[tokio::test]
async fn c48_among_several_listeners_one_is_enough_to_be_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stepgate.toml").display().to_string();
    let listen = "[server]\nlisten = [\"127.0.0.1:0\", \"unix:/tmp/s.sock\", \"0.0.0.0:0\"]\n";
    std::fs::write(&file, listen).unwrap();
    assert_refused(
        &["--config", &file],
        &format!("{file}:2:"),
        "0.0.0.0:0 can be reached",
    )
    .await;
}

#[tokio::test]
async fn c48_everything_that_is_wrong_is_told_at_once() {
    let arguments = [
        "--upstream",
        "file:///x",
        "--listen",
        "0.0.0.0:1",
        "--admin",
        "0.0.0.0:2",
    ];
    for place in ["--upstream: ", "--listen: ", "--admin: "] {
        assert_refused(&arguments, place, "is not http or https").await;
    }
}
