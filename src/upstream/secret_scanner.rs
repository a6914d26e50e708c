//! Finds injected secrets in what comes back.

use std::borrow::Cow;

use memchr::memmem::Finder;
use percent_encoding::percent_decode;

/// A shorter secret would be found in half of all texts; it counts only where it stands alone.
const LONG_ENOUGH: usize = 8;

/// Knows the secrets, and finds them also where they are escaped as in JSON or in a URL.
#[derive(Clone)]
pub struct SecretScanner {
    secrets: Vec<Finder<'static>>,
    /// In lower case, as header names arrive.
    lower: Vec<Finder<'static>>,
    /// Bytes of the shortest; of none, more than any text has.
    shortest: usize,
}

impl std::fmt::Debug for SecretScanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretScanner({} secrets)", self.secrets.len())
    }
}

impl SecretScanner {
    /// Learns the secrets; of `Bearer x`, also `x`.
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
            lower: secrets
                .iter()
                .map(|secret| finder(&secret.to_ascii_lowercase()))
                .collect(),
        }
    }

    /// Whether a secret occurs in `text`, plain or escaped.
    pub fn finds_in(&self, text: &[u8]) -> bool {
        // Escaping makes a text longer, never shorter.
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

    /// Whether a secret occurs in a header's name.
    pub fn finds_in_name(&self, name: &str) -> bool {
        name.len() >= self.shortest && occurs(&self.lower, name.as_bytes())
    }
}

fn occurs(secrets: &[Finder<'_>], text: &[u8]) -> bool {
    secrets.iter().any(|secret| {
        let length = secret.needle().len();
        let alone = |at: usize| {
            let word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
            let before = at.checked_sub(1).and_then(|i| text.get(i));
            !word(before) && !word(text.get(at + length))
        };
        // Overlapping ones, too: behind one that does not stand alone, the next may.
        let mut from = 0;
        let mut occurrences = std::iter::from_fn(|| {
            let at = from + secret.find(&text[from..])?;
            from = at + 1;
            Some(at)
        });
        occurrences.any(|at| length >= LONG_ENOUGH || alone(at))
    })
}

/// Takes the backslashes out of a text as JSON has them. Secrets are ASCII, so of the `\u` escapes
/// only those below 0x80 matter; the others stay as they are.
fn unescape_json(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        plain.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let ascii = rest
            .strip_prefix(b"u")
            .and_then(|code| code.get(..4))
            .and_then(|code| std::str::from_utf8(code).ok())
            // `from_str_radix` would take a sign, too.
            .filter(|code| !code.starts_with('+'))
            .and_then(|code| u8::from_str_radix(code, 16).ok())
            .filter(u8::is_ascii);
        if let Some(byte) = ascii {
            plain.push(byte);
            rest = &rest[5..];
        } else if let Some((byte, after)) = rest.split_first() {
            plain.push(*byte);
            rest = after;
        }
    }
    plain.extend_from_slice(rest);
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_in_every_spelling() {
        let redactor = SecretScanner::new(["pk+live/\"12-34\"==", "Bearer tok-12345678"]);
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
            assert!(redactor.finds_in(text.as_bytes()), "{text}");
        }
        assert!(redactor.finds_in_name("x-tok-12345678"));
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
            assert!(!redactor.finds_in(text.as_bytes()), "{text}");
        }
        assert!(!SecretScanner::new([]).finds_in(b"anything"));
        assert!(!SecretScanner::new([""]).finds_in(b"anything"));
    }

    #[test]
    fn its_debug_text_says_how_many_and_not_which() {
        let text = format!(
            "{:?}",
            SecretScanner::new(["canary-12345678", "canary-87654321"])
        );
        assert!(text.contains('2') && !text.contains("canary"), "{text}");
    }

    #[test]
    fn a_secret_that_looks_escaped_is_found_as_it_is() {
        for secret in ["canary%41-12345678", r"canary\u0041-12345678"] {
            assert!(
                SecretScanner::new([secret]).finds_in(secret.as_bytes()),
                "{secret}"
            );
        }
    }

    #[test]
    fn a_short_secret_counts_only_where_it_stands_alone() {
        let redactor = SecretScanner::new(["k"]);
        for text in ["k", "key: k", "\"k\"", "a=k&b"] {
            assert!(redactor.finds_in(text.as_bytes()), "{text}");
        }
        for text in ["ok", "application/octet-stream; key", "k1"] {
            assert!(!redactor.finds_in(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_short_secret_that_overlaps_itself_is_found_where_it_stands_alone() {
        let redactor = SecretScanner::new(["=="]);
        assert!(redactor.finds_in(b"key==="));
        assert!(!redactor.finds_in(b"key==x"));
    }

    #[test]
    fn an_escape_has_four_digits_and_no_sign() {
        let redactor = SecretScanner::new(["canary-A"]);
        assert!(redactor.finds_in(br"canary-\u0041"));
        assert!(!redactor.finds_in(br"canary-\u+041"));
    }
}
