//! What is wrong with a configuration, and where: collected while it is read, told all at once.
//!
//! A problem's text never contains a secret, nor a value that could be one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use thiserror::Error;

/// Everything that is wrong with a configuration; at least one problem, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// The problems, those of the file first.
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

/// One thing that is wrong, and what would be right.
///
/// `Display` is one line: `stepgate.toml:12:7: upstream.timeout: …`, or the name of the flag or
/// variable in place of file, line and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line and column in the file, both from 1; the column counts characters.
    position: Option<(usize, usize)>,
    place: String,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.place.is_empty() { "" } else { ": " };
        write!(f, "{}{separator}{}", self.place, self.text)
    }
}

/// Where a value was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The name of a flag, a variable, a file, or of a key that kept its default.
    Name(String),
    /// In the file: the byte offset, and the key's full name (empty: none).
    File { offset: usize, key: String },
}

impl Place {
    pub(super) fn name(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

/// Collects problems while one configuration is read.
pub(super) struct Notes<'a> {
    path: &'a Path,
    text: &'a str,
    /// Lines on which the TOML itself is broken: what was recovered from them means nothing.
    broken_lines: Vec<RangeInclusive<usize>>,
    /// Whether some of the file could not be read at all.
    partial: bool,
    list: RefCell<Vec<Problem>>,
    /// The keys that were asked for, with the place of each that is written.
    known: RefCell<BTreeMap<String, Option<Place>>>,
    unknown: RefCell<Vec<Unknown>>,
}

/// A key that nobody asked for, and those of its table that somebody did.
struct Unknown {
    place: Place,
    key: String,
    known_here: String,
}

impl<'a> Notes<'a> {
    /// For a file named `path` that contains `text`.
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

    /// Notes a place where the file is not TOML; what was read from its lines up to `end` is not told.
    pub(super) fn broken(&mut self, offset: usize, end: usize, text: &str) {
        let place = Place::File {
            offset,
            key: String::new(),
        };
        self.push(&place, text.to_owned());
        let lines = self.position(offset).0..=self.position(end).0;
        self.broken_lines.push(lines);
        self.partial = true;
    }

    /// Notes that the file cannot be read at all.
    pub(super) fn unreadable(&mut self, text: String) {
        self.push(&Place::Name(self.path.display().to_string()), text);
        self.partial = true;
    }

    /// Notes a problem with what was read at `place`.
    pub(super) fn note(&self, place: &Place, text: impl Into<String>) {
        if let Place::File { offset, key } = place {
            // What the parser made up has no place: before a value there is always its key.
            let is_made_up = self.partial && *offset == 0 && key.contains('.');
            let line = self.position(*offset).0;
            if is_made_up || self.broken_lines.iter().any(|lines| lines.contains(&line)) {
                return;
            }
        }
        self.push(place, text.into());
    }

    /// Notes that something is missing or does not fit together.
    ///
    /// Where some of the file could not be read nothing can be said about that: it may be there.
    pub(super) fn absent(&self, place: &Place, text: impl Into<String>) {
        if !self.partial {
            self.push(place, text.into());
        }
    }

    /// Records that the reader asked for this key, and where its value is.
    pub(super) fn know(&self, key: String, place: Option<Place>) {
        self.known.borrow_mut().insert(key, place);
    }

    /// Notes a key that nobody asked for. In the end it may turn out to be one of another table.
    pub(super) fn unknown(&self, place: Place, key: &str, known_here: String) {
        self.unknown.borrow_mut().push(Unknown {
            place,
            key: key.to_owned(),
            known_here,
        });
    }

    fn tell_unknown(&self) {
        for unknown in self.unknown.take() {
            let Unknown {
                place,
                key,
                known_here,
            } = unknown;
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
            self.note(&place, text);
        }
    }

    /// Where the value of `key` is written, else its name.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let known = self.known.borrow();
        known
            .get(key)
            .cloned()
            .flatten()
            .unwrap_or_else(|| Place::name(key))
    }

    /// The keys that the reader asked for, by full name.
    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<String> {
        self.known.borrow().keys().cloned().collect()
    }

    /// The problems, if there are any.
    pub(super) fn finish(self) -> Option<Problems> {
        self.tell_unknown();
        let mut list = self.list.into_inner();
        // A stable sort: what has no position keeps its order, behind what has one.
        list.sort_by_key(|problem| problem.position.unwrap_or((usize::MAX, 0)));
        list.dedup();
        (!list.is_empty()).then_some(Problems { list })
    }

    fn push(&self, place: &Place, text: String) {
        let (position, place) = match place {
            Place::Name(name) => (None, name.clone()),
            Place::File { offset, key } => {
                let (line, column) = self.position(*offset);
                let separator = if key.is_empty() { "" } else { ": " };
                let place = format!("{}:{line}:{column}{separator}{key}", self.path.display());
                (Some((line, column)), place)
            }
        };
        self.list.borrow_mut().push(Problem {
            position,
            place: one_line(&place),
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

/// Whatever a key, a path or a name contains, a problem stays one line.
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

    fn at(offset: usize, key: &str) -> Place {
        Place::File {
            offset,
            key: key.to_owned(),
        }
    }

    #[test]
    fn a_column_counts_characters_and_both_count_from_one() {
        let notes = Notes::new(Path::new("f.toml"), "a = 1\r\nä = \"ö\" x");
        for (offset, expected) in [
            (0, (1, 1)),
            (4, (1, 5)),
            (7, (2, 1)),
            (9, (2, 2)),
            (17, (2, 9)),
        ] {
            assert_eq!(notes.position(offset), expected, "offset {offset}");
        }
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_and_names_last() {
        let notes = Notes::new(Path::new("f.toml"), "a\nb\nc");
        notes.note(&Place::name("--listen"), "is wrong");
        notes.note(&at(4, "c"), "third");
        notes.note(&at(0, "a"), "first");
        let told = notes.finish().unwrap().to_string();
        assert_eq!(
            told,
            "f.toml:1:1: a: first\nf.toml:3:1: c: third\n--listen: is wrong"
        );
    }

    #[test]
    fn what_follows_from_broken_toml_is_not_told() {
        let mut notes = Notes::new(Path::new("f.toml"), "a\nb");
        notes.broken(0, 0, "expected `=`");
        notes.note(&at(0, "a"), "same line");
        notes.note(&at(2, "b"), "another line");
        notes.absent(&Place::name("X"), "is not set");
        let told = notes.finish().unwrap().to_string();
        assert_eq!(
            told,
            "f.toml:1:1: expected `=`\nf.toml:2:1: b: another line"
        );
    }
}
