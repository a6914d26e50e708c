//! Where the file is not TOML: one problem for each slip, with what to write instead.
//!
//! No value is repeated: it may be a secret that was to be named.

use toml::de::Error;

/// A slip, and how far what was read is worth nothing.
pub(super) struct Slip {
    pub(super) offset: usize,
    pub(super) end: usize,
    pub(super) text: String,
}

/// The slips behind `errors`: without those that only follow from another.
pub(super) fn slips(text: &str, errors: &[Error]) -> Vec<Slip> {
    let mut errors: Vec<_> = errors
        .iter()
        .map(|error| (error.span().unwrap_or_default(), error.message()))
        .collect();
    errors.sort_by_key(|(span, _)| span.start);
    let has_open_list = errors
        .iter()
        .any(|(_, message)| message.starts_with("unclosed array,"));
    let mut slips: Vec<Slip> = Vec::new();
    for (span, message) in errors {
        let spot = Spot {
            text,
            offset: span.start,
            key: text.get(span.clone()).unwrap_or_default(),
            has_open_list,
        };
        if slips.last().is_none_or(|last| last.end < span.start) {
            slips.push(spot.judge(message));
        }
    }
    slips
}

/// A place at which the parser stumbled.
struct Spot<'t> {
    text: &'t str,
    offset: usize,
    /// What the error is about, where that is a key.
    key: &'t str,
    /// A list is open to the end of the file.
    has_open_list: bool,
}

impl Spot<'_> {
    fn judge(&self, message: &str) -> Slip {
        let word = self.word();
        let is = |begin: &str| message.starts_with(begin);
        let is_header = self.line().starts_with('[');
        let text = if is("duplicate key") && is_header {
            Some(format!("[{}] is there twice: join the two", self.key))
        } else if is("duplicate key") {
            Some(format!(
                "the key `{}` is there twice: leave one out",
                self.key
            ))
        } else if (is("invalid unquoted key") || is("key with no value")) && word.contains(':') {
            Some("write `=` between a key and its value, not `:`".to_owned())
        } else if is("unclosed table") || is("unclosed array table") {
            Some(format!("{message} at its end"))
        } else if self.in_open_list(message) {
            Some("a list is not closed before this: `]` is missing".to_owned())
        } else if is("invalid basic string") && self.after().starts_with(['\r', '\n']) {
            Some("a string is not closed: `\"` is missing".to_owned())
        } else if is("string values must be quoted") || is("invalid boolean") || is_misread(message)
        {
            value(word)
        } else {
            None
        };
        // What the parser takes for a part of what is still open is something else.
        let end = if self.in_open_list(message) {
            self.text.len()
        } else if is("unclosed table") || is("unclosed array table") {
            self.next_header()
        } else {
            self.line_end()
        };
        Slip {
            offset: self.offset,
            end,
            text: text.unwrap_or_else(|| message.to_owned()),
        }
    }

    fn in_open_list(&self, message: &str) -> bool {
        let is_of_list = message.contains("array") && !message.contains("table");
        self.has_open_list && is_of_list
    }

    fn before(&self) -> &str {
        self.text.get(..self.offset).unwrap_or(self.text)
    }

    fn after(&self) -> &str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    fn line_end(&self) -> usize {
        self.offset + self.after().find('\n').unwrap_or(self.after().len())
    }

    /// The end of the last line before the next table begins.
    fn next_header(&self) -> usize {
        self.offset + self.after().find("\n[").unwrap_or(self.after().len())
    }

    fn line(&self) -> &str {
        let start = self.before().rfind('\n').map_or(0, |newline| newline + 1);
        self.text.get(start..self.line_end()).unwrap_or_default()
    }

    /// What stands around it, without a blank in it.
    fn word(&self) -> &str {
        let ends = |c: char| c.is_whitespace() || "=,[]{}#\"'".contains(c);
        let start = self.before().rfind(ends).map_or(0, |blank| blank + 1);
        let end = self.after().find(ends).unwrap_or(self.after().len());
        self.text.get(start..self.offset + end).unwrap_or_default()
    }
}

/// Whether the parser took a word for a number or a date.
fn is_misread(message: &str) -> bool {
    [
        "invalid float",
        "invalid integer",
        "invalid datetime",
        "invalid date",
        "invalid time",
    ]
    .iter()
    .any(|begin| message.starts_with(begin))
}

/// What to write instead of this value; none where it may be meant for a number.
fn value(word: &str) -> Option<String> {
    let is_number = |b: u8| b.is_ascii_digit() || matches!(b, b'_' | b'+' | b'-');
    if word.is_empty() {
        return Some("a value is missing behind `=`".to_owned());
    }
    if word.bytes().filter(|b| *b != b'.').all(is_number) && word.matches('.').count() < 2 {
        return None;
    }
    Some(match word.to_ascii_lowercase().as_str() {
        "true" | "false" | "yes" | "no" | "on" | "off" => {
            "write true or false, in small letters and without quotes".to_owned()
        }
        _ => "strings must be quoted: write it between `\"` and `\"`".to_owned(),
    })
}
