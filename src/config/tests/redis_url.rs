//! The URLs of the shared tier, and the problems of invalid ones.

use proptest::prelude::*;
use redis::IntoConnectionInfo;

use super::super::{Config, Problems, RedisUrl};
use super::redis::{parse_with, redis, section};
use super::{assert_rejected, parse};

fn literal(url: &str) -> Result<Config, Problems> {
    parse(&section(&format!("url = {url:?}")))
}

fn secret(url: &str) -> Result<Config, Problems> {
    parse_with(&section("url = { env = \"URL\" }"), url)
}

/// Asserts that a URL is rejected with these words, as a literal and as a secret.
#[track_caller]
fn assert_rejected_everywhere(url: &str, words: &str) {
    let problems = literal(url).unwrap_err().to_string();
    let place = "f.toml:2:7: cache.redis.url: ";
    let expected = format!("{place}{words}");
    assert!(
        problems.starts_with(&expected),
        "{url}\n{problems}\n{expected}"
    );
    let problems = secret(url).unwrap_err().to_string();
    let expected = format!("{place}env:URL {words}");
    assert!(
        problems.starts_with(&expected),
        "{url}\n{problems}\n{expected}"
    );
    assert!(!problems.contains("canary"), "{problems}");
}

#[test]
fn a_url_that_the_client_accepts_is_accepted() {
    for url in [
        "redis://h",
        "redis://redis.internal:6380/3",
        "REDIS://127.0.0.1/",
        "redis://[::1]:6379",
        "rediss://h?protocol=resp3",
        "valkey://h_1",
        "valkeys://h",
        "unix:/run/redis/redis.sock",
        "redis+unix:///run/redis.sock?db=2",
        "valkey+unix:///run/redis.sock",
    ] {
        assert_eq!(redis(literal(url)).nodes[0].expose(), url);
        assert_eq!(redis(secret(url)).nodes[0].expose(), url);
    }
}

#[test]
fn a_url_that_the_client_rejects_or_partly_ignores_is_rejected() {
    let no_scheme = "begins with none of redis:, rediss:, valkey:, valkeys:, unix:, redis+unix:, \
                     valkey+unix:; write one like \"redis://redis.internal:6379\"";
    let invalid = "is not a valid URL (percent-encode special characters in a user name or \
                   password: `#` as %23); write one like";
    let nowhere = "names a host or port that no client can connect to; write one like";
    let database = "names a database that is not a number; write 0 or more";
    let query = "has a query parameter other than ";
    let path = "needs the full path of a socket, like \"unix:/run/redis/redis.sock\"";
    for (url, words) in [
        ("redis.internal:6379", no_scheme),
        ("canary", no_scheme),
        ("http://canary", no_scheme),
        ("redis:canary", "has no host; write one like"),
        ("redis:///0", "has no host; "),
        ("redis://:canary/slash@h", invalid),
        ("redis://h:99999", invalid),
        ("redis://:%ff@h", invalid),
        ("redis://h:0", nowhere),
        ("redis://0.0.0.0", nowhere),
        ("redis://[::]", nowhere),
        ("redis://a..canary", nowhere),
        ("redis://canary%20", nowhere),
        (
            "rediss://h#insecure",
            "contains a fragment; leave it out, because certificates are always checked",
        ),
        ("redis://canary#canary@h", "contains a fragment"),
        ("redis://h/canary", database),
        ("redis://h/-1", database),
        ("unix:/s?db=canary", database),
        ("redis://h?password=canary", query),
        (
            "redis://h?canary",
            "has a query parameter other than protocol; leave it out",
        ),
        (
            "unix:/s?canary",
            "has a query parameter other than db, user, pass, protocol",
        ),
        (
            "redis://h?protocol=canary",
            "names a protocol that is neither resp2 nor resp3",
        ),
        ("unix:canary", path),
        ("unix://canary/s", path),
        ("unix:/canary/", path),
        ("unix:/canary%00", path),
    ] {
        assert_rejected_everywhere(url, words);
    }
    let long = format!("unix:/{}", "x".repeat(107));
    assert_rejected_everywhere(
        &long,
        "names a socket whose path is too long; use at most 107 bytes, this one has 108",
    );
}

