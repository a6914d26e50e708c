//! Tests of loading: which texts are valid, and the problems of the others.

mod documented;
mod headers;
mod proxy;
mod redis;
mod redis_url;
mod tables;
mod values;

use std::path::PathBuf;

use super::{Config, Flags, Problems, Sources};

/// Returns a variable of the test environment. It holds the default credentials and test values.
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
fn problems_in(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(problems) => problems.to_string(),
    }
}

/// Asserts that each text has exactly one problem. A row is `text | line:column: key: | words`.
///
/// `\n` is a line break in the text. The key may be left out.
#[track_caller]
fn assert_each_rejected(table: &str) {
    for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [text, place, words] = cells[..] else {
            panic!("a row has three cells: {row}");
        };
        let (text, place) = (text.replace("\\n", "\n"), format!("f.toml:{place}"));
        assert_rejected(&[(&text, &place, words)]);
    }
}

/// Asserts that each text has exactly one problem, at this place and with these words.
#[track_caller]
fn assert_rejected(table: &[(&str, &str, &str)]) {
    for (text, span, words) in table {
        let problems = problems_in(text);
        assert_eq!(problems.lines().count(), 1, "{text}\n{problems}");
        assert!(
            problems.starts_with(span),
            "{text}\n{problems}\nexpected at {span}"
        );
        assert!(
            problems.contains(words),
            "{text}\n{problems}\nexpected {words}"
        );
        assert!(!problems.contains("canary"), "{problems}");
    }
}
