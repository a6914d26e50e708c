//! Clients, rules, unknown keys, and what must hold between keys.

use super::super::Forward;
use super::{assert_each_rejected, assert_rejected, parse};

#[test]
fn clients_need_distinct_names_and_tokens() {
    let client = |name: &str, token: &str| {
        format!("[[client]]\nname = {name:?}\ntoken = {{ env = {token:?} }}\n")
    };
    let two = |a: (&str, &str), b: (&str, &str)| client(a.0, a.1) + &client(b.0, b.1);
    assert!(parse(&two(("a", "TOKEN_A"), ("b", "TOKEN_B"))).is_ok());
    assert_rejected(&[
        (
            &two(("a", "TOKEN_A"), ("a", "TOKEN_B")),
            "f.toml:5:8: client.name: ",
            "another client is named \"a\"",
        ),
        (
            &two(("a", "TOKEN_A"), ("b", "TOKEN_A_AGAIN")),
            "f.toml:6:9: client.token: ",
            "env:TOKEN_A_AGAIN is also a token of client \"a\"",
        ),
        (
            &client("a b", "TOKEN_A"),
            "f.toml:2:8: client.name: ",
            "is not a client name",
        ),
        (
            &client("", "TOKEN_A"),
            "f.toml:2:8: client.name: ",
            "is not a client name",
        ),
        (
            &client("a", "SPACED"),
            "f.toml:3:9: client.token: ",
            "env:SPACED contains a space",
        ),
        (
            "[[client]]\nname = \"a\"",
            "f.toml:1:1: client: ",
            "the key `token` is missing",
        ),
        (
            "[[client]]\nname = \"a\"\ntoken = []",
            "f.toml:3:9: client.token: ",
            "name at least one token",
        ),
    ]);
}

#[test]
fn an_invalid_rule_is_rejected_at_the_key_that_is_wrong() {
    let rule = |name: &str, path: &str, list: &str, identity: &str, terminal: &str| {
        format!(
            "[[rule]]\nname = {name:?}\npath = {path:?}\nlist = {list:?}\nobject = \"o\"\n\
             identity = {{ {identity} }}\nterminal = {terminal}\n"
        )
    };
    let done = "[\"completed\"]";
    let good = rule("r", "/r/{id}", "/r", "id = \"id\"", done);
    assert_eq!(parse(&good).unwrap().rules.len(), 2);
    let steps = "/threads/{a}/runs/{b}/steps/{c}";
    let ids = "x = \"a\", y = \"b\", z = \"c\"";
    assert_rejected(&[
        (
            &rule("R", "/r/{id}", "/r", "id = \"id\"", done),
            "f.toml:2:8: rule.name: ",
            "is not a rule name",
        ),
        (
            &rule("r", "r/{id}", "/r", "id = \"id\"", done),
            "f.toml:3:8: rule.path: ",
            "is not a path template",
        ),
        (
            &rule("r", "/r/{id}", "/r/", "id = \"id\"", done),
            "f.toml:4:8: rule.list: ",
            "is not a path template",
        ),
        (
            &rule("r", "/r", "/rs", "id = \"id\"", done),
            "f.toml:3:8: rule.path: ",
            "no parameter",
        ),
        (
            &rule("r", "/r/{id}", "/r", "id = \"x\"", done),
            "f.toml:6:12: rule.identity: ",
            "not a parameter of the path",
        ),
        (
            &rule("r", "/r/{id}", "/r", "status = \"id\"", done),
            "f.toml:6:12: rule.identity: ",
            "cannot be part of identity",
        ),
        (
            &rule("r", "/r/{id}", "/r", "id = \"id\"", "[]"),
            "f.toml:7:12: rule.terminal: ",
            "`terminal` is empty",
        ),
        (
            &rule("r", "/r/{id}", "/{x}/all", "id = \"id\"", done),
            "f.toml:4:8: rule.list: ",
            "overlaps the rule's own path",
        ),
        (
            &(good.clone() + &good),
            "f.toml:10:8: rule.path: ",
            "another rule is named \"r\"",
        ),
        (
            &rule("r", steps, "/r", ids, done),
            "f.toml:3:8: rule.path: ",
            "\"run-step\" and \"r\" overlap",
        ),
        (
            "[[rule]]\nname = \"r\"\npath = \"/r/{id}\"\nobject = \"o\"\nidentity = { id = \"id\" }",
            "f.toml:1:1: rule: ",
            "the key `terminal` is missing",
        ),
    ]);
    let replaced = parse(&rule("run-step", "/s/{id}", "/s", "id = \"id\"", done)).unwrap();
    assert_eq!(replaced.rules.len(), 1);
    assert_eq!(replaced.rules[0].object(), "o");
}