#[test]
fn a_control_character_is_rejected() {
    let problems = literal("redis://h\t.internal").unwrap_err().to_string();
    assert!(
        problems.contains("contains a control character"),
        "{problems}"
    );
}

#[test]
fn a_password_is_accepted_in_a_secret_only() {
    for url in [
        "redis://reader:canary@h",
        "redis://:canary@h",
        "rediss://:canary%23@h/1",
        "unix:/s?pass=canary",
        "unix:/s?user=reader&pass=canary",
    ] {
        assert_eq!(redis(secret(url)).nodes[0].expose(), url);
        assert_rejected(&[(
            &section(&format!("url = {url:?}")),
            "f.toml:2:7: cache.redis.url: ",
            "contains a password; put the whole URL into the environment or a file, and write \
             url = { env = \"REDIS_URL\" }",
        )]);
    }
}

#[test]
fn a_user_without_a_password_is_rejected() {
    for url in [
        "redis://canary@h",
        "redis://canary:@h",
        "unix:/s?user=canary",
    ] {
        assert_rejected_everywhere(
            url,
            "names a user without a password, which the client never sends",
        );
    }
}

#[test]
fn a_url_is_a_string_a_reference_or_a_list_of_them() {
    let what = "expected a URL like \"redis://redis.internal:6379\", { env = \"NAME\" }, \
                { file = \"/path\" }, or a list of them for a cluster, found ";
    let place = "f.toml:2:7: cache.redis.url: ";
    for (value, place, words) in [
        ("6379", place, format!("{what}an integer")),
        ("true", place, format!("{what}a boolean")),
        ("[6379]", "f.toml:2:8: ", format!("{what}an integer")),
        ("[[]]", "f.toml:2:8: ", format!("{what}a list")),
        ("[]", place, "is empty; name at least one server".to_owned()),
        (
            "{}",
            place,
            "needs exactly one of `env` and `file`".to_owned(),
        ),
        (
            "{ env = \"NONE\" }",
            place,
            "the environment variable NONE is not set".to_owned(),
        ),
        (
            "{ env = \"EMPTY\" }",
            place,
            "env:EMPTY is empty".to_owned(),
        ),
        (
            "{ file = \"/gone\" }",
            place,
            "/gone cannot be read".to_owned(),
        ),
        (
            "{ env = \"redis://canary\" }",
            "f.toml:2:15: ",
            "write the name, not the value".to_owned(),
        ),
    ] {
        assert_rejected(&[(&section(&format!("url = {value}")), place, &words)]);
    }
}

#[test]
fn a_list_is_a_cluster() {
    let list = "url = [\"redis://a\", { env = \"URL\" }, \"redis://[::1]:7001/0\"]";
    let redis = redis(parse_with(&section(list), "redis://c:7000\n"));
    let urls: Vec<&str> = redis.nodes.iter().map(RedisUrl::expose).collect();
    assert_eq!(
        urls,
        ["redis://a", "redis://c:7000", "redis://[::1]:7001/0"]
    );
}

#[test]
fn a_list_of_one_is_a_cluster_too() {
    for (url, is_cluster) in [("[\"redis://h\"]", true), ("\"redis://h\"", false)] {
        let config = parse(&section(&format!("url = {url}")));
        let written = config.as_ref().unwrap().to_toml();
        assert!(written.contains(&format!("url = {url}")), "{written}");
        assert_eq!(redis(config).is_cluster, is_cluster);
    }
}

