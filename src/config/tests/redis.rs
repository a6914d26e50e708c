//! `[cache.redis]`: the problems of an invalid section, how it is printed, and what a reload keeps.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::{Config, Flags, Problems, Redis, SecretSource, Sources};
use super::{assert_each_rejected, assert_rejected, env, parse, problems_in};

/// Returns `[cache.redis]` with these lines and a prefix.
pub(super) fn section(lines: &str) -> String {
    format!("[cache.redis]\n{lines}\nprefix = \"p\"")
}

/// Parses `text` where the variable `URL` holds `url`.
pub(super) fn parse_with(text: &str, url: &str) -> Result<Config, Problems> {
    let env = |name: &str| match name {
        "URL" => Some(url.to_owned()),
        other => env(other),
    };
    let sources = Sources {
        file: Some(PathBuf::from("f.toml")),
        flags: Flags::default(),
        env: &env,
    };
    Config::parse(text, &sources)
}

#[track_caller]
pub(super) fn redis(read: Result<Config, Problems>) -> Redis {
    read.unwrap().cache.redis.unwrap()
}

#[test]
fn the_shared_tier_is_off_by_default() {
    assert_eq!(parse("[cache]").unwrap().cache.redis, None);
}

#[test]
fn url_and_prefix_are_enough() {
    let redis = redis(parse(&section("url = \"redis://redis.internal\"")));
    assert_eq!(redis.nodes.len(), 1);
    assert_eq!(redis.nodes[0].expose(), "redis://redis.internal");
    assert_eq!(redis.prefix, "p");
    assert_eq!(redis.command_timeout, Duration::from_millis(50));
    assert_eq!(redis.encryption_key, None);
}

#[test]
fn an_invalid_prefix_is_rejected() {
    let longest = "x".repeat(64);
    for prefix in ["p", "stepgate:billing", "A-z_0.9:", &longest] {
        let text = format!("[cache.redis]\nurl = \"redis://h\"\nprefix = {prefix:?}");
        assert_eq!(redis(parse(&text)).prefix, prefix);
    }
    let brace = "contains a brace; a cluster hashes only the text in braces, so all keys would be on \
                 one node; use 1 to 64 letters, digits, `.`, `_`, `:` and `-`";
    let other = "is not a prefix; use 1 to 64 letters, digits, `.`, `_`, `:` and `-`";
    let long = "x".repeat(65);
    for (prefix, words) in [
        ("{p}", brace),
        ("p{", brace),
        ("p}", brace),
        ("", other),
        ("a b", other),
        (" p", other),
        ("a/b", other),
        ("ä", other),
        ("a\nb", other),
        (long.as_str(), other),
    ] {
        let text = format!("[cache.redis]\nurl = \"redis://h\"\nprefix = {prefix:?}");
        assert_rejected(&[(&text, "f.toml:3:10: cache.redis.prefix: ", words)]);
    }
}

#[test]
fn a_command_timeout_is_between_a_millisecond_and_a_second() {
    let with_timeout =
        |text: &str| section(&format!("url = \"redis://h\"\ncommand_timeout = {text}"));
    for (text, millis) in [("\"1ms\"", 1), ("\"1s\"", 1000)] {
        let read = redis(parse(&with_timeout(text))).command_timeout;
        assert_eq!(read, Duration::from_millis(millis));
    }
    let place = "f.toml:3:19: cache.redis.command_timeout: ";
    assert_rejected(&[
        (
            &with_timeout("\"0s\""),
            place,
            "is out of range: from 1ms to 1s",
        ),
        (
            &with_timeout("\"2s\""),
            place,
            "is out of range: from 1ms to 1s",
        ),
        (&with_timeout("50"), place, "50 has no unit"),
    ]);
}

