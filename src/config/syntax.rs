//! Syntax errors: turns the errors of the TOML parser into one message for each mistake.
//!
//! No message repeats a value, because the value may be a secret.

use toml::de::Error;

/// Describes a syntax error.
pub(super) struct SyntaxError {
    /// Holds the byte offset of the error.
    pub(super) offset: usize,
    /// Holds the byte offset up to which the values that the parser recovered are meaningless.
    pub(super) end: usize,
    pub(super) text: String,
}

/// Returns the mistakes that caused `errors`, without errors that only follow from another.
pub(super) fn syntax_errors(text: &str, errors: &[Error]) -> Vec<SyntaxError> {
    let mut errors: Vec<_> = errors
        .iter()
        .map(|error| (error.span().unwrap_or_default(), error.message()))
        .collect();
    errors.sort_by_key(|(span, _)| span.start);
    let has_open_list = errors
        .iter()
        .any(|(_, message)| message.starts_with("unclosed array,"));
    let mut found: Vec<SyntaxError> = Vec::new();
    for (span, message) in errors {
        let location = Location {
            text,
            offset: span.start,
            key: text.get(span.clone()).unwrap_or_default(),
            has_open_list,
        };
        if found.last().is_none_or(|last| last.end < span.start) {
            found.push(location.explain(message));
        }
    }
    found
}

/// Holds the place of a parser error.
struct Location<'t> {
    text: &'t str,
    offset: usize,
    /// Holds the text at the span of the error, which may be a key.
    key: &'t str,
    /// Whether a list is not closed before the end of the file.
    has_open_list: bool,
}

impl Location<'_> {
    fn explain(&self, message: &str) -> SyntaxError {
        let word = self.word();
        let is = |begin: &str| message.starts_with(begin);
        let is_header = self.line().starts_with('[');
        let text = if is("duplicate key") && is_header {
            Some(format!(
                "the table [{}] occurs twice; merge the two",
                self.key
            ))
        } else if is("duplicate key") {
            Some(format!("the key `{}` occurs twice; remove one", self.key))
        } else if (is("invalid unquoted key") || is("key with no value")) && word.contains(':') {
            Some("write `=` between a key and its value, not `:`".to_owned())
        } else if is("unclosed table") || is("unclosed array table") {
            Some(format!("{message} at its end"))
        } else if self.in_open_list(message) {
            Some("the list before this is not closed; add `]`".to_owned())
        } else if is("invalid basic string") && self.after().starts_with(['\r', '\n']) {
            Some("a string is not closed; add `\"`".to_owned())
        } else if is("string values must be quoted") || is("invalid boolean") || is_misread(message)
        {
            explain_value(word)
        } else {
            None
        };
        // The parser reads what follows as part of the unclosed list or table header.
        let end = if self.in_open_list(message) {
            self.text.len()
        } else if is("unclosed table") || is("unclosed array table") {
            self.next_header()
        } else {
            self.line_end()
        };
        SyntaxError {
            offset: self.offset,
            end,
            text: text.unwrap_or_else(|| message.to_owned()),
        }
    }

    fn in_open_list(&self, message: &str) -> bool {
        let is_about_list = message.contains("array") && !message.contains("table");
        self.has_open_list && is_about_list
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

    /// Returns the end of the last line before the next table header.
    fn next_header(&self) -> usize {
        self.offset + self.after().find("\n[").unwrap_or(self.after().len())
    }

    fn line(&self) -> &str {
        let start = self.before().rfind('\n').map_or(0, |newline| newline + 1);
        self.text.get(start..self.line_end()).unwrap_or_default()
    }

    /// Returns the text around the error, up to the next delimiter on either side.
    fn word(&self) -> &str {
        let ends = |c: char| c.is_whitespace() || "=,[]{}#\"'".contains(c);
        let start = self.before().rfind(ends).map_or(0, |end| end + 1);
        let end = self.after().find(ends).unwrap_or(self.after().len());
        self.text.get(start..self.offset + end).unwrap_or_default()
    }
}

/// Returns whether the parser tried to read a number or a date.
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

/// Returns what to write instead of this value. `None` if it may be meant as a number.
fn explain_value(word: &str) -> Option<String> {
    let is_number = |b: u8| b.is_ascii_digit() || matches!(b, b'_' | b'+' | b'-');
    if word.is_empty() {
        return Some("a value is missing after `=`".to_owned());
    }
    if word.bytes().filter(|b| *b != b'.').all(is_number) && word.matches('.').count() < 2 {
        return None;
    }
    Some(match word.to_ascii_lowercase().as_str() {
        "true" | "false" | "yes" | "no" | "on" | "off" => {
            "write true or false, in small letters and without quotes".to_owned()
        }
        _ => "strings must be quoted; write it between `\"` and `\"`".to_owned(),
    })
}
