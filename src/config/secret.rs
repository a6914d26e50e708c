//! Secrets: a [`Secret`] shows where it was read from, and never its content.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

/// Names where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Holds the name of an environment variable.
    Env(String),
    /// Holds the path of a file.
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

/// Says why a secret could not be loaded. It never holds the content.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The environment variable is not set.
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    /// The file cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// Names the file.
        path: PathBuf,
        /// Holds the system's error.
        #[source]
        error: io::Error,
    },
    /// The content is not valid.
    #[error("{from} {what}")]
    Unusable {
        /// Names where the content was read from.
        from: SecretSource,
        /// Says what is wrong.
        what: &'static str,
    },
}

/// Limits a secret's file, in bytes: more than any credential.
const MAX_SECRET_LEN: u64 = 64 * 1024;

/// Holds a loaded secret, which is not empty, and has no control characters or surrounding whitespace.
///
/// It has neither `Display` nor `Serialize`. Its `Debug` shows the source only.
#[derive(Clone)]
pub struct Secret {
    source: SecretSource,
    content: SecretString,
}

impl Secret {
    /// Creates a secret from the content of `source`, without surrounding whitespace.
    ///
    /// # Errors
    /// Says what is wrong. The error never holds the content.
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

    /// Loads the secret from `source`. `env` reads an environment variable.
    ///
    /// # Errors
    /// Fails if the source does not exist, cannot be read, or holds no valid secret.
    pub fn load(
        source: SecretSource,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SecretError> {
        let content = match &source {
            SecretSource::Env(name) => env(name)
                .map(SecretString::from)
                .ok_or_else(|| SecretError::NotSet(name.clone()))?,
            SecretSource::File(path) => read_regular(path, MAX_SECRET_LEN)
                .map(SecretString::from)
                .map_err(|error| SecretError::Unreadable {
                    path: path.clone(),
                    error,
                })?,
        };
        Self::new(source.clone(), content.expose_secret())
            .map_err(|what| SecretError::Unusable { from: source, what })
    }

    /// Returns where the secret was read from.
    pub fn source(&self) -> &SecretSource {
        &self.source
    }

    /// Returns the content. Use it only for injected headers, for comparing tokens, and for Redis.
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

/// Limits a configuration or certificate file, in bytes. With a wrong path, such as that of a device, it
/// keeps the file from filling the memory.
pub(super) const MAX_FILE_LEN: u64 = 1024 * 1024;

/// Reads a file of at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(limit + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {limit} bytes"),
        ));
    }
    Ok(text)
}

/// Reads a regular file of at most `limit` bytes. A pipe or device is refused, because reading it may
/// block forever.
pub(super) fn read_regular(path: &Path, limit: u64) -> io::Result<String> {
    if std::fs::metadata(path)?.is_file() {
        read_bounded(path, limit)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}
