//! `[server.tls]`: what its files must contain, and the problems of invalid ones.

use std::fs;
use std::path::Path;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use stepgate::config::{Config, Flags, Problems, Sources};
use tempfile::TempDir;

use super::{KEYS, load, problems_of};

const TLS: &str = "[server.tls]\ncert = \"a.crt\"\nkey = \"a.key\"\n";

/// Creates a folder with valid and invalid certificates and keys.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let (a, b) = (generate(), generate());
    let key = a.signing_key.serialize_pem();
    write("a.crt", &a.cert.pem());
    write("a.key", &key);
    write("b.crt", &b.cert.pem());
    write("chain.crt", &(a.cert.pem() + &b.cert.pem()));
    write("wrong-order.crt", &(b.cert.pem() + &a.cert.pem()));
    write("empty", "");
    write("one-line.key", &key.replace('\n', ""));
    write("cut.key", &key[..key.len() - 10]);
    write("damaged.crt", &pem("CERTIFICATE", "AAAA"));
    write("damaged.key", &pem("PRIVATE KEY", "AAAA"));
    write("locked.key", &pem("ENCRYPTED PRIVATE KEY", "AAAA"));
    folder
}

fn generate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["h".to_owned()]).unwrap()
}

fn pem(label: &str, content: &str) -> String {
    format!("-----BEGIN {label}-----\n{content}\n-----END {label}-----\n")
}

fn sources(path: &Path) -> Sources<'static> {
    Sources {
        file: Some(path.to_owned()),
        flags: Flags::default(),
        env: &|name| Some(format!("canary-{name}")).filter(|_| name.starts_with("PORTKEY_")),
    }
}

fn load_in(folder: &Path, text: &str) -> Result<Config, Problems> {
    let path = folder.join("f.toml");
    fs::write(&path, text).unwrap();
    load(Some(path), Flags::default(), KEYS)
}

#[test]
fn a_certificate_with_its_key_is_loaded_and_printed() {
    let folder = folder();
    for (text, client_ca) in [
        (TLS.to_owned(), None),
        (TLS.replace("a.crt", "chain.crt"), None),
        (format!("{TLS}client_ca = \"b.crt\""), Some("b.crt")),
    ] {
        let config = load_in(folder.path(), &text).unwrap();
        let tls = config.server.tls.clone().unwrap();
        assert_eq!(tls.key, folder.path().join("a.key"));
        assert_eq!(
            tls.client_ca,
            client_ca.map(|name| folder.path().join(name))
        );
        let printed = config.to_toml();
        assert_eq!(
            load_in(folder.path(), &printed).unwrap(),
            config,
            "{printed}"
        );
    }
}

#[test]
fn an_invalid_file_is_reported_at_the_key_that_names_it() {
    let folder = folder();
    for (cert, key, start, words) in [
        (
            "gone",
            "a.key",
            "2:8: server.tls.cert",
            "gone cannot be read",
        ),
        (
            "empty",
            "a.key",
            "2:8: server.tls.cert",
            "contains no PEM certificate",
        ),
        (
            "a.key",
            "a.key",
            "2:8: server.tls.cert",
            "contains no PEM certificate",
        ),
        (
            "one-line.key",
            "a.key",
            "2:8: server.tls.cert",
            "is not PEM",
        ),
        ("damaged.crt", "a.key", "2:8: server.tls.cert", "damaged"),
        (
            "a.crt",
            "gone",
            "3:7: server.tls.key",
            "gone cannot be read",
        ),
        (
            "a.crt",
            "a.crt",
            "3:7: server.tls.key",
            "no PEM private key",
        ),
        (
            "a.crt",
            "locked.key",
            "3:7: server.tls.key",
            "without password",
        ),
        ("a.crt", "one-line.key", "3:7: server.tls.key", "is not PEM"),
        ("a.crt", "cut.key", "3:7: server.tls.key", "is not PEM"),
        ("a.crt", "damaged.key", "3:7: server.tls.key", "ECDSA"),
        (
            "b.crt",
            "a.key",
            "3:7: server.tls.key",
            "does not belong to the first",
        ),
        (
            "wrong-order.crt",
            "a.key",
            "3:7: server.tls.key",
            "does not belong",
        ),
    ] {
        let text = format!("[server.tls]\ncert = {cert:?}\nkey = {key:?}\n");
        let problems = problems_of(load_in(folder.path(), &text));
        assert_eq!(problems.len(), 1, "{cert} {key}: {problems:?}");
        assert!(
            problems[0].starts_with(&format!("f.toml:{start}: ")),
            "{problems:?}"
        );
        assert!(problems[0].contains(words), "{problems:?}");
    }
}

#[test]
fn invalid_client_roots_are_reported_at_their_key() {
    let folder = folder();
    for (client_ca, words) in [
        ("gone", "gone cannot be read"),
        ("empty", "contains no PEM certificate"),
        ("one-line.key", "is not PEM"),
        ("damaged.crt", "cannot be a root"),
    ] {
        let text = format!("{TLS}client_ca = {client_ca:?}\n");
        let problems = problems_of(load_in(folder.path(), &text));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("f.toml:4:13: server.tls.client_ca: "),
            "{problems:?}"
        );
        assert!(problems[0].contains(words), "{problems:?}");
    }
}

