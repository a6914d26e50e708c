//! The configuration through its public API: sources and their priority, secrets, files, printing.

mod files;
mod headers;
mod literal_secrets;
mod printing;
mod tls;

use std::fs;
use std::path::PathBuf;

use stepgate::config::{Address, Config, Flags, LogFormat, Problems, Sources, Value};

/// Holds an environment as pairs of name and value.
type Env<'a> = &'a [(&'a str, &'a str)];

const KEYS: Env<'static> = &[
    ("PORTKEY_API_KEY", "canary-key"),
    ("PORTKEY_PROVIDER_VIRTUAL_KEY", "canary-virtual"),
];

fn load(file: Option<PathBuf>, flags: Flags, env: Env<'_>) -> Result<Config, Problems> {
    let env = |name: &str| {
        let found = env.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Config::load(&Sources {
        file,
        flags,
        env: &env,
    })
}

/// Loads `text` from a file in its own temporary folder.
fn load_text(text: &str, env: Env<'_>) -> Result<Config, Problems> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("f.toml");
    fs::write(&path, text).expect("a file in it");
    load(Some(path), Flags::default(), env)
}

/// Returns the problems without the folder of the file, one line each.
#[track_caller]
fn problems_of(result: Result<Config, Problems>) -> Vec<String> {
    let problems = result.expect_err("the configuration is rejected");
    problems
        .iter()
        .map(|problem| match problem.to_string().split_once("f.toml:") {
            Some((_, rest)) => format!("f.toml:{rest}"),
            None => problem.to_string(),
        })
        .collect()
}

/// Returns the header names with their literals or sources.
fn headers(config: &Config) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::Literal(literal) => literal.to_str().expect("literals are ASCII").to_owned(),
        Value::Secret(secret) => secret.source().to_string(),
    };
    let all = config.upstream.headers.iter();
    all.map(|h| (h.name.to_string(), text(&h.value))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn the_two_portkey_variables_are_enough() {
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
fn a_missing_default_credential_is_reported_with_the_alternatives() {
    let problems = problems_of(load(None, Flags::default(), &[("PORTKEY_API_KEY", " ")]));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("PORTKEY_API_KEY: is empty; "),
        "{problems:?}"
    );
    assert!(problems[1].starts_with("PORTKEY_PROVIDER_VIRTUAL_KEY: is not set; "));
    assert!(problems[1].contains("[upstream.headers]"));
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
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
fn an_invalid_flag_or_variable_is_named() {
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
    let problems = problems_of(load(None, flags, &env));
    for (line, start) in problems.iter().zip([
        "--listen: \"8180\" is not an address",
        "STEPGATE_ADMIN: \"here\" is not an address",
        "--upstream: contains a user name or password",
        "STEPGATE_LOG_FORMAT: \"xml\" is not allowed",
        "STEPGATE_LOG: ",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(problems.len(), 5, "{problems:?}");
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_file() {
    let problems = problems_of(load_text(
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
    assert_eq!(problems.len(), starts.len(), "{problems:#?}");
    for (line, start) in problems.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn syntax_errors_are_reported_with_all_other_problems() {
    let problems = problems_of(load_text(
        "[server]\nlisten = 127.0.0.1\nallow_unauthenticated = maybe\n[cache]\nttl = \"1h\"\nttl = \"2h\"\nmax = 1\n",
        &[],
    ));
    let lines: Vec<&str> = problems
        .iter()
        .filter_map(|line| line.split(':').nth(1))
        .collect();
    assert_eq!(lines.first(), Some(&"2"), "{problems:#?}");
    for line in ["2", "3", "6", "7"] {
        assert!(lines.contains(&line), "line {line} of {problems:#?}");
    }
    assert!(!problems.concat().contains("PORTKEY"), "{problems:#?}");
}

#[test]
fn an_open_listener_beyond_loopback_needs_clients_or_allow_unauthenticated() {
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
        let problems = problems_of(load(None, flags(wide), KEYS));
        assert!(problems[0].starts_with("--listen: "), "{problems:?}");
        for remedy in [
            "[[client]]",
            "loopback",
            "server.allow_unauthenticated = true",
        ] {
            assert!(problems[0].contains(remedy), "{problems:?}");
        }
    }
    for guard in [
        "allow_unauthenticated = true",
        "[[client]]\nname = \"a\"\ntoken = { env = \"PORTKEY_API_KEY\" }",
    ] {
        assert!(load_text(&format!("[server]\nlisten = \"0.0.0.0:1\"\n{guard}"), KEYS).is_ok());
    }
}

#[test]
fn all_renamed_keys_are_reported_at_once() {
    let problems = problems_of(load_text(
        "[server]\nopen = true\nhosts = []\nmax_waiters = 1\n[upstream]\nmax_hold = \"1s\"\n\
         forward_headers = []\n[cache.redis]\nurl = \"redis://h\"\nprefix = \"p\"\nbudget = \"9ms\"\n",
        KEYS,
    ));
    assert_eq!(
        problems,
        [
            "f.toml:2:1: server: unknown key \"open\"; renamed to \"allow_unauthenticated\"",
            "f.toml:3:1: server: unknown key \"hosts\"; renamed to \"allowed_hosts\"",
            "f.toml:4:1: server: unknown key \"max_waiters\"; renamed to \"max_long_polls\"",
            "f.toml:6:1: upstream: unknown key \"max_hold\"; renamed to \"max_retry_after\"",
            "f.toml:7:1: upstream: unknown key \"forward_headers\"; renamed to \"vary_headers\"",
            "f.toml:11:1: cache.redis: unknown key \"budget\"; renamed to \"command_timeout\"",
        ]
    );
}
