//! Diagnostics: collects the problems of a configuration with their places, and returns all at once.
//!
//! The text of a problem never contains a secret, nor a value that could be one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use thiserror::Error;

/// Holds all problems of a configuration, at least one, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// Returns the problems. Those of the file come first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.list.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Says what is wrong, where, and what would be right.
///
/// `Display` writes one line, such as `stepgate.toml:12:7: upstream.timeout: …`. If a flag or variable is
/// wrong, its name replaces file, line and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Holds line and column in the file, both from 1. The column counts characters.
    position: Option<(usize, usize)>,
    location: String,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.location.is_empty() { "" } else { ": " };
        write!(f, "{}{separator}{}", self.location, self.text)
    }
}

/// Names where a value was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SourceSpan {
    /// Holds the name of a flag, a variable, a file, or a key that kept its default.
    Name(String),
    /// Holds a byte offset in the file, and the full name of the key. The name is empty if there is none.
    File { offset: usize, key: String },
}

impl SourceSpan {
    pub(super) fn name(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

/// Collects the problems of one configuration while it is read.
pub(super) struct Diagnostics<'a> {
    path: &'a Path,
    text: &'a str,
    /// Holds the lines with syntax errors. Values that were recovered from them are meaningless.
    broken_lines: Vec<RangeInclusive<usize>>,
    /// Whether part of the file could not be read.
    partial: bool,
    list: RefCell<Vec<Problem>>,
    /// Holds each key that was looked up. Its span is `None` if the file does not have the key.
    known: RefCell<BTreeMap<String, Option<SourceSpan>>>,
    unknown: RefCell<Vec<UnknownKey>>,
}

/// Describes a key that is in the file but was never looked up.
struct UnknownKey {
    span: SourceSpan,
    key: String,
    /// Lists the valid keys of the same table.
    known_here: String,
}

impl<'a> Diagnostics<'a> {
    /// Creates an empty collection for a file named `path` that contains `text`.
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            broken_lines: Vec::new(),
            partial: false,
            list: RefCell::default(),
            known: RefCell::default(),
            unknown: RefCell::default(),
        }
    }

    /// Reports a syntax error. Problems on its lines up to `end` are not reported, because they follow.
    pub(super) fn report_syntax_error(&mut self, offset: usize, end: usize, text: &str) {
        let span = SourceSpan::File {
            offset,
            key: String::new(),
        };
        self.push(&span, text.to_owned());
        let lines = self.position(offset).0..=self.position(end).0;
        self.broken_lines.push(lines);
        self.partial = true;
    }

    /// Reports that the file cannot be read.
    pub(super) fn report_unreadable(&mut self, text: String) {
        self.push(&SourceSpan::Name(self.path.display().to_string()), text);
        self.partial = true;
    }

    /// Reports a problem with the value at `span`.
    pub(super) fn report(&self, span: &SourceSpan, text: impl Into<String>) {
        if let SourceSpan::File { offset, key } = span {
            // The parser invents values after an error. Their offset is 0, but a key always precedes a
            // value.
            let is_made_up = self.partial && *offset == 0 && key.contains('.');
            let line = self.position(*offset).0;
            if is_made_up || self.broken_lines.iter().any(|lines| lines.contains(&line)) {
                return;
            }
        }
        self.push(span, text.into());
    }

    /// Reports that something is missing or inconsistent, unless part of the file could not be read.
    ///
    /// In that case the missing part may be there.
    pub(super) fn report_if_complete(&self, span: &SourceSpan, text: impl Into<String>) {
        if !self.partial {
            self.push(span, text.into());
        }
    }

    /// Records that a key was looked up, and where its value is.
    pub(super) fn record_key(&self, key: String, span: Option<SourceSpan>) {
        self.known.borrow_mut().insert(key, span);
    }

    /// Reports a key that was not looked up. The text is built at the end, because another table may
    /// have the key.
    pub(super) fn report_unknown_key(&self, span: SourceSpan, key: &str, known_here: String) {
        self.unknown.borrow_mut().push(UnknownKey {
            span,
            key: key.to_owned(),
            known_here,
        });
    }

    fn report_unknown_keys(&self) {
        for UnknownKey {
            span,
            key,
            known_here,
        } in self.unknown.take()
        {
            let is_named =
                |full: &&String| full.rsplit_once('.').is_some_and(|(_, name)| name == key);
            let known = self.known.borrow();
            let elsewhere: Vec<&str> = known.keys().filter(is_named).map(String::as_str).collect();
            let text = if elsewhere.is_empty() {
                format!("unknown key {key:?}; known here: {known_here}")
            } else {
                let elsewhere = elsewhere.join(" or ");
                format!("unknown key {key:?}; did you mean {elsewhere}?")
            };
            self.report(&span, text);
        }
    }

    /// Returns the span of the value of `key`, or the name of the key if the file does not have it.
    pub(super) fn span_of(&self, key: &str) -> SourceSpan {
        let known = self.known.borrow();
        known
            .get(key)
            .cloned()
            .flatten()
            .unwrap_or_else(|| SourceSpan::name(key))
    }

    /// Returns the full names of the keys that were looked up.
    #[cfg(test)]
    pub(super) fn known_keys(&self) -> Vec<String> {
        self.known.borrow().keys().cloned().collect()
    }

    /// Returns the problems. `None` if there are none.
    pub(super) fn finish(self) -> Option<Problems> {
        self.report_unknown_keys();
        let mut list = self.list.into_inner();
        // The sort is stable. Problems without a position keep their order at the end.
        list.sort_by_key(|problem| problem.position.unwrap_or((usize::MAX, 0)));
        list.dedup();
        (!list.is_empty()).then_some(Problems { list })
    }

    fn push(&self, span: &SourceSpan, text: String) {
        let (position, location) = match span {
            SourceSpan::Name(name) => (None, name.clone()),
            SourceSpan::File { offset, key } => {
                let (line, column) = self.position(*offset);
                let separator = if key.is_empty() { "" } else { ": " };
                let path = self.path.display();
                let location = format!("{path}:{line}:{column}{separator}{key}");
                (Some((line, column)), location)
            }
        };
        self.list.borrow_mut().push(Problem {
            position,
            location: one_line(&location),
            text: one_line(&text),
        });
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[start..].chars().count() + 1)
    }
}

