//! What people get wrong on the command line, in the environment and in the file: each is told what
//! would be right, on one line that names the place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use tokio::process::Command;

use crate::support::gateway::ENVIRONMENT;
use crate::support::{process, within};

#[tokio::test]
async fn on_the_command_line() {
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
async fn in_what_flags_and_variables_hold() {
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
        (&[], &[("STEPGATE_LOG", "loud")], "STEPGATE_LOG", "no level"),
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
            "\"dbg\" is no level",
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
async fn in_the_file() {
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
            "the name, not what",
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
        let (code, told) = process::run(&["check", "--config", &name], &ENVIRONMENT).await;
        assert_eq!(code, Some(78), "{text}: {told}");
        assert_eq!(told.lines().count(), 1, "{text}: {told}");
        assert!(
            told.starts_with(&format!("{name}:{place}: ")),
            "{text}: {told}"
        );
        assert!(told.contains(words), "{text}: {told}");
        assert!(!told.contains("canary"), "{told}");
        // The key stands in front, once.
        let key = told.split(": ").nth(1).unwrap();
        assert!(
            !key.contains('.') || told.matches(key).count() < 3,
            "{told}"
        );
        let doubled = format!("{key}: {key}");
        assert!(!told.contains(&doubled), "{told}");
    }
}

/// Each slip is one line, and what follows from it none.
#[tokio::test]
async fn in_the_toml_itself() {
    const QUOTE: &str = "strings must be quoted";
    const SMALL: &str = "true or false, in small letters";
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
        ("[server]\nallow_unauthenticated = True", "2:", SMALL),
        (
            "[server]\nallow_unauthenticated = FALSE # or not",
            "2:",
            SMALL,
        ),
        ("[server]\nallow_unauthenticated = yes", "2:", SMALL),
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
            "the key `allow_unauthenticated` is there twice",
        ),
        (
            "[log]\nids = true\n[cache]\n[log]\n",
            "4:2",
            "[log] is there twice",
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
            "`]` is missing",
        ),
        ("[server]\nlisten == 1", "2:9", "extra `=`"),
        (
            "[server]\nlisten = \"127.0.0.1:1\nallow_unauthenticated = true",
            "2:22",
            "a string is not closed",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, told) = process::run(&["check", "--config", &name], &ENVIRONMENT).await;
        assert_eq!(code, Some(78), "{text}: {told}");
        assert_eq!(told.lines().count(), 1, "{text}: {told}");
        let place = format!("{name}:{place}");
        assert!(told.starts_with(&place), "{text}: {told}");
        assert!(told.contains(words), "{text}: {told}");
        assert!(!told.to_lowercase().contains("canary"), "{told}");
    }
    // What stands behind it is judged all the same.
    std::fs::write(
        &file,
        "[server\nallow_unauthenticated = 1\n[log]\nids = 1\n[cache]\nttl = 5s",
    )
    .unwrap();
    let (_, told) = process::run(&["check", "--config", &name], &ENVIRONMENT).await;
    let places: Vec<&str> = told.lines().map(|l| &l[name.len()..][..3]).collect();
    assert_eq!(places, [":1:", ":4:", ":6:"], "{told}");
}

#[tokio::test]
async fn in_a_variable_that_is_no_text() {
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
