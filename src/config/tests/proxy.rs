//! Which proxy the environment names, and what is said about one that cannot be used.

use super::super::{Config, Flags, Proxy, Sources};
use super::env;

fn read(upstream: &str, said: &[(&str, &str)]) -> Result<Option<Proxy>, String> {
    let env = |name: &str| {
        let found = said.iter().find(|(known, _)| *known == name);
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

fn shown(said: &[(&str, &str)]) -> Option<String> {
    read(UPSTREAM, said).unwrap().map(|proxy| proxy.to_string())
}

#[test]
fn the_variable_for_https_goes_before_the_one_for_all() {
    let mut said = vec![("all_proxy", "http://d"), ("HTTP_PROXY", "http://e")];
    assert_eq!(shown(&said).unwrap(), "http://d:80 (all_proxy)");
    said.push(("ALL_PROXY", "http://c"));
    assert_eq!(shown(&said).unwrap(), "http://c:80 (ALL_PROXY)");
    said.push(("https_proxy", "http://b"));
    assert_eq!(shown(&said).unwrap(), "http://b:80 (https_proxy)");
    said.push(("HTTPS_PROXY", "http://a"));
    assert_eq!(shown(&said).unwrap(), "http://a:80 (HTTPS_PROXY)");
    // An empty one is as none.
    said[4].1 = "";
    assert_eq!(shown(&said).unwrap(), "http://b:80 (https_proxy)");
    assert_eq!(shown(&[("HTTP_PROXY", "http://a")]), None);
}

#[test]
fn a_proxy_is_read_as_its_users_write_it() {
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
fn no_proxy_names_hosts_domains_addresses_networks_or_all() {
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
        // Loopback is nothing special, as for curl.
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
fn what_cannot_be_used_is_named_without_its_text() {
    for (text, words) in [
        ("https://canary:canary@proxy", "TLS to the proxy itself"),
        ("socks5h://canary@proxy", "SOCKS"),
        ("ftp://canary@proxy", "another scheme"),
        ("http://", "no host"),
        ("http://canary:canary@", "no host"),
        ("http://proxy:canary", "no host"),
        ("http://proxy:0", "no host"),
        ("http://canary:ca/nary@proxy", "%2F"),
        ("http://canary:ca#nary@proxy", "%23"),
        ("http://canary:ca?nary@proxy", "percent-encoded"),
        ("http://canary:can@ry@proxy", "%40"),
        ("http://can ary@proxy", "percent-encoded"),
        ("http://canary:cänary@proxy", "percent-encoded"),
        ("canary canary", "no host"),
    ] {
        let told = read(UPSTREAM, &[("HTTPS_PROXY", text)]).unwrap_err();
        assert!(told.starts_with("HTTPS_PROXY: "), "{text}: {told}");
        assert!(told.contains(words), "{text}: {told}");
        assert!(!told.contains("canary") && !told.contains("nary"), "{told}");
        // Where it is not asked it does not matter.
        let all = [("HTTPS_PROXY", text), ("NO_PROXY", "*")];
        assert_eq!(read(UPSTREAM, &all), Ok(None));
        assert_eq!(read("http://a.example/v1", &all[..1]), Ok(None));
    }
}

#[test]
fn a_caution_is_about_credentials_that_leave_the_machine_in_the_clear() {
    let cautions = |upstream: &str, headers: &str| {
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
        assert_eq!(cautions(local, ""), [""; 0], "{local}");
    }
    for beyond in [
        "http://portkey:8787/v1",
        "http://10.0.0.1/v1",
        "http://[fd00::1]/v1",
    ] {
        let told = cautions(beyond, "");
        let names = "(x-portkey-api-key, x-portkey-virtual-key)";
        assert!(told.len() == 1 && told[0].contains(beyond), "{told:?}");
        assert!(
            told[0].contains(names) && told[0].contains("https://"),
            "{told:?}"
        );
        assert!(!told[0].contains("canary"), "{told:?}");
        assert_eq!(cautions(beyond, NONE), [""; 0]);
        let client = cautions(beyond, &format!("{NONE}{CLIENT}"));
        assert!(client[0].contains("(x-key)"), "{client:?}");
    }
}
