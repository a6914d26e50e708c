//! One way to read a table of the file: what is asked for is known, what is left over is an error.
//!
//! It knows TOML and places, and nothing of what the keys mean.

use std::cmp::Reverse;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Notes, Place};
use super::key_hints::hint;

/// A value in the file, with its place.
pub(super) struct Item<'n> {
    notes: &'n Notes<'n>,
    key: String,
    offset: usize,
    value: DeValue<'n>,
}

impl<'n> Item<'n> {
    fn new(notes: &'n Notes<'n>, key: String, value: Spanned<DeValue<'n>>) -> Self {
        Self {
            notes,
            key,
            offset: value.span().start,
            value: value.into_inner(),
        }
    }

    /// Where it is.
    pub(super) fn place(&self) -> Place {
        Place::File {
            offset: self.offset,
            key: self.key.clone(),
        }
    }

    /// Where problems go.
    pub(super) fn notes(&self) -> &'n Notes<'n> {
        self.notes
    }

    /// The value itself.
    pub(super) fn value(&self) -> &DeValue<'n> {
        &self.value
    }

    /// Notes what is wrong with it.
    pub(super) fn refuse<T>(&self, text: impl Into<String>) -> Option<T> {
        self.notes.note(&self.place(), text);
        None
    }

    /// Notes that it is not of the expected kind.
    pub(super) fn expected<T>(&self, what: &str) -> Option<T> {
        self.refuse(format!("expected {what}, found {}", self.kind()))
    }

    /// What it says, if it is a string; `what` says in words what is expected.
    pub(super) fn text(&self, what: &str) -> Option<&str> {
        match self.value.as_str() {
            Some(text) => Some(text),
            None => self.expected(what),
        }
    }

    /// Reads a string with `parse`, whose error is the problem's text.
    pub(super) fn parse<T>(
        &self,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(self.text(what)?) {
            Ok(value) => Some(value),
            Err(text) => self.refuse(text),
        }
    }

    /// The elements of an array; `what` says in words what is expected.
    pub(super) fn elements(self, what: &str) -> Option<Vec<Self>> {
        let Self { notes, key, .. } = &self;
        if !self.value.is_array() {
            return self.expected(what);
        }
        let (notes, key) = (*notes, key.clone());
        let DeValue::Array(array) = self.value else {
            return None;
        };
        let elements = array
            .into_iter()
            .map(|value| Self::new(notes, key.clone(), value))
            .collect();
        Some(elements)
    }

    /// The table that it is; `what` says in words what is expected.
    pub(super) fn table(self, what: &str) -> Option<Table<'n>> {
        if !self.value.is_table() {
            return self.expected(what);
        }
        let place = self.place();
        let DeValue::Table(entries) = self.value else {
            return None;
        };
        Some(Table {
            notes: self.notes,
            path: self.key,
            place,
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

/// A table of the file, with what has not been asked for yet.
pub(super) struct Table<'n> {
    notes: &'n Notes<'n>,
    path: String,
    place: Place,
    rest: DeTable<'n>,
    known: Vec<&'static str>,
}

impl<'n> Table<'n> {
    /// The whole file.
    pub(super) fn root(notes: &'n Notes<'n>, entries: DeTable<'n>) -> Self {
        Self {
            notes,
            path: String::new(),
            place: Place::name(""),
            rest: entries,
            known: Vec::new(),
        }
    }

    /// Where problems go.
    pub(super) fn notes(&self) -> &'n Notes<'n> {
        self.notes
    }

    /// Where it begins.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The full name of one of its keys.
    pub(super) fn name_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// What the table says for `key`, if it does.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item<'n>> {
        self.known.push(key);
        let name = self.name_of(key);
        let value = self.rest.remove(key);
        let item = value.map(|value| Item::new(self.notes, name.clone(), value));
        self.notes.know(name, item.as_ref().map(Item::place));
        item
    }

    /// What the table says for `key` as `read` understands it, else `default`.
    pub(super) fn take_or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Item<'n>) -> Option<T>,
    ) -> T {
        self.take(key).and_then(read).unwrap_or(default)
    }

    /// The same for a key that must be there.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        why: &str,
        read: impl FnOnce(Item<'n>) -> Option<T>,
    ) -> Option<T> {
        match self.take(key) {
            Some(item) => read(item),
            None => {
                let text = format!("the key `{key}` is missing: {why}");
                self.notes.absent(&self.place, text);
                None
            }
        }
    }

    /// The table under `key`; an empty one where there is none, so that its keys are known.
    pub(super) fn table(&mut self, key: &'static str) -> Self {
        let path = self.name_of(key);
        self.take(key)
            .and_then(|item| item.table(&format!("a table, [{path}]")))
            .unwrap_or_else(|| Self {
                notes: self.notes,
                place: Place::Name(path.clone()),
                path,
                rest: DeTable::new(),
                known: Vec::new(),
            })
    }

    /// The tables under `key`: `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let what = format!("tables, [[{key}]]");
        self.take(key)
            .and_then(|item| item.elements(&what))
            .unwrap_or_default()
            .into_iter()
            .filter_map(|item| item.table(&what))
            .collect()
    }

    /// All entries, for a table whose keys are data; in the file's order, with the key as written.
    pub(super) fn entries(self) -> Vec<(String, Place, Item<'n>)> {
        let mut entries: Vec<_> = self.rest.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
            .into_iter()
            .map(|(key, value)| {
                let offset = key.span().start;
                let key = key.into_inner().into_owned();
                let name = format!("{}.{key}", self.path);
                let place = Place::File {
                    offset,
                    key: name.clone(),
                };
                (key, place, Item::new(self.notes, name, value))
            })
            .collect()
    }

    /// Notes whatever nobody asked for.
    pub(super) fn finish(self) {
        for (key, _) in &self.rest {
            let place = Place::File {
                offset: key.span().start,
                key: self.path.clone(),
            };
            let key = key.get_ref();
            if let Some(hint) = hint(&self.name_of(key)) {
                let text = format!("unknown key {key:?}; {hint}");
                self.notes.note(&place, text);
            } else if let Some(near) = nearest(key, &self.known) {
                let text = format!("unknown key {key:?}; did you mean {near:?}?");
                self.notes.note(&place, text);
            } else {
                self.notes.unknown(place, key, self.known.join(", "));
            }
        }
    }
}

/// The known key that was probably meant: at most a third of its letters differ.
pub(super) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |key: &str| key.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|known| {
            (
                strsim::damerau_levenshtein(&plain(key), &plain(known)),
                *known,
            )
        })
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min_by_key(|(distance, known)| (*distance, Reverse(known.len())))
        .map(|(_, known)| known)
}