#[test]
fn an_encryption_key_is_a_secret_of_at_least_16_bytes() {
    let keyed = |value: &str| section(&format!("url = \"redis://h\"\nencryption_key = {value}"));
    let good = redis(parse(&keyed("{ env = \"STEPGATE_ENCRYPTION_KEY\" }")));
    let key = good.encryption_key.unwrap();
    assert_eq!(key.expose(), "canary-of-32-bytes-canary-canary");
    let sixteen = redis(parse_with(
        &keyed("{ env = \"URL\" }"),
        " 16-bytes-canary-\n",
    ));
    assert_eq!(sixteen.encryption_key.unwrap().expose().len(), 16);
    let place = "f.toml:3:18: cache.redis.encryption_key: ";
    assert_rejected(&[
        (
            &keyed("\"canary-of-32-bytes-canary-canary\""),
            place,
            "secrets come from the environment or files only",
        ),
        (
            &keyed("{ env = \"TOKEN_A\" }"),
            place,
            "env:TOKEN_A has fewer than 16 bytes; make one with `openssl rand -hex 32`",
        ),
        (&keyed("{ env = \"EMPTY\" }"), place, "env:EMPTY is empty"),
        (&keyed("{ env = \"NONE\" }"), place, "NONE is not set"),
        (&keyed("1"), place, "expected { env = \"NAME\" } or"),
    ]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let lines: Vec<String> = problems_in(
        "[cache.redis]\nurls = \"redis://canary\"\ncomand_timeout = \"1ms\"\nprefix = \"{\"\n\
         encryption_key = \"canary\"\ncolour = 1",
    )
    .lines()
    .map(str::to_owned)
    .collect();
    for (line, (place, words)) in lines.iter().zip([
        (
            "f.toml:1:1: cache.redis: ",
            "the key `url` is missing; write the URL of Redis or Valkey",
        ),
        (
            "f.toml:2:1: cache.redis: ",
            "unknown key \"urls\"; did you mean \"url\"?",
        ),
        (
            "f.toml:3:1: cache.redis: ",
            "unknown key \"comand_timeout\"; did you mean \"command_timeout\"?",
        ),
        ("f.toml:4:10: cache.redis.prefix: ", "contains a brace"),
        (
            "f.toml:5:18: cache.redis.encryption_key: ",
            "secrets come from",
        ),
        (
            "f.toml:6:1: cache.redis: ",
            "known here: url, prefix, command_timeout, encryption_key, ca_file",
        ),
    ]) {
        assert!(
            line.starts_with(place) && line.contains(words),
            "{line}\n{words}"
        );
    }
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert_each_rejected(
        r#"
        [cache.redis]\nurl = "redis://h" | 1:1: cache.redis: | the key `prefix` is missing; it separates the bodies of different accounts in one Redis
        [cache]\nredis = "redis://:canary@h" | 2:9: cache.redis: | expected a table, [cache.redis], found a string
        "#,
    );
}

#[test]
fn it_is_printed_without_secrets_and_parses_to_the_same() {
    let full = "url = { env = \"REDIS_URL\" }\ncommand_timeout = \"20ms\"\n\
                encryption_key = { env = \"STEPGATE_ENCRYPTION_KEY\" }";
    let cluster = "url = [{ env = \"REDIS_URL\" }, { env = \"REDIS_URL\" }]";
    let plain = "url = [\"redis://a:7000\", \"redis://b:7000\"]";
    for (lines, printed) in [
        (
            full,
            "\n[cache.redis]\nurl = { env = \"REDIS_URL\" } # redacted\nprefix = \"p\"\n\
             command_timeout = \"20ms\"\nencryption_key = { env = \"STEPGATE_ENCRYPTION_KEY\" } # redacted\n\
             \n[log]\n",
        ),
        (
            cluster,
            "\nurl = [{ env = \"REDIS_URL\" }, { env = \"REDIS_URL\" }] # redacted\n",
        ),
        (
            plain,
            "\nurl = [\"redis://a:7000\", \"redis://b:7000\"]\nprefix",
        ),
        (
            "url = \" unix:/run/s.sock \"",
            "\nurl = \"unix:/run/s.sock\"\nprefix = \"p\"\ncommand_timeout = \"50ms\"\n\n[log]\n",
        ),
    ] {
        let config = parse(&section(lines)).unwrap();
        let text = config.to_toml();
        assert!(text.contains(printed), "{text}\n{printed}");
        assert_eq!(parse(&text).unwrap(), config, "{text}");
        for shown in [text, format!("{config:?}")] {
            assert!(
                !shown.contains("canary") && !shown.contains("reader"),
                "{shown}"
            );
        }
    }
}

#[test]
fn a_reload_keeps_the_shared_tier_and_reports_that_it_needs_a_restart() {
    let keyed = |rest: &str| {
        section(&format!(
            "url = {{ env = \"URL\" }}\nencryption_key = {{ env = \"STEPGATE_ENCRYPTION_KEY\" }}{rest}"
        ))
    };
    let first = "redis://:canary@h";
    let running = parse_with(&keyed(""), first).unwrap();
    let plan = |running: &Config, text: &str, url: &str| {
        let env = |name: &str| match name {
            "URL" => Some(url.to_owned()),
            other => env(other),
        };
        let sources = Sources {
            file: Some(PathBuf::from("f.toml")),
            flags: Flags::default(),
            env: &env,
        };
        running.plan_reload(text, &sources).unwrap()
    };
    let same = plan(&running, &keyed(""), first);
    assert_eq!(same.needs_restart, [""; 0]);
    let spelled = plan(&running, &keyed("\ncommand_timeout = \"50ms\""), first);
    assert_eq!(spelled.needs_restart, [""; 0]);
    for (text, url) in [
        (keyed(""), "redis://:another@h"),
        (keyed("\ncommand_timeout = \"51ms\""), first),
        (keyed("").replace("\"p\"", "\"q\""), first),
        (
            keyed("").replace("STEPGATE_ENCRYPTION_KEY", "ANOTHER_KEY"),
            first,
        ),
        (
            keyed("").replace("{ env = \"URL\" }", "\"redis://h\""),
            first,
        ),
        ("[cache]".to_owned(), first),
    ] {
        let next = plan(&running, &format!("{text}\n[log]\naccess = \"all\""), url);
        assert_eq!(next.needs_restart, ["cache.redis"], "{text}");
        assert_eq!(next.config.cache, running.cache, "{text}");
        assert_ne!(
            next.config.log, running.log,
            "the other settings are applied"
        );
    }
    let without = parse("[cache]").unwrap();
    let next = plan(&without, &keyed(""), first);
    assert_eq!(next.needs_restart, ["cache.redis"]);
    assert_eq!(next.config.cache.redis, None);
}

#[test]
fn the_files_of_its_secrets_are_watched() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("url", "redis://:canary@h"),
        ("node", "redis://:canary@i"),
        ("key", "canary-canary-canary"),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let text = section(
        "url = [{ file = \"url\" }, { file = \"node\" }]\nencryption_key = { file = \"key\" }",
    );
    let sources = Sources {
        file: Some(folder.path().join("f.toml")),
        flags: Flags::default(),
        env: &env,
    };
    let config = Config::parse(&text, &sources).unwrap();
    let expected = ["key", "node", "url"].map(|name| folder.path().join(name));
    assert_eq!(config.files(), expected);
    let redis = config.cache.redis.unwrap();
    let is = |source: &SecretSource, path: &Path| *source == SecretSource::File(path.to_owned());
    assert!(is(redis.encryption_key.unwrap().source(), &expected[0]));
}