/// Escapes control characters, so that a problem stays one line whatever a key or path contains.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: usize, key: &str) -> SourceSpan {
        SourceSpan::File {
            offset,
            key: key.to_owned(),
        }
    }

    #[test]
    fn line_and_column_count_characters_from_one() {
        let diagnostics = Diagnostics::new(Path::new("f.toml"), "a = 1\r\nä = \"ö\" x");
        for (offset, expected) in [
            (0, (1, 1)),
            (4, (1, 5)),
            (7, (2, 1)),
            (9, (2, 2)),
            (17, (2, 9)),
        ] {
            assert_eq!(diagnostics.position(offset), expected, "offset {offset}");
        }
    }

    #[test]
    fn problems_are_in_the_order_of_the_file() {
        let diagnostics = Diagnostics::new(Path::new("f.toml"), "a\nb\nc");
        diagnostics.report(&SourceSpan::name("--listen"), "is wrong");
        diagnostics.report(&at(4, "c"), "third");
        diagnostics.report(&at(0, "a"), "first");
        let problems = diagnostics.finish().unwrap().to_string();
        assert_eq!(
            problems,
            "f.toml:1:1: a: first\nf.toml:3:1: c: third\n--listen: is wrong"
        );
    }

    #[test]
    fn problems_that_follow_from_a_syntax_error_are_not_reported() {
        let mut diagnostics = Diagnostics::new(Path::new("f.toml"), "a\nb");
        diagnostics.report_syntax_error(0, 0, "expected `=`");
        diagnostics.report(&at(0, "a"), "same line");
        diagnostics.report(&at(2, "b"), "another line");
        diagnostics.report_if_complete(&SourceSpan::name("X"), "is not set");
        let problems = diagnostics.finish().unwrap().to_string();
        assert_eq!(
            problems,
            "f.toml:1:1: expected `=`\nf.toml:2:1: b: another line"
        );
    }
}
