//! Secret references: `{ env = "…" }` or `{ file = "…" }`, and the files that a configuration names.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::secret::{Secret, SecretSource};
use super::table::Item;

/// What is said wherever a secret was written down.
pub(super) const NO_LITERAL: &str = "secrets come from the environment or files only; \
     write { env = \"NAME\" } or { file = \"/path\" }";

/// Where references lead.
pub(super) struct References<'a> {
    /// The configuration file's folder, in full: relative paths start there.
    folder: PathBuf,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> References<'a> {
    /// For a configuration file at `path` (none: relative paths start at the working directory).
    pub(super) fn new(path: Option<&Path>, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
        // Full, so that a printed configuration means the same wherever it is put. Without a
        // working directory the path stays as it is, and opening the file says what is wrong.
        let folder = std::path::absolute(folder.join("."))
            .map_or_else(|_| folder.to_owned(), |full| full.components().collect());
        Self { folder, env }
    }

    /// The environment variable's value; an empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.trim().is_empty())
    }

    /// Loads a header's secret that an environment variable holds; the error does not name it.
    pub(super) fn credential(&self, name: &str) -> Result<Secret, &'static str> {
        let content = (self.env)(name).ok_or("is not set")?;
        let secret = Secret::new(SecretSource::Env(name.to_owned()), &content)?;
        fits_header(&secret).map(|()| secret)
    }

    /// Reads the name of a file. What looks like its content is not repeated.
    pub(super) fn path(&self, item: &Item<'_>) -> Option<PathBuf> {
        item.parse("the path of a file", |text| match text.trim() {
            "" => Err("is empty; write the path of a file".to_owned()),
            _ if is_content(text) => {
                Err("is not a path; write where the file is, not what it holds".to_owned())
            }
            _ => Ok(self.folder.join(text)),
        })
    }

    /// Reads a reference and loads what it names.
    pub(super) fn secret(&self, item: Item<'_>) -> Option<Secret> {
        match item.value() {
            DeValue::Table(_) => {}
            DeValue::String(_) => return item.refuse(NO_LITERAL),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => return item.expected(REFERENCE),
        }
        let mut table = item.table(REFERENCE)?;
        let (place, notes) = (table.place().clone(), table.notes());
        let named = (table.take("env"), table.take("file"));
        table.finish();
        let source = match named {
            (Some(env), None) => SecretSource::Env(variable_name(&env)?),
            (None, Some(file)) => SecretSource::File(self.path(&file)?),
            (Some(_), Some(_)) | (None, None) => {
                notes.note(&place, format!("expected exactly one of them: {REFERENCE}"));
                return None;
            }
        };
        match Secret::load(source, self.env) {
            Ok(secret) => Some(secret),
            Err(error) => {
                notes.note(&place, error.to_string());
                None
            }
        }
    }

    /// The same for a secret that callers present in a header.
    pub(super) fn token(&self, item: Item<'_>) -> Option<Secret> {
        let (place, notes) = (item.place(), item.notes());
        let token = self.secret(item)?;
        if token.expose().bytes().all(|b| b.is_ascii_graphic()) {
            return Some(token);
        }
        let text = format!(
            "{} contains a space or a letter outside ASCII",
            token.source()
        );
        notes.note(&place, text);
        None
    }
}

/// Longer than any path that Linux opens.
const LONGEST_PATH: usize = 4096;

/// Whether this was meant to be in the file, not to name it.
fn is_content(text: &str) -> bool {
    text.len() > LONGEST_PATH || text.contains("-----BEGIN") || text.contains(char::is_control)
}

/// Reads the name of an environment variable. What cannot be one is not repeated: it may be what
/// the variable should hold.
fn variable_name(item: &Item<'_>) -> Option<String> {
    item.parse("the name of an environment variable", |text| {
        let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
        let mut bytes = text.bytes();
        if bytes.next().is_some_and(letter) && bytes.all(|b| letter(b) || b.is_ascii_digit()) {
            return Ok(text.to_owned());
        }
        Err(
            "is not the name of an environment variable (letters, digits and _); \
             write the name, not what it holds"
                .to_owned(),
        )
    })
}

const REFERENCE: &str = "{ env = \"NAME\" } or { file = \"/path\" }";

/// Whether a header can carry it: beyond visible ASCII both sides would have to guess an encoding.
pub(super) fn fits_header(secret: &Secret) -> Result<(), &'static str> {
    if is_visible(secret.expose()) {
        Ok(())
    } else {
        Err("contains what no header can carry; use visible ASCII")
    }
}

/// Visible ASCII and spaces.
pub(super) fn is_visible(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~'))
}
