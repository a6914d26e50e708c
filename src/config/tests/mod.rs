//! What the reader understands and what it says about the rest, as tables.

mod documented;
mod headers;
mod proxy;
mod redis;
mod redis_url;
mod tables;
mod values;

use std::path::PathBuf;

use super::{Config, Flags, Problems, Sources};

/// The environment of every test here: what the built-in headers need, and some to play with.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "PORTKEY_API_KEY" => "canary-key",
        "PORTKEY_PROVIDER_VIRTUAL_KEY" => "canary-virtual",
        "TOKEN_A" | "TOKEN_A_AGAIN" => "canary-a",
        "TOKEN_B" => "canary-b",
        "EMPTY" => " \n",
        "TWO_LINES" => "canary-1\ncanary-2",
        "SPACED" => "canary with spaces",
        "UMLAUT" => "canary-ä",
        "REDIS_URL" => " redis://reader:canary%23@redis.internal\n",
        "ANOTHER_KEY" => "canary-of-another-account",
        "STEPGATE_ENCRYPTION_KEY" => "canary-of-32-bytes-canary-canary",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(
        text,
        &Sources {
            file: Some(PathBuf::from("f.toml")),
            flags: Flags::default(),
            env: &env,
        },
    )
}

#[track_caller]
fn told(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(problems) => problems.to_string(),
    }
}

/// Each text is refused with one problem: its place and some words of it.
#[track_caller]
fn refused(table: &[(&str, &str, &str)]) {
    for (text, place, words) in table {
        let told = told(text);
        assert_eq!(told.lines().count(), 1, "{text}\n{told}");
        assert!(
            told.starts_with(place),
            "{text}\n{told}\nexpected at {place}"
        );
        assert!(told.contains(words), "{text}\n{told}\nexpected {words}");
        assert!(!told.contains("canary"), "{told}");
    }
}
