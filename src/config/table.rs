//! Tables: looks up the keys of a TOML table, and reports those that were not looked up.
//!
//! This module knows TOML and spans. It does not know the meaning of any key.

use std::cmp::Reverse;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostics, SourceSpan};
use super::key_hints::hint;

/// Holds a value of the file with its span.
pub(super) struct Item<'n> {
    diagnostics: &'n Diagnostics<'n>,
    key: String,
    offset: usize,
    value: DeValue<'n>,
}

impl<'n> Item<'n> {
    fn new(diagnostics: &'n Diagnostics<'n>, key: String, value: Spanned<DeValue<'n>>) -> Self {
        Self {
            diagnostics,
            key,
            offset: value.span().start,
            value: value.into_inner(),
        }
    }

    /// Returns the span of the value.
    pub(super) fn span(&self) -> SourceSpan {
        SourceSpan::File {
            offset: self.offset,
            key: self.key.clone(),
        }
    }

    /// Returns the collection for problems.
    pub(super) fn diagnostics(&self) -> &'n Diagnostics<'n> {
        self.diagnostics
    }

    /// Returns the value.
    pub(super) fn value(&self) -> &DeValue<'n> {
        &self.value
    }

    /// Reports what is wrong with the value. Returns `None`.
    pub(super) fn reject<T>(&self, text: impl Into<String>) -> Option<T> {
        self.diagnostics.report(&self.span(), text);
        None
    }

    /// Reports that the value has the wrong type; `what` names the expected one. Returns `None`.
    pub(super) fn expected<T>(&self, what: &str) -> Option<T> {
        self.reject(format!("expected {what}, found {}", self.kind()))
    }

    /// Returns the string. If it is none, reports that `what` is expected.
    pub(super) fn text(&self, what: &str) -> Option<&str> {
        match self.value.as_str() {
            Some(text) => Some(text),
            None => self.expected(what),
        }
    }

    /// Parses the string. An error of `parse` is reported.
    pub(super) fn parse<T>(
        &self,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(self.text(what)?) {
            Ok(value) => Some(value),
            Err(text) => self.reject(text),
        }
    }

    /// Returns the elements of the array. If it is none, reports that `what` is expected.
    pub(super) fn elements(self, what: &str) -> Option<Vec<Self>> {
        let Self {
            diagnostics, key, ..
        } = &self;
        if !self.value.is_array() {
            return self.expected(what);
        }
        let (diagnostics, key) = (*diagnostics, key.clone());
        let DeValue::Array(array) = self.value else {
            return None;
        };
        let elements = array
            .into_iter()
            .map(|value| Self::new(diagnostics, key.clone(), value))
            .collect();
        Some(elements)
    }

    /// Returns the table. If it is none, reports that `what` is expected.
    pub(super) fn table(self, what: &str) -> Option<Table<'n>> {
        if !self.value.is_table() {
            return self.expected(what);
        }
        let span = self.span();
        let DeValue::Table(entries) = self.value else {
            return None;
        };
        Some(Table {
            diagnostics: self.diagnostics,
            path: self.key,
            span,
            rest: entries,
            known: Vec::new(),
        })
    }

    fn kind(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }
}

/// Holds a table of the file.
pub(super) struct Table<'n> {
    diagnostics: &'n Diagnostics<'n>,
    path: String,
    span: SourceSpan,
    /// Holds the entries that were not looked up yet.
    rest: DeTable<'n>,
    /// Holds the keys that were looked up.
    known: Vec<&'static str>,
}

impl<'n> Table<'n> {
    /// Creates the table of the whole file.
    pub(super) fn root(diagnostics: &'n Diagnostics<'n>, entries: DeTable<'n>) -> Self {
        Self {
            diagnostics,
            path: String::new(),
            span: SourceSpan::name(""),
            rest: entries,
            known: Vec::new(),
        }
    }

    /// Returns the collection for problems.
    pub(super) fn diagnostics(&self) -> &'n Diagnostics<'n> {
        self.diagnostics
    }

    /// Returns where the table begins.
    pub(super) fn span(&self) -> &SourceSpan {
        &self.span
    }

    /// Returns the full name of a key of the table.
    pub(super) fn name_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Looks up `key` and removes it. `None` if the table does not have it.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item<'n>> {
        self.known.push(key);
        let name = self.name_of(key);
        let value = self.rest.remove(key);
        let item = value.map(|value| Item::new(self.diagnostics, name.clone(), value));
        self.diagnostics
            .record_key(name, item.as_ref().map(Item::span));
        item
    }

    /// Looks up `key` and reads its value. Returns `default` if it is missing or invalid.
    pub(super) fn take_or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Item<'n>) -> Option<T>,
    ) -> T {
        self.take(key).and_then(read).unwrap_or(default)
    }

    /// Looks up `key` and reads its value. Reports a missing key with `why`.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        why: &str,
        read: impl FnOnce(Item<'n>) -> Option<T>,
    ) -> Option<T> {
        match self.take(key) {
            Some(item) => read(item),
            None => {
                let text = format!("the key `{key}` is missing; {why}");
                self.diagnostics.report_if_complete(&self.span, text);
                None
            }
        }
    }

    /// Returns the table under `key`. If there is none, returns an empty one, so that its keys count as
    /// known.
    pub(super) fn table(&mut self, key: &'static str) -> Self {
        let path = self.name_of(key);
        self.take(key)
            .and_then(|item| item.table(&format!("a table, [{path}]")))
            .unwrap_or_else(|| Self {
                diagnostics: self.diagnostics,
                span: SourceSpan::Name(path.clone()),
                path,
                rest: DeTable::new(),
                known: Vec::new(),
            })
    }

    /// Returns the tables that are written `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let what = format!("tables, [[{key}]]");
        self.take(key)
            .and_then(|item| item.elements(&what))
            .unwrap_or_default()
            .into_iter()
            .filter_map(|item| item.table(&what))
            .collect()
    }

    /// Returns all entries in the order of the file, for a table whose keys are data.
    pub(super) fn entries(self) -> Vec<(String, SourceSpan, Item<'n>)> {
        let mut entries: Vec<_> = self.rest.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
            .into_iter()
            .map(|(key, value)| {
                let offset = key.span().start;
                let key = key.into_inner().into_owned();
                let name = format!("{}.{key}", self.path);
                let span = SourceSpan::File {
                    offset,
                    key: name.clone(),
                };
                (key, span, Item::new(self.diagnostics, name, value))
            })
            .collect()
    }

    /// Reports the keys that were not looked up.
    pub(super) fn finish(self) {
        for (key, _) in &self.rest {
            let span = SourceSpan::File {
                offset: key.span().start,
                key: self.path.clone(),
            };
            let key = key.get_ref();
            if let Some(hint) = hint(&self.name_of(key)) {
                let text = format!("unknown key {key:?}; {hint}");
                self.diagnostics.report(&span, text);
            } else if let Some(near) = nearest(key, &self.known) {
                let text = format!("unknown key {key:?}; did you mean {near:?}?");
                self.diagnostics.report(&span, text);
            } else {
                self.diagnostics
                    .report_unknown_key(span, key, self.known.join(", "));
            }
        }
    }
}

/// Returns the known key that is most similar to `key`. At most a third of its letters differ.
pub(super) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let normalise = |key: &str| key.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|known| {
            (
                strsim::damerau_levenshtein(&normalise(key), &normalise(known)),
                *known,
            )
        })
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min_by_key(|(distance, known)| (*distance, Reverse(known.len())))
        .map(|(_, known)| known)
}
