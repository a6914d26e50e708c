//! `config/stepgate.toml` says what the code says; and no mutilation of it confuses the reader.

use std::path::Path;

use proptest::prelude::*;
use toml::de::DeTable;

use super::super::diagnostics::Diagnostics;
use super::super::load::read;
use super::super::{Config, Flags, Sources};
use super::{env, parse};

const DOCUMENTED: &str = include_str!("../../../config/stepgate.toml");

#[test]
fn the_documented_file_is_what_holds_without_a_file() {
    let sources = Sources {
        file: None,
        flags: Flags::default(),
        env: &env,
    };
    assert_eq!(parse(DOCUMENTED).unwrap(), Config::load(&sources).unwrap());
}

#[test]
fn the_documented_section_of_redis_holds_with_its_defaults() {
    let section = DOCUMENTED.split_once("# [cache.redis]\n").unwrap().1;
    let section = section.split_once("\n\n").unwrap().0;
    let is_key = |line: &&str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| !key.contains(' '))
    };
    let lines = section.lines().filter_map(|line| line.strip_prefix("# "));
    let keys: Vec<&str> = lines.filter(is_key).collect();
    let minimal = keys
        .iter()
        .filter(|line| !line.starts_with("command_timeout"));
    let [all, minimal] = [
        keys.join("\n"),
        minimal.copied().collect::<Vec<_>>().join("\n"),
    ]
    .map(|keys| parse(&format!("[cache.redis]\n{keys}")).unwrap());
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert_eq!(all, minimal);
}

#[test]
fn the_documented_file_has_every_key_that_the_reader_knows() {
    // TLS, Redis, a client and secrets, so that the reader asks for the keys within them.
    let text = "[server.tls]\n[cache.redis]\n[admin]\ntoken = { env = \"TOKEN_B\" }\n\
        [[client]]\nname = \"a\"\ntoken = { env = \"TOKEN_A\" }\n[[rule]]\n";
    let diagnostics = Diagnostics::new(Path::new("f.toml"), text);
    let sources = Sources {
        file: None,
        flags: Flags::default(),
        env: &env,
    };
    read(
        DeTable::parse(text).unwrap().into_inner(),
        &diagnostics,
        &sources,
    );
    let documented = documented_keys();
    let references = [
        "admin.token.env",
        "admin.token.file",
        "client.token.env",
        "client.token.file",
    ];
    let missing: Vec<String> = diagnostics
        .known_keys()
        .into_iter()
        .filter(|key| !references.contains(&key.as_str()) && !documented.contains(key))
        .collect();
    assert_eq!(missing, [""; 0]);
}

/// Sections and keys by their full names, also those that are commented out.
fn documented_keys() -> Vec<String> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in DOCUMENTED.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        let header = line
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next());
        if let Some(name) = header {
            section = name.trim_start_matches('[').to_owned();
            keys.push(section.clone());
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys.push(format!("{section}.{key}"));
        }
    }
    keys
}

#[test]
fn no_text_makes_the_reader_panic_or_lie_about_places() {
    let lines = DOCUMENTED.lines().count();
    let cut = (
        0..DOCUMENTED.len(),
        0..200_usize,
        "[\\[\\]{}=\"'.#\\n a-z0-9äé]{0,6}",
    );
    proptest!(ProptestConfig::with_cases(256), |((start, length, put) in cut)| {
        let end = DOCUMENTED.len().min(start + length);
        let bounds = DOCUMENTED.is_char_boundary(start) && DOCUMENTED.is_char_boundary(end);
        prop_assume!(bounds);
        let text = format!("{}{put}{}", &DOCUMENTED[..start], &DOCUMENTED[end..]);
        if let Err(problems) = parse(&text) {
            for problem in problems.iter() {
                let told = problem.to_string();
                if let Some(rest) = told.strip_prefix("f.toml:") {
                    let line: usize = rest.split(':').next().unwrap().parse().unwrap();
                    prop_assert!((1..=lines + 7).contains(&line), "{}", told);
                }
            }
        }
    });
}
