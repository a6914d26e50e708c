//! The proxy from the environment, and the problems of an invalid one.

use super::super::{Config, Flags, Proxy, Sources};
use super::env;

fn read(upstream: &str, variables: &[(&str, &str)]) -> Result<Option<Proxy>, String> {
    let env = |name: &str| {
        let found = variables.iter().find(|(other, _)| *other == name);
        found.map_or_else(|| env(name), |(_, value)| Some((*value).to_owned()))
    };
    let sources = Sources {
        file: None,
        flags: Flags {
            upstream: Some(upstream.to_owned()),
            ..Flags::default()
        },
        env: &env,
    };
    Config::load(&sources)
        .map(|config| config.upstream.proxy)
        .map_err(|problems| problems.to_string())
}

const UPSTREAM: &str = "https://api.portkey.ai/v1";

fn shown(variables: &[(&str, &str)]) -> Option<String> {
    read(UPSTREAM, variables)
        .unwrap()
        .map(|proxy| proxy.to_string())
}

#[test]
fn https_proxy_has_priority_over_all_proxy() {
    let mut variables = vec![("all_proxy", "http://d"), ("HTTP_PROXY", "http://e")];
    assert_eq!(shown(&variables).unwrap(), "http://d:80 (all_proxy)");
    variables.push(("ALL_PROXY", "http://c"));
    assert_eq!(shown(&variables).unwrap(), "http://c:80 (ALL_PROXY)");
    variables.push(("https_proxy", "http://b"));
    assert_eq!(shown(&variables).unwrap(), "http://b:80 (https_proxy)");
    variables.push(("HTTPS_PROXY", "http://a"));
    assert_eq!(shown(&variables).unwrap(), "http://a:80 (HTTPS_PROXY)");
    // An empty variable counts as not set.
    variables[4].1 = "";
    assert_eq!(shown(&variables).unwrap(), "http://b:80 (https_proxy)");
    assert_eq!(shown(&[("HTTP_PROXY", "http://a")]), None);
}

#[test]
fn a_proxy_is_parsed() {
    for (text, expected, authorization) in [
        (
            "http://Proxy.Internal:3128/",
            "http://proxy.internal:3128",
            None,
        ),
        (" proxy:3128 ", "http://proxy:3128", None),
        ("HTTP://[::1]:3128", "http://[::1]:3128", None),
        (
            "http://a:b%20c@10.0.0.1:8080",
            "http://***@10.0.0.1:8080",
            Some("Basic YTpiIGM="),
        ),
        ("a@proxy:1", "http://***@proxy:1", Some("Basic YTo=")),
    ] {
        let proxy = read(UPSTREAM, &[("HTTPS_PROXY", text)]).unwrap().unwrap();
        assert_eq!(proxy.to_string(), format!("{expected} (HTTPS_PROXY)"));
        let sent = proxy
            .authorization
            .as_ref()
            .map(|sent| sent.to_str().unwrap());
        assert_eq!(sent, authorization, "{text}");
        let debugged = format!("{proxy:?}");
        assert!(!debugged.contains("Basic"), "{debugged}");
    }
}

#[test]
fn no_proxy_lists_hosts_domains_addresses_networks_or_all() {
    for (upstream, except, through) in [
        (UPSTREAM, "portkey.ai", false),
        (UPSTREAM, ".portkey.ai", false),
        (UPSTREAM, "API.portkey.ai", false),
        (UPSTREAM, "other.example, portkey.ai", false),
        (UPSTREAM, "*", false),
        (UPSTREAM, "ey.ai", true),
        (UPSTREAM, "other.example", true),
        (UPSTREAM, "", true),
        ("https://10.1.2.3/v1", "10.0.0.0/8", false),
        ("https://10.1.2.3/v1", "10.1.2.3", false),
        ("https://10.1.2.3/v1", "*", false),
        ("https://10.1.2.3/v1", "11.0.0.0/8", true),
        ("https://[fd00::1]/v1", "fd00::/8", false),
        ("https://[fd00::1]:8443/v1", "fd00::1", false),
        // Like for curl, loopback is no exception.
        ("https://127.0.0.1/v1", "other.example", true),
        ("https://localhost/v1", "", true),
    ] {
        for name in ["NO_PROXY", "no_proxy"] {
            let proxy = read(upstream, &[("HTTPS_PROXY", "http://p:1"), (name, except)]);
            assert_eq!(proxy.unwrap().is_some(), through, "{upstream} {except:?}");
        }
    }
}