#[test]
fn cert_and_key_are_both_required() {
    let folder = folder();
    for (text, words) in [
        (
            "[server.tls]\ncert = \"a.crt\"",
            &["1:1: server.tls: the key `key` is missing"][..],
        ),
        (
            "[server.tls]\nkey = \"a.key\"",
            &["1:1: server.tls: the key `cert` is missing"],
        ),
        ("[server.tls]", &["`cert` is missing", "`key` is missing"]),
        (
            "[server]\ntls = true",
            &["2:7: server.tls: expected a table"],
        ),
        (
            &format!("{TLS}clientca = \"b.crt\""),
            &["did you mean \"client_ca\"?"],
        ),
    ] {
        let problems = problems_of(load_in(folder.path(), text));
        assert_eq!(problems.len(), words.len(), "{problems:?}");
        for (line, words) in problems.iter().zip(words) {
            assert!(line.contains(words), "{line}");
        }
    }
}

#[test]
fn no_output_contains_any_of_the_private_key() {
    let folder = folder();
    let key = fs::read_to_string(folder.path().join("a.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    // Some parsers show the bytes that they could not read.
    let as_bytes = format!("{:?}", secret.as_bytes());
    let as_bytes = as_bytes.trim_matches(['[', ']']);
    let config = load_in(folder.path(), TLS).unwrap();
    let mut outputs = vec![format!("{config:?}"), config.to_toml()];
    for key in ["one-line.key", "cut.key", "b.crt"] {
        for text in [TLS.replace("a.key", key), TLS.replace("a.crt", key)] {
            outputs.extend(problems_of(load_in(folder.path(), &text)));
        }
    }
    let roots = "[upstream]\nca_file = \"one-line.key\"";
    outputs.extend(problems_of(load_in(folder.path(), roots)));
    for text in outputs {
        assert!(!text.contains(secret) && !text.contains(as_bytes), "{text}");
    }
}

#[test]
fn only_a_renewed_certificate_changes_the_configuration() {
    let folder = folder();
    let text = format!("{TLS}client_ca = \"b.crt\"\n");
    let before = load_in(folder.path(), &text).unwrap();
    assert_eq!(load_in(folder.path(), &text).unwrap(), before);
    fs::copy(folder.path().join("a.crt"), folder.path().join("b.crt")).unwrap();
    let other_roots = load_in(folder.path(), &text).unwrap();
    assert_ne!(other_roots, before);
    let renewed = generate();
    fs::write(folder.path().join("a.crt"), renewed.cert.pem()).unwrap();
    fs::write(
        folder.path().join("a.key"),
        renewed.signing_key.serialize_pem(),
    )
    .unwrap();
    assert_ne!(load_in(folder.path(), &text).unwrap(), other_roots);
}

#[test]
fn the_listener_itself_is_rejected_as_upstream_with_the_same_scheme() {
    let folder = folder();
    for (tls, scheme, is_own_address) in [
        (TLS, "https", true),
        (TLS, "http", false),
        ("", "https", false),
        ("", "http", true),
    ] {
        let text = format!("{tls}[upstream]\nbase_url = \"{scheme}://127.0.0.1:8180\"\n");
        let loaded = load_in(folder.path(), &text);
        assert_eq!(loaded.is_err(), is_own_address, "{scheme} {tls}");
    }
}

#[test]
fn a_tls_listener_beyond_loopback_needs_clients_too() {
    let folder = folder();
    let text = format!("[server]\nlisten = \"0.0.0.0:1\"\n{TLS}client_ca = \"b.crt\"\n");
    let problems = problems_of(load_in(folder.path(), &text));
    assert!(
        problems[0].contains("[[client]]") && problems[0].contains("server.allow_unauthenticated"),
        "{problems:?}"
    );
}

#[test]
fn a_reload_replaces_a_certificate_and_turning_tls_on_or_off_needs_a_restart() {
    let folder = folder();
    let path = folder.path().join("f.toml");
    let plain = load_in(folder.path(), "[log]").unwrap();
    let secured = load_in(folder.path(), TLS).unwrap();
    let with_client_ca = format!("{TLS}client_ca = \"b.crt\"\n");
    for (running, text, needs_restart, tls) in [
        (&secured, &*with_client_ca, &[][..], Some(true)),
        (&secured, "[log]", &["server.tls"], Some(false)),
        (&plain, TLS, &["server.tls"], None),
    ] {
        let plan = running.plan_reload(text, &sources(&path)).unwrap();
        assert_eq!(plan.needs_restart, needs_restart);
        let applied = plan.config.server.tls.map(|tls| tls.client_ca.is_some());
        assert_eq!(applied, tls, "{text}");
    }
}

#[test]
fn its_files_are_watched() {
    let folder = folder();
    let text = format!("{TLS}client_ca = \"b.crt\"\n");
    let files = load_in(folder.path(), &text).unwrap().files();
    for name in ["a.crt", "a.key", "b.crt"] {
        assert!(files.contains(&folder.path().join(name)), "{name}");
    }
}
