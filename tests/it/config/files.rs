//! The configuration file, and the files that it names.

use std::fs;

use stepgate::config::{Flags, SecretSource};

use super::{KEYS, load, problems_of};

#[test]
fn an_empty_missing_or_binary_file_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, words) in [
        (
            "empty.toml",
            Some(&b" \n"[..]),
            "is empty; to use the defaults, name no file",
        ),
        ("gone.toml", None, "cannot be read: No such file"),
        (
            "latin1.toml",
            Some(&b"a = \"\xe4\""[..]),
            "cannot be read: ",
        ),
    ] {
        let path = folder.path().join(name);
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let problems = load(Some(path.clone()), Flags::default(), &[])
            .unwrap_err()
            .to_string();
        assert!(
            problems.starts_with(&format!("{}: {words}", path.display())),
            "{problems}"
        );
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}

#[test]
fn a_relative_secret_file_is_resolved_from_the_configuration_and_trimmed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.toml");
    fs::write(folder.path().join("token"), "\n canary-token \r\n").unwrap();
    fs::write(
        &path,
        "[admin]\nlisten = \"0.0.0.0:1\"\ntoken = { file = \"token\" }",
    )
    .unwrap();
    let token = load(Some(path), Flags::default(), KEYS)
        .unwrap()
        .admin
        .token
        .unwrap();
    assert_eq!(token.expose(), "canary-token");
    let full = folder.path().canonicalize().unwrap().join("token");
    let SecretSource::File(named) = token.source() else {
        panic!("{:?}", token.source());
    };
    assert_eq!(named.canonicalize().unwrap(), full);
}

#[test]
fn a_ca_file_must_contain_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.toml");
    fs::write(&path, "[upstream]\nca_file = \"ca.pem\"").unwrap();
    let load = || load(Some(path.clone()), Flags::default(), KEYS);
    assert!(problems_of(load())[0].contains("ca.pem cannot be read"));
    fs::write(folder.path().join("ca.pem"), "nothing").unwrap();
    assert!(problems_of(load())[0].contains("contains no PEM certificate"));
    let made = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
    fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
    assert_eq!(
        load().unwrap().upstream.ca_file,
        Some(folder.path().join("ca.pem"))
    );
}
