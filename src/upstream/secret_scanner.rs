//! Searches text for injected secrets.

use std::borrow::Cow;

use memchr::memmem::Finder;
use percent_encoding::percent_decode;

/// The length from which a secret counts wherever it occurs. A shorter one would occur in half of all texts,
/// and therefore counts only between characters that are not letters or digits.
const MIN_SUBSTRING_LEN: usize = 8;

/// Finds secrets in text, also where they are escaped as in JSON or percent-encoded.
#[derive(Clone)]
pub struct SecretScanner {
    secrets: Vec<Finder<'static>>,
    /// The secrets in lower case, as hyper has header names.
    lowercase: Vec<Finder<'static>>,
    /// The length of the shortest secret in bytes, or `usize::MAX` without a secret.
    shortest: usize,
}

impl std::fmt::Debug for SecretScanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretScanner({} secrets)", self.secrets.len())
    }
}

impl SecretScanner {
    /// Prepares the search for `secrets`. For a secret such as `Bearer x` it also searches for `x`.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let secrets: Vec<&str> = secrets
            .into_iter()
            .flat_map(|secret| [Some(secret), secret.split_once(' ').map(|(_, token)| token)])
            .flatten()
            .map(str::trim)
            .filter(|secret| !secret.is_empty())
            .collect();
        let finder = |text: &str| Finder::new(text.as_bytes()).into_owned();
        Self {
            shortest: secrets
                .iter()
                .map(|secret| secret.len())
                .min()
                .unwrap_or(usize::MAX),
            secrets: secrets.iter().map(|secret| finder(secret)).collect(),
            lowercase: secrets
                .iter()
                .map(|secret| finder(&secret.to_ascii_lowercase()))
                .collect(),
        }
    }

    /// Reports whether a secret occurs in `text`, plain or escaped.
    pub fn finds_in(&self, text: &[u8]) -> bool {
        // An escaped secret is never shorter than the secret.
        if text.len() < self.shortest {
            return false;
        }
        if memchr::memchr2(b'\\', b'%', text).is_none() {
            return occurs(&self.secrets, text);
        }
        let unescaped = unescape_json(text);
        let decoded: Cow<'_, [u8]> = percent_decode(&unescaped).into();
        occurs(&self.secrets, &decoded)
            || (decoded != unescaped && occurs(&self.secrets, &unescaped))
            || (unescaped != text && occurs(&self.secrets, text))
    }

    /// Reports whether a secret occurs in a header name.
    pub fn finds_in_header_name(&self, name: &str) -> bool {
        name.len() >= self.shortest && occurs(&self.lowercase, name.as_bytes())
    }
}

fn occurs(secrets: &[Finder<'_>], text: &[u8]) -> bool {
    secrets.iter().any(|secret| {
        let length = secret.needle().len();
        let is_delimited = |at: usize| {
            let is_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
            let before = at.checked_sub(1).and_then(|i| text.get(i));
            !is_word(before) && !is_word(text.get(at + length))
        };
        // Overlapping occurrences are searched too, because only a later one may be delimited.
        let mut from = 0;
        let mut occurrences = std::iter::from_fn(|| {
            let at = from + secret.find(&text[from..])?;
            from = at + 1;
            Some(at)
        });
        occurrences.any(|at| length >= MIN_SUBSTRING_LEN || is_delimited(at))
    })
}

/// Undoes JSON escapes. Secrets are ASCII, so `\u` escapes of 0x80 and above need no decoding: only their
/// backslash is dropped.
fn unescape_json(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut unread = text;
    while let Some(at) = memchr::memchr(b'\\', unread) {
        plain.extend_from_slice(&unread[..at]);
        unread = &unread[at + 1..];
        let ascii = unread
            .strip_prefix(b"u")
            .and_then(|code| code.get(..4))
            .and_then(|code| std::str::from_utf8(code).ok())
            // `from_str_radix` also accepts a sign.
            .filter(|code| !code.starts_with('+'))
            .and_then(|code| u8::from_str_radix(code, 16).ok())
            .filter(u8::is_ascii);
        if let Some(byte) = ascii {
            plain.push(byte);
            unread = &unread[5..];
        } else if let Some((byte, after)) = unread.split_first() {
            plain.push(*byte);
            unread = after;
        }
    }
    plain.extend_from_slice(unread);
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_found_in_every_encoding() {
        let scanner = SecretScanner::new(["pk+live/\"12-34\"==", "Bearer tok-12345678"]);
        for text in [
            r#"pk+live/"12-34"=="#,
            r#"xpk+live/"12-34"==x"#,
            r#"{"message":"bad key pk+live/\"12-34\"=="}"#,
            r#"{"message":"bad key pk\u002Blive\/\u002212-34\u0022\u003d\u003d"}"#,
            "https://x/?k=pk%2Blive%2F%2212-34%22%3D%3D&y",
            "https://x/?k=pk%2blive/%2212%2D34%22==&y",
            r"https:\/\/x\/?k=pk%2blive\/%2212-34%22==",
            "Authorization: Bearer tok-12345678",
            "token tok-12345678.",
        ] {
            assert!(scanner.finds_in(text.as_bytes()), "{text}");
        }
        assert!(scanner.finds_in_header_name("x-tok-12345678"));
        for text in [
            "Bearer tok-1234567",
            "\\",
            "\\u",
            "\\u00",
            "\\uZZZZ",
            "%",
            "%f",
            "",
        ] {
            assert!(!scanner.finds_in(text.as_bytes()), "{text}");
        }
        assert!(!SecretScanner::new([]).finds_in(b"anything"));
        assert!(!SecretScanner::new([""]).finds_in(b"anything"));
    }

    #[test]
    fn debug_shows_the_number_of_secrets_only() {
        let text = format!(
            "{:?}",
            SecretScanner::new(["canary-12345678", "canary-87654321"])
        );
        assert!(text.contains('2') && !text.contains("canary"), "{text}");
    }

    #[test]
    fn secret_that_looks_escaped_is_found() {
        for secret in ["canary%41-12345678", r"canary\u0041-12345678"] {
            assert!(
                SecretScanner::new([secret]).finds_in(secret.as_bytes()),
                "{secret}"
            );
        }
    }

    #[test]
    fn short_secret_counts_only_where_it_is_delimited() {
        let scanner = SecretScanner::new(["k"]);
        for text in ["k", "key: k", "\"k\"", "a=k&b"] {
            assert!(scanner.finds_in(text.as_bytes()), "{text}");
        }
        for text in ["ok", "application/octet-stream; key", "k1"] {
            assert!(!scanner.finds_in(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn short_secret_that_overlaps_itself_is_found_where_it_is_delimited() {
        let scanner = SecretScanner::new(["=="]);
        assert!(scanner.finds_in(b"key==="));
        assert!(!scanner.finds_in(b"key==x"));
    }

    #[test]
    fn json_escape_has_four_digits_and_no_sign() {
        let scanner = SecretScanner::new(["canary-A"]);
        assert!(scanner.finds_in(br"canary-\u0041"));
        assert!(!scanner.finds_in(br"canary-\u+041"));
    }
}
