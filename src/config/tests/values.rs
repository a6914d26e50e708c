//! Plain values and addresses: what is refused, where, and in which words.

use super::{parse, refused, told};

#[test]
fn values_are_refused_with_their_place_and_what_would_be_right() {
    refused(&[
        (
            "[upstream]\ntimeout = \"6 minits\"",
            "f.toml:2:11: upstream.timeout: ",
            "\"6 minits\" is not a duration; write one like \"60s\" or \"100ms\"",
        ),
        (
            "[upstream]\ntimeout = 60",
            "f.toml:2:11: ",
            "60 has no unit; write a duration like \"60s\"",
        ),
        (
            "[upstream]\ntimeout = \"60\"",
            "f.toml:2:11: ",
            "is not a duration",
        ),
        (
            "[upstream]\ntimeout = \"0s\"",
            "f.toml:2:11: ",
            "is out of range: from 1ms to 1day",
        ),
        (
            "[upstream]\ntimeout = true",
            "f.toml:2:11: ",
            "expected a duration like \"60s\", found a boolean",
        ),
        (
            "[server]\ndrain_timeout = \"999ms\"",
            "f.toml:2:17: ",
            "is out of range: from 1s to 1day",
        ),
        (
            "[server]\nlame_duck = \"2days\"",
            "f.toml:2:13: ",
            "is out of range: from 0s to 1day",
        ),
        (
            "[cache]\nmax_bytes = \"256 cows\"",
            "f.toml:2:13: cache.max_bytes: ",
            "is not a size; write one like \"256MiB\"",
        ),
        (
            "[cache]\nmax_bytes = 0",
            "f.toml:2:13: ",
            "is out of range: from 1B to 1024GiB",
        ),
        (
            "[cache]\nmax_bytes = 1.5",
            "f.toml:2:13: ",
            "expected a size like \"256MiB\", found a float",
        ),
        (
            "[cache]\nmax_bytes = \"9GiB\"\nmax_entry_bytes = \"4GiB\"",
            "f.toml:3:19: ",
            "from 1B to 3GiB",
        ),
        ("[cache]\nttl = \"0s\"", "f.toml:2:7: ", "out of range"),
        (
            "[cache]\nhonor_no_store = \"yes\"",
            "f.toml:2:18: ",
            "expected true or false, found a string",
        ),
        (
            "[server]\nmax_connections = 0",
            "f.toml:2:19: ",
            "0 is out of range: from 1 to 1000000",
        ),
        (
            "[server]\nmax_connections = -1",
            "f.toml:2:19: ",
            "out of range",
        ),
        (
            "[server]\nmax_long_polls = \"many\"",
            "f.toml:2:18: ",
            "expected a whole number, found a string",
        ),
        (
            "[log]\nformat = \"xml\"",
            "f.toml:2:10: log.format: ",
            "\"xml\" is not known here; write \"text\" or \"json\"",
        ),
        (
            "[log]\naccess = true",
            "f.toml:2:10: ",
            "expected \"upstream\" or \"all\" or \"off\", found a boolean",
        ),
        (
            "[server]\nallowed_hosts = [\"a.b\", \"http://x\"]",
            "f.toml:2:25: server.allowed_hosts: ",
            "is not a host name",
        ),
        (
            "[server]\nallowed_hosts = \"a.b\"",
            "f.toml:2:17: ",
            "expected a list of host names, like [\"stepgate.internal\"], found a string",
        ),
        (
            "server = 1",
            "f.toml:1:10: server: ",
            "expected a table, [server], found an integer",
        ),
        (
            "[client]",
            "f.toml:1:1: client: ",
            "expected tables, [[client]], found a table",
        ),
    ]);
}

#[test]
fn addresses_are_refused_with_one_that_would_be_right() {
    refused(&[
        (
            "[server]\nlisten = \"localhost:8180\"",
            "f.toml:2:10: server.listen: ",
            "write an IP address with a port",
        ),
        (
            "[server]\nlisten = []",
            "f.toml:2:10: ",
            "name at least one address",
        ),
        (
            "[server]\nlisten = [\"127.0.0.1:1\", 8180]",
            "f.toml:2:26: ",
            "expected an address",
        ),
        (
            "[server]\nlisten = \"unix:run/s.sock\"",
            "f.toml:2:10: ",
            "needs the full path",
        ),
        (
            "[server]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
            "f.toml:2:26: ",
            "is there twice",
        ),
        (
            "[admin]\nlisten = \"unix:/a\"",
            "f.toml:2:10: admin.listen: ",
            "is not an address",
        ),
        (
            "[admin]\nlisten = \"127.0.0.1:8180\"",
            "f.toml:2:10: admin.listen: ",
            "is an address of server.listen, too",
        ),
        (
            "[admin]\nlisten = \"0.0.0.0:8181\"",
            "f.toml:2:10: admin.listen: ",
            "write admin.token",
        ),
        (
            "[server]\nlisten = [\"127.0.0.1:1\", \"[::]:1\"]",
            "f.toml:2:26: server.listen: ",
            "server.allow_unauthenticated = true",
        ),
    ]);
    let long = format!("[server]\nlisten = \"unix:/{}\"", "x".repeat(107));
    assert!(told(&long).contains("at most 107 bytes"));
}

#[test]
fn an_upstream_that_is_not_a_plain_http_address_is_refused() {
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
        refused(&[(&format!("[upstream]\nbase_url = {url:?}"), place, words)]);
    }
}

#[test]
fn an_upstream_is_taken_apart() {
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
