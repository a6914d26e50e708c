//! A secret: where it comes from may be said, what it is may not.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

/// Where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable, by name.
    Env(String),
    /// A file, by path.
    File(PathBuf),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Why a secret could not be loaded; never its content.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The environment variable is not there.
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    /// The file cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// It was read and cannot be one.
    #[error("{from} {what}")]
    Unusable {
        /// Where it was read from.
        from: SecretSource,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// More than any credential.
const LONGEST_SECRET: u64 = 64 * 1024;

/// A loaded secret: not empty, no control characters, no surrounding whitespace.
///
/// It has neither `Display` nor `Serialize`, and its `Debug` names the source alone.
#[derive(Clone)]
pub struct Secret {
    source: SecretSource,
    content: SecretString,
}

impl Secret {
    /// Takes what was read from `source`.
    ///
    /// # Errors
    /// A word for what is wrong with it; never the content.
    pub fn new(source: SecretSource, content: &str) -> Result<Self, &'static str> {
        let content = content.trim();
        if content.is_empty() {
            return Err("is empty");
        }
        if content.chars().any(char::is_control) {
            return Err("contains a control character");
        }
        Ok(Self {
            source,
            content: SecretString::from(content),
        })
    }

    /// Reads what `source` names; `env` is the environment.
    ///
    /// # Errors
    /// It is not there, cannot be read, or cannot be a secret.
    pub fn load(
        source: SecretSource,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SecretError> {
        let content = match &source {
            SecretSource::Env(name) => env(name)
                .map(SecretString::from)
                .ok_or_else(|| SecretError::NotSet(name.clone()))?,
            SecretSource::File(path) => read_regular(path, LONGEST_SECRET)
                .map(SecretString::from)
                .map_err(|error| SecretError::Unreadable {
                    path: path.clone(),
                    error,
                })?,
        };
        Self::new(source.clone(), content.expose_secret())
            .map_err(|what| SecretError::Unusable { from: source, what })
    }

    /// Where it was read from.
    pub fn source(&self) -> &SecretSource {
        &self.source
    }

    /// The content: for the injected header, the comparison with a token and the shared tier, nothing
    /// else.
    pub fn expose(&self) -> &str {
        self.content.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.source)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.expose() == other.expose()
    }
}

/// Far above any configuration; keeps a wrong path (a device, a dump) from filling the memory.
pub(super) const LONGEST_FILE: u64 = 1024 * 1024;

/// The text of a file that is at most `most` bytes long.
pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {most} bytes"),
        ));
    }
    Ok(text)
}

/// The same, unless it is a pipe or a device: reading that may wait for ever.
pub(super) fn read_regular(path: &Path, most: u64) -> io::Result<String> {
    if std::fs::metadata(path)?.is_file() {
        read_bounded(path, most)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}
