//! Mistakes on the command line, in the environment and in the file: each problem is one line that names
//! the place and what would be right.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use tokio::process::Command;

use crate::support::gateway::ENVIRONMENT;
use crate::support::{process, within};

#[tokio::test]
async fn an_invalid_command_line_exits_2_with_a_suggestion() {
    for (arguments, words) in [
        (&["--confg", "f.toml"][..], "'--config'"),
        (&["chek"], "'check'"),
        (&["f.toml"], "--config f.toml"),
        (&["check", "f.toml"], "--config f.toml"),
        (&["-c", "f.toml"], "--config FILE"),
        (&["serve", "--port", "80"], "--listen 127.0.0.1:8180"),
        (&["--verbose"], "STEPGATE_LOG=debug"),
        (&["--api-key", "canary"], "PORTKEY_API_KEY"),
        (&["--log-format", "yaml"], "text, json"),
        (&["demo", "--upstream", "http://x"], "`stepgate serve`"),
        (&["--upstream", "http://x", "demo"], "leave out"),
        (&["health", "--listen", "x"], "`stepgate serve`"),
        (&["demo", "--duration", "20"], "such as 20s"),
        (&["demo", "--duration", "-1"], "such as 20s"),
        (&["demo", "--pollers", "many"], "from 1 to 1000"),
        (&["demo", "--pollers", "0"], "from 1 to 1000"),
        (&["completions"], "<SHELL>"),
        (&["completions", "sh"], "bash, elvish, fish"),
    ] {
        let (code, text) = process::run(arguments, &ENVIRONMENT).await;
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
        assert!(!text.contains("canary"), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn an_invalid_flag_or_variable_exits_78_with_its_name() {
    type Env = &'static [(&'static str, &'static str)];
    let cases: [(&[&str], Env, &str, &str); 19] = [
        (&["--listen", "8080"], &[], "--listen", "127.0.0.1:8080"),
        (
            &["--listen", "localhost:80"],
            &[],
            "--listen",
            "127.0.0.1:80",
        ),
        (&["--listen", "0.0.0.0:80"], &[], "--listen", "[[client]]"),
        (&["--listen", "unix:s"], &[], "--listen", "full path"),
        (&["--admin", "8181"], &[], "--admin", "127.0.0.1:8181"),
        (&["--admin", "here"], &[], "--admin", "127.0.0.1:8181"),
        (&["--listen", "here"], &[], "--listen", "127.0.0.1:8180"),
        (
            &[],
            &[("STEPGATE_ADMIN", "here")],
            "STEPGATE_ADMIN",
            "127.0.0.1:8181",
        ),
        (&["--admin", "0.0.0.0:81"], &[], "--admin", "admin.token"),
        (&["--upstream", "portkey"], &[], "--upstream", "https://"),
        (
            &["--upstream", "https://u:canary@x"],
            &[],
            "--upstream",
            "[upstream.headers]",
        ),
        (
            &["--config", "/no/such.toml"],
            &[],
            "/no/such.toml",
            "No such file",
        ),
        (
            &[],
            &[("STEPGATE_CONFIG", "/no/such.toml")],
            "/no/such.toml",
            "No such file",
        ),
        (
            &[],
            &[("STEPGATE_LISTEN", "a,127.0.0.1:1")],
            "STEPGATE_LISTEN",
            "\"a\" is not",
        ),
        (
            &[],
            &[("STEPGATE_LOG_FORMAT", "JSON")],
            "STEPGATE_LOG_FORMAT",
            "\"json\"",
        ),
        (
            &[],
            &[("STEPGATE_LOG", "loud")],
            "STEPGATE_LOG",
            "is not a level",
        ),
        (
            &[],
            &[("STEPGATE_LOG", "stepgate=loud")],
            "STEPGATE_LOG",
            "stepgate=debug",
        ),
        (
            &[],
            &[("STEPGATE_LOG", "info,dbg")],
            "STEPGATE_LOG",
            "\"dbg\" is not a level",
        ),
        (
            &[],
            &[("PORTKEY_API_KEY", "")],
            "PORTKEY_API_KEY",
            "is empty",
        ),
    ];
    for (flags, more, place, words) in cases {
        let env = [&ENVIRONMENT[..], more].concat();
        let arguments = [&["check"][..], flags].concat();
        let (code, text) = process::run(&arguments, &env).await;
        assert_eq!(code, Some(78), "{flags:?} {more:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{flags:?} {more:?}: {text}");
        assert!(text.starts_with(&format!("{place}: ")), "{text}");
        assert!(text.contains(words), "{flags:?} {more:?}: {text}");
        assert!(!text.contains("canary"), "{text}");
    }
    for filter in [
        "INFO",
        "debug,h2=warn",
        "stepgate",
        "stepgate::gateway=trace,",
        "3",
    ] {
        let env = [&ENVIRONMENT[..], &[("STEPGATE_LOG", filter)]].concat();
        let (code, text) = process::run(&["check"], &env).await;
        assert_eq!(code, Some(0), "{filter}: {text}");
    }
}

#[tokio::test]
async fn an_invalid_key_or_value_exits_78_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.toml");
    let name = file.display().to_string();
    for (text, place, words) in [
        ("listen = 1", "1:1", "admin.listen or server.listen"),
        ("[Server]", "1:2", "\"server\""),
        ("[server]\nport = 80", "2:1", "`listen` holds"),
        (
            "[server]\nallowed_hosts = \"a\"",
            "2:17",
            "[\"stepgate.internal\"]",
        ),
        ("[server]\nworkers = 4", "2:1", "TOKIO_WORKER_THREADS"),
        (
            "[server]\nopen = true",
            "2:1",
            "renamed to \"allow_unauthenticated\"",
        ),
        (
            "[upstream]\nmax_hold = \"1s\"",
            "2:1",
            "renamed to \"max_retry_after\"",
        ),
        (
            "[server]\nbase_url = \"http://a\"",
            "2:1",
            "upstream.base_url",
        ),
        ("[upstream]\nurl = \"x\"", "2:1", "`base_url`"),
        ("[upstream]\nproxy = \"x\"", "2:1", "HTTPS_PROXY"),
        ("[upstream]\ntimeout = 60", "2:11", "\"60s\""),
        (
            "[upstream]\nmax_connections = 9",
            "2:1",
            "server.max_connections",
        ),
        (
            "[upstream.query]\napi_key = \"canary\"",
            "2:1",
            "[upstream.headers]",
        ),
        (
            "[upstream.headers]\nx-key = \"canary\"",
            "2:9",
            "{ env = \"NAME\" }",
        ),
        (
            "[upstream.headers]\nx-key = { env = \"sk-canary\" }",
            "2:17",
            "the name, not the value",
        ),
        (
            "[cache]\nmax_entry_bytes = \"1GiB\"",
            "2:19",
            "1GiB is more than cache.max_bytes (256MiB)",
        ),
        (
            "[cache]\nmax_bytes = \"64KiB\"",
            "2:13",
            "64KiB is less than cache.max_entry_bytes (1MiB)",
        ),
        (
            "[server]\nlame_duck = \"30s\"",
            "2:13",
            "write server.lame_duck = \"29s\" or less, or server.drain_timeout = \"31s\"",
        ),
        (
            "[server]\ndrain_timeout = \"5s\"\nlame_duck = \"10s\"",
            "3:13",
            "10s is too long for server.drain_timeout (5s)",
        ),
        (
            "[upstream]\ntimeout = \"50ms\"",
            "2:11",
            "50ms is shorter than upstream.coalesce_window (100ms)",
        ),
        ("[log]\nlevel = \"debug\"", "2:1", "STEPGATE_LOG"),
        ("[log]\nids = \"yes\"", "2:7", "true or false"),
        ("[client]\nname = \"a\"", "1:1", "[[client]]"),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, problems) = process::run(&["check", "--config", &name], &ENVIRONMENT).await;
        assert_eq!(code, Some(78), "{text}: {problems}");
        assert_eq!(problems.lines().count(), 1, "{text}: {problems}");
        assert!(
            problems.starts_with(&format!("{name}:{place}: ")),
            "{text}: {problems}"
        );
        assert!(problems.contains(words), "{text}: {problems}");
        assert!(!problems.contains("canary"), "{problems}");
        // The line names the key once, at its beginning.
        let key = problems.split(": ").nth(1).unwrap();
        assert!(
            !key.contains('.') || problems.matches(key).count() < 3,
            "{problems}"
        );
        let doubled = format!("{key}: {key}");
        assert!(!problems.contains(&doubled), "{problems}");
    }
}

/// Each mistake gives one line. Its consequences give none.
#[tokio::test]
async fn a_toml_syntax_error_exits_78_with_its_place() {
    const QUOTE: &str = "strings must be quoted";
    const LOWER_CASE: &str = "true or false, in small letters";
    const EQUALS: &str = "`=` between a key and its value";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.toml");
    let name = file.display().to_string();
    for (text, place, words) in [
        ("[server]\nlisten = 127.0.0.1:8180", "2:", QUOTE),
        ("[server]\nlisten = ::1", "2:", QUOTE),
        ("[server]\nlisten = unix:/run/s", "2:", QUOTE),
        ("[upstream]\ntimeout = 60s", "2:", QUOTE),
        ("[upstream]\nbase_url = https://a/v1", "2:", QUOTE),
        ("[upstream.headers]\nx-key = canary", "2:", QUOTE),
        ("[upstream.headers]\nx-key = { env = canary }", "2:", QUOTE),
        ("[upstream.headers]\nx-key = { env = CANARY }", "2:", QUOTE),
        ("[server]\nallow_unauthenticated = True", "2:", LOWER_CASE),
        (
            "[server]\nallow_unauthenticated = FALSE # or not",
            "2:",
            LOWER_CASE,
        ),
        ("[server]\nallow_unauthenticated = yes", "2:", LOWER_CASE),
        (
            "[server]\nallow_unauthenticated =",
            "2:",
            "value is missing",
        ),
        ("[server]\nmax_connections = 09", "2:", "leading zero"),
        ("[upstream]\nbase_url: \"https://a/v1\"", "2:", EQUALS),
        ("[upstream.headers]\nx = { env: \"A\" }", "2:", EQUALS),
        ("server:\n", "1:", EQUALS),
        (
            "[server]\nallow_unauthenticated = true\nallow_unauthenticated = false",
            "3:1",
            "the key `allow_unauthenticated` occurs twice",
        ),
        (
            "[log]\nids = true\n[cache]\n[log]\n",
            "4:2",
            "the table [log] occurs twice",
        ),
        (
            "[server\nlisten = \"127.0.0.1:1\"\nallow_unauthenticated = true\n[log]\nids = true",
            "1:8",
            "expected `]`",
        ),
        ("[[client]\nname = \"a\"\ntoken = 1", "1:10", "expected `]`"),
        (
            "[server]\nlisten = [\"127.0.0.1:1\"\nallow_unauthenticated = true\n[log]\nids = true",
            "3:1",
            "add `]`",
        ),
        ("[server]\nlisten == 1", "2:9", "extra `=`"),
        (
            "[server]\nlisten = \"127.0.0.1:1\nallow_unauthenticated = true",
            "2:22",
            "a string is not closed",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, problems) = process::run(&["check", "--config", &name], &ENVIRONMENT).await;
        assert_eq!(code, Some(78), "{text}: {problems}");
        assert_eq!(problems.lines().count(), 1, "{text}: {problems}");
        let place = format!("{name}:{place}");
        assert!(problems.starts_with(&place), "{text}: {problems}");
        assert!(problems.contains(words), "{text}: {problems}");
        assert!(!problems.to_lowercase().contains("canary"), "{problems}");
    }
    // Later lines are validated all the same.
    std::fs::write(
        &file,
        "[server\nallow_unauthenticated = 1\n[log]\nids = 1\n[cache]\nttl = 5s",
    )
    .unwrap();
    let (_, problems) = process::run(&["check", "--config", &name], &ENVIRONMENT).await;
    let places: Vec<&str> = problems.lines().map(|l| &l[name.len()..][..3]).collect();
    assert_eq!(places, [":1:", ":4:", ":6:"], "{problems}");
}

#[tokio::test]
async fn a_variable_that_is_not_unicode_exits_78() {
    let folder = tempfile::tempdir().unwrap();
    for (name, words) in [
        ("HTTPS_PROXY", "HTTPS_PROXY: "),
        ("STEPGATE_ADMIN", "STEPGATE_ADMIN: "),
        ("PORTKEY_API_KEY", "PORTKEY_API_KEY: "),
        ("STEPGATE_CONFIG", "cannot be read"),
    ] {
        let value = OsStr::from_bytes(b"http://canary\xff:80");
        let mut command = Command::new(env!("CARGO_BIN_EXE_stepgate"));
        command.arg("check").current_dir(folder.path());
        command.env_clear().envs(ENVIRONMENT).env(name, value);
        let output = within("its end", command.kill_on_drop(true).output()).await;
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{name}: {text}");
        assert!(text.contains(words), "{name}: {text}");
    }
}