#[test]
fn nodes_with_different_connection_profiles_are_rejected() {
    let profile = "differs from another node in TLS, user, password or protocol; write the same \
                   for all nodes";
    let database = "names a database, but a cluster has only database 0; leave it out";
    let socket =
        "is a unix socket, but a list names the nodes of a cluster; write it without a list";
    let cases = [
        ("[\"redis://a\", \"redis://b/1\"]", 21, database),
        ("[\"redis://a/1\", \"redis://b\"]", 8, database),
        ("[\"redis://a\", \"unix:/s\"]", 21, socket),
        ("[\"unix:/s\"]", 8, socket),
        ("[\"redis://a/1\"]", 8, database),
        ("[\"unix:/s\", \"redis://a\"]", 8, socket),
        ("[\"redis://a\", \"rediss://b\"]", 21, profile),
        ("[\"redis://a\", \"redis://b?protocol=3\"]", 21, profile),
    ];
    for (list, column, words) in cases {
        let place = format!("f.toml:2:{column}: cache.redis.url: ");
        assert_rejected(&[(&section(&format!("url = {list}")), &place, words)]);
    }
    let list = section("url = [\"redis://a\", { env = \"URL\" }]");
    for (url, words) in [
        ("redis://:canary@b", profile),
        ("redis://b/1", database),
        ("unix:/s", socket),
    ] {
        let problems = parse_with(&list, url).unwrap_err().to_string();
        let expected = format!("f.toml:2:21: cache.redis.url: env:URL {words}");
        assert_eq!(problems, expected);
    }
    let same = section("url = [{ env = \"URL\" }, { env = \"URL\" }]");
    assert!(parse_with(&same, "redis://reader:canary@h").is_ok());
}

#[test]
fn every_element_of_a_list_is_validated() {
    let list = "url = [\"redis://a\", \"canary\", { env = \"URL\" }, \"redis://b/1\", 7]";
    let problems = parse_with(&section(list), "canary")
        .unwrap_err()
        .to_string();
    let columns: Vec<&str> = problems
        .lines()
        .map(|line| line.split(':').nth(2).unwrap())
        .collect();
    assert_eq!(columns, ["21", "31", "48", "63"], "{problems}");
    assert!(!problems.contains("canary"), "{problems}");
}

#[test]
fn a_node_displays_its_url_or_its_source() {
    let list = "url = [\"redis://a:7000\", { env = \"URL\" }]";
    let nodes = redis(parse_with(&section(list), "redis://b:7000")).nodes;
    assert_eq!(nodes[0].to_string(), "redis://a:7000");
    assert_eq!(nodes[1].to_string(), "env:URL");
    assert_eq!(
        format!("{nodes:?}"),
        "[RedisUrl(redis://a:7000), RedisUrl(env:URL)]"
    );
}

/// Generates texts like URLs, with or without a password.
fn urls() -> impl Strategy<Value = String> {
    let scheme = prop::sample::select(vec!["redis", "rediss", "valkey", "unix", "redis+unix"]);
    let slashes = prop::sample::select(vec!["//", ":", "/", "", "///", "//h"]);
    (
        scheme,
        slashes,
        "[a-z0-9:@/?#&=%.\\[\\]-]{0,12}",
        any::<bool>(),
        "[a-z0-9:@/?#&=%.]{0,8}",
    )
        .prop_map(|(scheme, slashes, before, has_password, after)| {
            let password = if has_password { ":canary@" } else { "" };
            format!("{scheme}:{slashes}{before}{password}{after}")
        })
}

#[test]
fn accepted_urls_are_accepted_by_the_client_and_no_password_is_shown() {
    proptest!(|(url in urls())| {
        match secret(&url) {
            Ok(config) => {
                prop_assert!(url.trim().into_connection_info().is_ok(), "{}", url);
                prop_assert!(!format!("{:?}", config).contains("canary"), "{}", url);
            }
            Err(problems) => prop_assert!(!problems.to_string().contains("canary")),
        }
        match literal(&url) {
            Ok(config) => {
                let info = url.as_str().into_connection_info().unwrap();
                prop_assert_eq!(info.redis_settings().password(), None);
                prop_assert_eq!(info.redis_settings().username(), None);
                let printed = format!("url = {:?}", url);
                prop_assert!(config.to_toml().contains(&printed), "{}", printed);
            }
            Err(problems) => prop_assert!(!problems.to_string().contains("canary")),
        }
    });
}