#[test]
fn roots_are_valid_with_tls_only() {
    let with = |url: &str, file: &str| section(&format!("url = {url:?}\nca_file = {file:?}"));
    let place = "f.toml:3:11: cache.redis.ca_file: ";
    assert_rejected(&[
        (
            &with("redis://h", "/nowhere/ca.pem"),
            place,
            "has no effect without TLS; write the url with \"rediss://\", or leave this out",
        ),
        (
            &with("unix:/run/s.sock", "/nowhere/ca.pem"),
            place,
            "has no effect without TLS",
        ),
        (
            &with("rediss://h", "/nowhere/ca.pem"),
            place,
            "/nowhere/ca.pem cannot be read",
        ),
    ]);
}

#[test]
fn a_node_is_insecure_without_tls_and_encryption_beyond_this_machine() {
    let insecure = |url: &str| {
        redis(parse(&section(&format!("url = {url}"))))
            .insecure_node()
            .cloned()
    };
    for url in [
        "\"redis://localhost\"",
        "\"redis://127.0.0.9:7000\"",
        "\"redis://[::1]\"",
        "\"unix:/run/s.sock\"",
        "\"rediss://h\"",
        "[\"valkeys://h\", \"valkeys://i\"]",
    ] {
        assert_eq!(insecure(url), None, "{url}");
    }
    for (url, node) in [
        ("\"redis://h\"", "redis://h"),
        ("\"valkey://10.0.0.1\"", "valkey://10.0.0.1"),
        ("\"redis://localhost.example\"", "redis://localhost.example"),
        ("[\"redis://127.0.0.1\", \"redis://i\"]", "redis://i"),
    ] {
        assert_eq!(insecure(url).unwrap().to_string(), node);
    }
    let key = "\"redis://h\"\nencryption_key = { env = \"STEPGATE_ENCRYPTION_KEY\" }";
    assert_eq!(insecure(key), None);
}
