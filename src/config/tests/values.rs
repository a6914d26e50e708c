//! Values and addresses: the problems of invalid ones.

use super::{assert_each_rejected, assert_rejected, parse, problems_in};

#[test]
fn an_invalid_value_is_rejected_with_its_place_and_a_valid_example() {
    assert_each_rejected(
        r#"
        [upstream]\ntimeout = "6 minits" | 2:11: upstream.timeout: | "6 minits" is not a duration; write one like "60s" or "100ms"
        [upstream]\ntimeout = 60 | 2:11: | 60 has no unit; write a duration like "60s"
        [upstream]\ntimeout = "60" | 2:11: | is not a duration
        [upstream]\ntimeout = "0s" | 2:11: | is out of range: from 1ms to 1day
        [upstream]\ntimeout = true | 2:11: | expected a duration like "60s", found a boolean
        [server]\ndrain_timeout = "999ms" | 2:17: | is out of range: from 1s to 1day
        [server]\nlame_duck = "2days" | 2:13: | is out of range: from 0s to 1day
        [cache]\nmax_bytes = "256 cows" | 2:13: cache.max_bytes: | is not a size; write one like "256MiB"
        [cache]\nmax_bytes = 0 | 2:13: | is out of range: from 1B to 1024GiB
        [cache]\nmax_bytes = 1.5 | 2:13: | expected a size like "256MiB", found a float
        [cache]\nmax_bytes = "9GiB"\nmax_entry_bytes = "4GiB" | 3:19: | from 1B to 3GiB
        [cache]\nttl = "0s" | 2:7: | out of range
        [cache]\nhonor_no_store = "yes" | 2:18: | expected true or false, found a string
        [server]\nmax_connections = 0 | 2:19: | 0 is out of range: from 1 to 1000000
        [server]\nmax_connections = -1 | 2:19: | out of range
        [server]\nmax_long_polls = "many" | 2:18: | expected a whole number, found a string
        [log]\nformat = "xml" | 2:10: log.format: | "xml" is not allowed; write "text" or "json"
        [log]\naccess = true | 2:10: | expected "upstream" or "all" or "off", found a boolean
        [server]\nallowed_hosts = ["a.b", "http://x"] | 2:25: server.allowed_hosts: | is not a host name
        [server]\nallowed_hosts = "a.b" | 2:17: | expected a list of host names, like ["stepgate.internal"], found a string
        server = 1 | 1:10: server: | expected a table, [server], found an integer
        [client] | 1:1: client: | expected tables, [[client]], found a table
        "#,
    );
}

#[test]
fn an_invalid_address_is_rejected_with_a_valid_example() {
    assert_each_rejected(
        r#"
        [server]\nlisten = "localhost:8180" | 2:10: server.listen: | write an IP address with a port
        [server]\nlisten = [] | 2:10: | name at least one address
        [server]\nlisten = ["127.0.0.1:1", 8180] | 2:26: | expected an address
        [server]\nlisten = "unix:run/s.sock" | 2:10: | needs the full path
        [server]\nlisten = ["127.0.0.1:1", "127.0.0.1:1"] | 2:26: | occurs twice
        [admin]\nlisten = "unix:/a" | 2:10: admin.listen: | is not an address
        [admin]\nlisten = "127.0.0.1:8180" | 2:10: admin.listen: | is also in server.listen
        [admin]\nlisten = "0.0.0.0:8181" | 2:10: admin.listen: | write admin.token
        [server]\nlisten = ["127.0.0.1:1", "[::]:1"] | 2:26: server.listen: | server.allow_unauthenticated = true
        "#,
    );
    let long = format!("[server]\nlisten = \"unix:/{}\"", "x".repeat(107));
    assert!(problems_in(&long).contains("at most 107 bytes"));
}

#[test]
fn an_invalid_base_url_is_rejected() {
    let place = "f.toml:2:12: upstream.base_url: ";
    for (url, words) in [
        ("api.portkey.ai", "has no scheme"),
        (
            "file:///etc/passwd",
            "the scheme \"file\" is not http or https",
        ),
        ("https:/v1", "has no host"),
        ("https:///v1", "has no host"),
        ("https://u:canary@h/v1", "contains a user name or password"),
        ("https://h/v1?key=canary", "contains a query"),
        ("https://h/v1#canary", "contains a fragment"),
        ("https://h:0/v1", "is not a host with an optional port"),
        ("https://h:99999/v1", "is not a host with an optional port"),
        ("https://h h/v1", "is not a host with an optional port"),
        ("https://h/v1/../x", "the path segment \"..\" is not plain"),
        ("https://h//v1", "the path segment \"\" is not plain"),
        ("https://h/%76", "is not plain"),
    ] {
        assert_rejected(&[(&format!("[upstream]\nbase_url = {url:?}"), place, words)]);
    }
}

#[test]
fn a_base_url_is_split_into_its_parts() {
    for (url, https, host, port, path, printed) in [
        (
            "https://api.portkey.ai/v1/",
            true,
            "api.portkey.ai",
            443,
            "/v1",
            "https://api.portkey.ai/v1",
        ),
        (
            "HTTP://LocalHost:8787/v1",
            false,
            "localhost",
            8787,
            "/v1",
            "http://localhost:8787/v1",
        ),
        ("http://[::1]:80", false, "::1", 80, "", "http://[::1]"),
        (
            "https://x.azure.com/api/projects/my-p",
            true,
            "x.azure.com",
            443,
            "/api/projects/my-p",
            "https://x.azure.com/api/projects/my-p",
        ),
    ] {
        let read = parse(&format!("[upstream]\nbase_url = {url:?}"))
            .unwrap()
            .upstream
            .base_url;
        let (h, p) = (read.host.as_str(), read.path.as_str());
        assert_eq!(
            (read.https, h, read.port, p),
            (https, host, port, path),
            "{url}"
        );
        assert_eq!(read.to_string(), printed);
    }
}