#[test]
fn an_invalid_proxy_is_rejected_and_not_repeated() {
    for (text, words) in [
        ("https://canary:canary@proxy", "TLS to the proxy itself"),
        ("socks5h://canary@proxy", "SOCKS"),
        ("ftp://canary@proxy", "a scheme other than"),
        ("http://", "no host"),
        ("http://canary:canary@", "no host"),
        ("http://proxy:canary", "no host"),
        ("http://proxy:0", "no host"),
        ("http://canary:ca/nary@proxy", "%2F"),
        ("http://canary:ca#nary@proxy", "%23"),
        ("http://canary:ca?nary@proxy", "percent-encode"),
        ("http://canary:can@ry@proxy", "%40"),
        ("http://can ary@proxy", "percent-encode"),
        ("http://canary:cänary@proxy", "percent-encode"),
        ("canary canary", "no host"),
    ] {
        let problems = read(UPSTREAM, &[("HTTPS_PROXY", text)]).unwrap_err();
        assert!(problems.starts_with("HTTPS_PROXY: "), "{text}: {problems}");
        assert!(problems.contains(words), "{text}: {problems}");
        assert!(
            !problems.contains("canary") && !problems.contains("nary"),
            "{problems}"
        );
        // An invalid proxy does not matter if it is not used.
        let all = [("HTTPS_PROXY", text), ("NO_PROXY", "*")];
        assert_eq!(read(UPSTREAM, &all), Ok(None));
        assert_eq!(read("http://a.example/v1", &all[..1]), Ok(None));
    }
}

#[test]
fn a_warning_names_credentials_that_leave_the_machine_without_tls() {
    let warnings = |upstream: &str, headers: &str| {
        let text = format!("[upstream]\nbase_url = {upstream:?}\n{headers}");
        super::parse(&text).unwrap().warnings()
    };
    const NONE: &str =
        "[upstream.headers]\nx-portkey-api-key = false\nx-portkey-virtual-key = false\n";
    const CLIENT: &str = "[[client]]\nname = \"a\"\ntoken = { env = \"TOKEN_A\" }\n\
        [client.headers]\nx-key = { env = \"TOKEN_B\" }\n";
    for local in [
        "https://a.example/v1",
        "http://localhost:1/v1",
        "http://a.localhost/v1",
        "http://127.9.9.9/v1",
        "http://[::1]/v1",
        "http://[::ffff:127.0.0.1]/v1",
    ] {
        assert_eq!(warnings(local, ""), [""; 0], "{local}");
    }
    for beyond in [
        "http://portkey:8787/v1",
        "http://10.0.0.1/v1",
        "http://[fd00::1]/v1",
    ] {
        let problems = warnings(beyond, "");
        let names = "(x-portkey-api-key, x-portkey-virtual-key)";
        assert!(
            problems.len() == 1 && problems[0].contains(beyond),
            "{problems:?}"
        );
        assert!(
            problems[0].contains(names) && problems[0].contains("https://"),
            "{problems:?}"
        );
        assert!(!problems[0].contains("canary"), "{problems:?}");
        assert_eq!(warnings(beyond, NONE), [""; 0]);
        let client = warnings(beyond, &format!("{NONE}{CLIENT}"));
        assert!(client[0].contains("(x-key)"), "{client:?}");
    }
}
