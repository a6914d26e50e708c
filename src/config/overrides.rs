//! What the command line and the environment say, in that order, instead of the file.

use super::address::parse_address;
use super::diagnostics::{Notes, Place};
use super::secret_ref::References;
use super::{Address, Sources};

/// Whether a flag or the environment says where the admin listener is.
pub(super) fn says_admin(sources: &Sources<'_>, references: &References<'_>) -> bool {
    sources.flags.admin.is_some() || references.variable("STEPGATE_ADMIN").is_some()
}

/// What flags and environment say instead of the file.
pub(super) struct Overrides<'a> {
    pub(super) notes: &'a Notes<'a>,
    pub(super) sources: &'a Sources<'a>,
    pub(super) references: &'a References<'a>,
}

impl Overrides<'_> {
    /// The flag's text, else the variable's, with the name of whichever spoke.
    fn text(&self, flag: (&str, Option<&String>), variable: &str) -> Option<(Place, String)> {
        match flag {
            (name, Some(text)) => Some((Place::name(name), text.clone())),
            (_, None) => {
                let text = self.references.variable(variable)?;
                Some((Place::name(variable), text))
            }
        }
    }

    /// The same, read with `parse`.
    pub(super) fn value<T>(
        &self,
        flag: (&str, Option<&String>),
        variable: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<(T, Place)> {
        let (place, text) = self.text(flag, variable)?;
        match parse(text.trim()) {
            Ok(value) => Some((value, place)),
            Err(problem) => {
                self.notes.note(&place, problem);
                None
            }
        }
    }

    pub(super) fn listen(&self) -> Vec<(Address, Place)> {
        let flags = &self.sources.flags.listen;
        let (name, texts) = if flags.is_empty() {
            let text = self
                .references
                .variable("STEPGATE_LISTEN")
                .unwrap_or_default();
            let parts = text.split(',').map(|part| part.trim().to_owned());
            (
                "STEPGATE_LISTEN",
                parts.filter(|part| !part.is_empty()).collect(),
            )
        } else {
            ("--listen", flags.clone())
        };
        let place = Place::name(name);
        let mut addresses = Vec::new();
        for text in texts {
            match parse_address(text.trim()) {
                Ok(address) => addresses.push((address, place.clone())),
                Err(problem) => self.notes.note(&place, problem),
            }
        }
        addresses
    }
}
