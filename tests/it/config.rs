//! The configuration through its public face: sources and their order, secrets, files, printing.

mod files;
mod headers;
mod misplaced;
mod printing;
mod tls;

use std::fs;
use std::path::PathBuf;

use stepgate::config::{Address, Config, Flags, LogFormat, Problems, Sources, Value};

/// An environment, as pairs.
type Env<'a> = &'a [(&'a str, &'a str)];

const KEYS: Env<'static> = &[
    ("PORTKEY_API_KEY", "canary-key"),
    ("PORTKEY_PROVIDER_VIRTUAL_KEY", "canary-virtual"),
];

fn load(file: Option<PathBuf>, flags: Flags, env: Env<'_>) -> Result<Config, Problems> {
    let env = |name: &str| {
        let found = env.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Config::load(&Sources {
        file,
        flags,
        env: &env,
    })
}

/// Loads `text` from a file in a folder of its own.
fn load_text(text: &str, env: Env<'_>) -> Result<Config, Problems> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("f.toml");
    fs::write(&path, text).expect("a file in it");
    load(Some(path), Flags::default(), env)
}

/// The problems as lines, without the folder.
#[track_caller]
fn told(result: Result<Config, Problems>) -> Vec<String> {
    let problems = result.expect_err("should be refused");
    problems
        .iter()
        .map(|problem| match problem.to_string().split_once("f.toml:") {
            Some((_, rest)) => format!("f.toml:{rest}"),
            None => problem.to_string(),
        })
        .collect()
}

/// Header names with their values' sources or literals.
fn headers(config: &Config) -> Vec<(String, String)> {
    let word = |value: &Value| match value {
        Value::Literal(text) => text.to_str().expect("literals are ASCII").to_owned(),
        Value::Secret(secret) => secret.source().to_string(),
    };
    let all = config.upstream.headers.iter();
    all.map(|h| (h.name.to_string(), word(&h.value))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn the_two_keys_in_the_environment_are_enough() {
    let config = load(None, Flags::default(), KEYS).unwrap();
    assert_eq!(
        config.upstream.base_url.to_string(),
        "https://api.portkey.ai/v1"
    );
    assert_eq!(config.rules.len(), 1);
    assert_eq!(config.log.filter, "info");
    assert_eq!(
        headers(&config),
        pairs(&[
            ("openai-beta", "assistants=v2"),
            ("x-portkey-api-key", "env:PORTKEY_API_KEY"),
            ("x-portkey-cache-force-refresh", "true"),
            ("x-portkey-virtual-key", "env:PORTKEY_PROVIDER_VIRTUAL_KEY"),
        ])
    );
}

#[test]
fn a_missing_key_is_named_with_the_ways_out() {
    let told = told(load(None, Flags::default(), &[("PORTKEY_API_KEY", " ")]));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("PORTKEY_API_KEY: is empty; "),
        "{told:?}"
    );
    assert!(told[1].starts_with("PORTKEY_PROVIDER_VIRTUAL_KEY: is not set; "));
    assert!(told[1].contains("[upstream.headers]"));
}

#[test]
fn a_flag_beats_the_environment_and_that_the_file() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\n[admin]\nlisten = \"127.0.0.1:2\"\n\
        [upstream]\nbase_url = \"http://file\"\n[log]\nformat = \"json\"\n";
    let mut env = vec![
        ("STEPGATE_LISTEN", "127.0.0.1:11, unix:/run/s.sock"),
        ("STEPGATE_ADMIN", "127.0.0.1:12"),
        ("STEPGATE_UPSTREAM", "http://env"),
        ("STEPGATE_LOG_FORMAT", "text"),
        ("STEPGATE_LOG", "stepgate=debug"),
    ];
    env.extend(KEYS);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.toml");
    fs::write(&path, file).unwrap();
    let flags = Flags {
        listen: vec!["127.0.0.1:21".to_owned()],
        admin: Some("127.0.0.1:22".to_owned()),
        upstream: Some("http://flag".to_owned()),
        log_format: Some(LogFormat::Json),
    };
    for (flags, env, listen, admin, upstream, format) in [
        (
            Flags::default(),
            KEYS,
            vec!["127.0.0.1:1"],
            2,
            "http://file",
            LogFormat::Json,
        ),
        (
            Flags::default(),
            &*env,
            vec!["127.0.0.1:11", "unix:/run/s.sock"],
            12,
            "http://env",
            LogFormat::Text,
        ),
        (
            flags,
            &*env,
            vec!["127.0.0.1:21"],
            22,
            "http://flag",
            LogFormat::Json,
        ),
    ] {
        let config = load(Some(path.clone()), flags, env).unwrap();
        let listening: Vec<String> = config
            .server
            .listen
            .iter()
            .map(Address::to_string)
            .collect();
        assert_eq!(listening, listen);
        assert_eq!(config.admin.listen.port(), admin);
        assert_eq!(config.upstream.base_url.to_string(), upstream);
        assert_eq!(config.log.format, format);
    }
}

#[test]
fn a_bad_flag_or_variable_is_named() {
    let flags = Flags {
        listen: vec!["8180".to_owned()],
        upstream: Some("https://user:canary@h".to_owned()),
        ..Flags::default()
    };
    let mut env = vec![
        ("STEPGATE_ADMIN", "here"),
        ("STEPGATE_LOG_FORMAT", "xml"),
        ("STEPGATE_LOG", "stepgate=loud"),
    ];
    env.extend(KEYS);
    let told = told(load(None, flags, &env));
    for (line, start) in told.iter().zip([
        "--listen: \"8180\" is not an address",
        "STEPGATE_ADMIN: \"here\" is not an address",
        "--upstream: contains a user name or password",
        "STEPGATE_LOG_FORMAT: \"xml\" is not known here",
        "STEPGATE_LOG: ",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(told.len(), 5, "{told:?}");
}

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_file() {
    let told = told(load_text(
        "[server]\nlisten = \"0.0.0.0:8180\"\nallow_unauthentcated = 1\n\n[upstream]\ntimeout = 5\n\
         headers = { x = { env = \"NONE\" } }\n[cache]\nttl = \"never\"\n[lgo]\n",
        &[],
    ));
    let starts = [
        "f.toml:2:10: server.listen: 0.0.0.0:8180 can be reached",
        "f.toml:3:1: server: unknown key \"allow_unauthentcated\"; did you mean \"allow_unauthenticated\"?",
        "f.toml:6:11: upstream.timeout: 5 has no unit",
        "f.toml:7:17: upstream.headers.x: the environment variable NONE is not set",
        "f.toml:9:7: cache.ttl: \"never\" is not a duration",
        "f.toml:10:2: unknown key \"lgo\"; did you mean \"log\"?",
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (line, start) in told.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn broken_toml_is_told_whole_with_what_is_wrong_besides() {
    let told = told(load_text(
        "[server]\nlisten = 127.0.0.1\nallow_unauthenticated = maybe\n[cache]\nttl = \"1h\"\nttl = \"2h\"\nmax = 1\n",
        &[],
    ));
    let lines: Vec<&str> = told
        .iter()
        .filter_map(|line| line.split(':').nth(1))
        .collect();
    assert_eq!(lines.first(), Some(&"2"), "{told:#?}");
    for line in ["2", "3", "6", "7"] {
        assert!(lines.contains(&line), "line {line} of {told:#?}");
    }
    assert!(!told.concat().contains("PORTKEY"), "{told:#?}");
}

#[test]
fn an_open_listener_stays_on_this_machine_unless_somebody_guards_it() {
    let flags = |listen: &str| Flags {
        listen: vec![listen.to_owned()],
        ..Flags::default()
    };
    for local in [
        "127.0.0.1:0",
        "127.9.9.9:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "unix:/s",
    ] {
        assert!(load(None, flags(local), KEYS).is_ok(), "{local}");
    }
    for wide in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
        let told = told(load(None, flags(wide), KEYS));
        assert!(told[0].starts_with("--listen: "), "{told:?}");
        for way in [
            "[[client]]",
            "loopback",
            "server.allow_unauthenticated = true",
        ] {
            assert!(told[0].contains(way), "{told:?}");
        }
    }
    for guard in [
        "allow_unauthenticated = true",
        "[[client]]\nname = \"a\"\ntoken = { env = \"PORTKEY_API_KEY\" }",
    ] {
        assert!(load_text(&format!("[server]\nlisten = \"0.0.0.0:1\"\n{guard}"), KEYS).is_ok());
    }
}
