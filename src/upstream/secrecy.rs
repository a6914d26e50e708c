//! Finds injected secrets in what comes back.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// A shorter secret would be found in half of all texts; it counts only where it stands alone.
const LONG_ENOUGH: usize = 8;

/// Knows the secrets, in the spellings in which an upstream could echo them.
#[derive(Clone, Default)]
pub struct Redactor {
    needles: Vec<memchr::memmem::Finder<'static>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} needles)", self.needles.len())
    }
}

impl Redactor {
    /// Learns the secrets; of `Bearer x`, also `x`.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut spellings: Vec<String> = secrets
            .into_iter()
            .flat_map(|secret| [Some(secret), secret.split_once(' ').map(|(_, token)| token)])
            .flatten()
            .map(str::trim)
            .filter(|secret| !secret.is_empty())
            .flat_map(|secret| {
                let json = serde_json::Value::from(secret).to_string();
                let escaped = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
                [
                    secret.to_owned(),
                    json[1..json.len() - 1].to_owned(),
                    escaped,
                ]
            })
            .collect();
        spellings.sort_unstable();
        spellings.dedup();
        let needles = spellings
            .iter()
            .map(|text| memchr::memmem::Finder::new(text.as_bytes()).into_owned())
            .collect();
        Self { needles }
    }

    /// Whether a secret occurs in `text`.
    pub fn finds_in(&self, text: &[u8]) -> bool {
        self.needles.iter().any(|needle| {
            let length = needle.needle().len();
            let alone = |at: usize| {
                let word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
                let before = at.checked_sub(1).and_then(|i| text.get(i));
                !word(before) && !word(text.get(at + length))
            };
            needle
                .find_iter(text)
                .any(|at| length >= LONG_ENOUGH || alone(at))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_in_every_spelling() {
        let redactor = Redactor::new(["pk+live/\"1234\"", "Bearer tok-12345678"]);
        for text in [
            "pk+live/\"1234\"",
            "xpk+live/\"1234\"x",
            r#"{"message":"bad key pk+live/\"1234\""}"#,
            "https://x/?k=pk%2Blive%2F%221234%22&y",
            "Authorization: Bearer tok-12345678",
            "token tok-12345678.",
        ] {
            assert!(redactor.finds_in(text.as_bytes()), "{text}");
        }
        assert!(!redactor.finds_in(b"Bearer tok-1234567"));
        assert!(!Redactor::default().finds_in(b"anything"));
        assert!(!Redactor::new([""]).finds_in(b"anything"));
    }

    #[test]
    fn a_short_secret_counts_only_where_it_stands_alone() {
        let redactor = Redactor::new(["k"]);
        for text in ["k", "key: k", "\"k\"", "a=k&b"] {
            assert!(redactor.finds_in(text.as_bytes()), "{text}");
        }
        for text in ["ok", "application/octet-stream; key", "k1"] {
            assert!(!redactor.finds_in(text.as_bytes()), "{text}");
        }
    }
}
