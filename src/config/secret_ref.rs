//! Secret references: resolves `{ env = "…" }` and `{ file = "…" }`, and the paths of other files.
//!
//! No error repeats a value that could be a secret.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::secret::{Secret, SecretSource};
use super::table::Item;

/// Rejects a secret that is written in the configuration itself.
pub(super) const NO_LITERAL: &str = "secrets come from the environment or files only; \
     write { env = \"NAME\" } or { file = \"/path\" }";

/// Resolves references to environment variables and files.
pub(super) struct SecretResolver<'a> {
    /// Holds the absolute path of the configuration file's folder. Relative paths start there.
    folder: PathBuf,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> SecretResolver<'a> {
    /// Creates a resolver for a configuration file at `path`. If it is `None`, relative paths start at
    /// the working directory.
    pub(super) fn new(path: Option<&Path>, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
        // With absolute paths, a printed configuration means the same in any folder. If there is no
        // working directory, the path stays relative, and opening the file fails with a clear error.
        let folder = std::path::absolute(folder.join("."))
            .map_or_else(|_| folder.to_owned(), |full| full.components().collect());
        Self { folder, env }
    }

    /// Returns the value of an environment variable. `None` if it is not set or empty.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.trim().is_empty())
    }

    /// Loads the secret of a header from an environment variable. The error does not name the variable.
    pub(super) fn credential(&self, name: &str) -> Result<Secret, &'static str> {
        let content = (self.env)(name).ok_or("is not set")?;
        let secret = Secret::new(SecretSource::Env(name.to_owned()), &content)?;
        fits_header(&secret).map(|()| secret)
    }

    /// Reads the path of a file. If the value looks like the file's content, the error omits it.
    pub(super) fn path(&self, item: &Item<'_>) -> Option<PathBuf> {
        item.parse("the path of a file", |text| match text.trim() {
            "" => Err("is empty; write the path of a file".to_owned()),
            _ if is_content(text) => {
                Err("is not a path; write the path of the file, not its content".to_owned())
            }
            _ => Ok(self.folder.join(text)),
        })
    }

    /// Reads a reference, and loads the secret from the variable or file.
    pub(super) fn secret(&self, item: Item<'_>) -> Option<Secret> {
        match item.value() {
            DeValue::Table(_) => {}
            DeValue::String(_) => return item.reject(NO_LITERAL),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => return item.expected(REFERENCE),
        }
        let mut table = item.table(REFERENCE)?;
        let (span, diagnostics) = (table.span().clone(), table.diagnostics());
        let named = (table.take("env"), table.take("file"));
        table.finish();
        let source = match named {
            (Some(env), None) => SecretSource::Env(variable_name(&env)?),
            (None, Some(file)) => SecretSource::File(self.path(&file)?),
            (Some(_), Some(_)) | (None, None) => {
                diagnostics.report(
                    &span,
                    format!("needs exactly one of `env` and `file`; write {REFERENCE}"),
                );
                return None;
            }
        };
        match Secret::load(source, self.env) {
            Ok(secret) => Some(secret),
            Err(error) => {
                diagnostics.report(&span, error.to_string());
                None
            }
        }
    }

    /// Reads a reference to a token. Clients present tokens in a header, so they are visible ASCII.
    pub(super) fn token(&self, item: Item<'_>) -> Option<Secret> {
        let (span, diagnostics) = (item.span(), item.diagnostics());
        let token = self.secret(item)?;
        if token.expose().bytes().all(|b| b.is_ascii_graphic()) {
            return Some(token);
        }
        let text = format!(
            "{} contains a space or a character outside ASCII; use visible ASCII",
            token.source()
        );
        diagnostics.report(&span, text);
        None
    }
}

/// Limits a path, in bytes: `PATH_MAX` of Linux.
const MAX_PATH_LEN: usize = 4096;

/// Returns whether the text looks like the content of a file rather than its path.
fn is_content(text: &str) -> bool {
    text.len() > MAX_PATH_LEN || text.contains("-----BEGIN") || text.contains(char::is_control)
}

/// Reads the name of an environment variable. An error omits the text, because it may be the secret.
fn variable_name(item: &Item<'_>) -> Option<String> {
    item.parse("the name of an environment variable", |text| {
        let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
        let mut bytes = text.bytes();
        if bytes.next().is_some_and(letter) && bytes.all(|b| letter(b) || b.is_ascii_digit()) {
            return Ok(text.to_owned());
        }
        Err(
            "is not the name of an environment variable (letters, digits and _); \
             write the name, not the value"
                .to_owned(),
        )
    })
}

const REFERENCE: &str = "{ env = \"NAME\" } or { file = \"/path\" }";

/// Checks that a header can hold the secret. Outside visible ASCII its encoding would be unclear.
pub(super) fn fits_header(secret: &Secret) -> Result<(), &'static str> {
    if is_visible(secret.expose()) {
        Ok(())
    } else {
        Err("contains characters that no header can carry; use visible ASCII")
    }
}

/// Returns whether the text consists of visible ASCII and spaces.
pub(super) fn is_visible(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~'))
}
