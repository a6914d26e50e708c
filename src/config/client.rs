//! The clients: who may ask, with which token, and what is injected for them.

use super::Client;
use super::diagnostics::Place;
use super::header::{Overlay, sort};
use super::secret::Secret;
use super::secret_ref::References;
use super::table::{Item, Table};
use super::value::list;

/// The clients of a file.
pub(super) struct Clients {
    /// Those that are valid.
    pub(super) list: Vec<Client>,
    /// Whether there are any, valid or not.
    pub(super) written: bool,
}

/// Reads all `[[client]]` tables.
pub(super) fn read(tables: Vec<Table<'_>>, references: &References<'_>) -> Clients {
    let written = !tables.is_empty();
    let mut list: Vec<Client> = Vec::new();
    for mut table in tables {
        let notes = table.notes();
        let name = table.require("name", "it is what the log calls this client", |item| {
            Some((item.parse("a string", parse_name)?, item.place()))
        });
        let tokens = table.require(
            "token",
            "write { env = \"NAME\" } or { file = \"/path\" }",
            |item| tokens(item, references),
        );
        let mut headers = Overlay::read(table.table("headers"), references);
        table.finish();
        let (name, place) = name.unzip();
        if let (Some(name), Some(place)) = (&name, place)
            && list.iter().any(|known| known.name == *name)
        {
            notes.note(
                &place,
                format!("{name:?} is the name of another client, too"),
            );
        }
        for (token, place) in tokens.iter().flatten() {
            if let Some(owner) = owner(&list, token) {
                let text = format!("{} is a token of client {owner:?}, too", token.source());
                notes.note(place, text);
            }
        }
        sort(&mut headers.set);
        list.push(Client {
            name: name.unwrap_or_default(),
            tokens: tokens
                .into_iter()
                .flatten()
                .map(|(token, _)| token)
                .collect(),
            headers: headers.set,
            removed_headers: headers.removed,
        });
    }
    Clients { list, written }
}

fn owner<'c>(clients: &'c [Client], token: &Secret) -> Option<&'c str> {
    let has = |client: &&Client| client.tokens.iter().any(|t| t.expose() == token.expose());
    clients.iter().find(has).map(|client| client.name.as_str())
}

fn parse_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a client name; use 1 to 64 letters, digits, `_`, `.` and `-`"
    ))
}

/// One reference, or a list of them for rotation.
fn tokens(item: Item<'_>, references: &References<'_>) -> Option<Vec<(Secret, Place)>> {
    let one = |item: Item<'_>| {
        let place = item.place();
        Some((references.token(item)?, place))
    };
    match item.value().as_array() {
        None => one(item).map(|token| vec![token]),
        Some(array) if array.is_empty() => item.refuse("is empty; name at least one token"),
        Some(_) => list("a list of tokens", one)(item),
    }
}