#[test]
fn a_conflict_of_two_keys_is_reported_at_the_key_in_the_file() {
    assert_each_rejected(
        r#"
        [cache]\nmax_bytes = "1KiB" | 2:13: cache.max_bytes: | 1KiB is less than cache.max_entry_bytes (1MiB)
        [server]\nlame_duck = "30s" | 2:13: server.lame_duck: | 30s is too long for server.drain_timeout (30s)
        [upstream]\ntimeout = "50ms" | 2:11: upstream.timeout: | 50ms is shorter than upstream.coalesce_window (100ms)
        "#,
    );
}

#[test]
fn forward_is_rules_or_all() {
    assert_each_rejected(
        r#"
        [server]\nforward = "some" | 2:11: server.forward: | write "rules" or "all"
        "#,
    );
    for (word, forward) in [("rules", Forward::Rules), ("all", Forward::All)] {
        let config = parse(&format!("[server]\nforward = \"{word}\"")).unwrap();
        assert_eq!(config.server.forward, forward);
        assert!(config.to_toml().contains(&format!("forward = \"{word}\"")));
    }
}

#[test]
fn an_unknown_key_names_the_most_similar_key() {
    assert_each_rejected(
        r#"
        [upstream]\nQueue-Timeout = "1s" | 2:1: upstream: | did you mean "queue_timeout"?
        [upstream]\nbaseurl = "1s" | 2:1: upstream: | did you mean "base_url"?
        [cache]\ntll = "1s" | 2:1: cache: | did you mean "ttl"?
        [upstream]\n timout = "1s" | 2:2: upstream: | unknown key "timout"; did you mean "timeout"?
        [sever]\nforward = "all" | 1:2: | unknown key "sever"; did you mean "server"?
        [cache]\ncolour = 1 | 2:1: cache: | known here: max_bytes, max_entry_bytes, ttl, honor_no_store, redis
        [[rule]]\nname = "r"\npath = "/r/{i}"\nobject = "o"\nidentity = { i = "i" }\nterminal = ["d"]\nterminals = 1 | 7:1: rule: | did you mean "terminal"?
        "#,
    );
}

#[test]
fn a_renamed_key_names_its_new_name() {
    assert_each_rejected(
        r#"
        [cache.redis]\nurl = "redis://h"\nprefix = "p"\nbudget = "9ms" | 4:1: cache.redis: | unknown key "budget"; renamed to "command_timeout"
        [server]\nhosts = ["a.b"] | 2:1: server: | unknown key "hosts"; renamed to "allowed_hosts"
        [server]\nmax_waiters = 7 | 2:1: server: | unknown key "max_waiters"; renamed to "max_long_polls"
        [server]\nopen = true | 2:1: server: | unknown key "open"; renamed to "allow_unauthenticated"
        [upstream]\nforward_headers = ["x-a"] | 2:1: upstream: | unknown key "forward_headers"; renamed to "vary_headers"
        [upstream]\nmax_hold = "1s" | 2:1: upstream: | unknown key "max_hold"; renamed to "max_retry_after"
        "#,
    );
}
