//! The rules of a file, added to the built-in one.

use crate::policy::{Rule, RuleError, RuleSpec, Template};

use super::diagnostics::{Notes, Place};
use super::table::{Item, Table};
use super::value::{list, string};

/// Reads all `[[rule]]` tables; one that is named like the built-in rule replaces it.
pub(super) fn read(tables: Vec<Table<'_>>, notes: &Notes<'_>) -> Vec<Rule> {
    let mut written: Vec<(Rule, Place)> = Vec::new();
    for table in tables {
        let Some((rule, place)) = one(table) else {
            continue;
        };
        if written.iter().any(|(known, _)| known.name() == rule.name()) {
            notes.note(
                &place,
                format!("{:?} is the name of another rule, too", rule.name()),
            );
            continue;
        }
        written.push((rule, place));
    }
    let built_in = Rule::run_step();
    let first = match written
        .iter()
        .position(|(rule, _)| rule.name() == built_in.name())
    {
        Some(index) => written.remove(index),
        None => (built_in, Place::name("rule")),
    };
    written.insert(0, first);
    for (index, (rule, place)) in written.iter().enumerate() {
        let earlier = written[..index]
            .iter()
            .find(|(known, _)| known.overlaps(rule));
        if let Some((known, known_place)) = earlier {
            // The built-in rule has no place of its own: name the other's.
            let place = if matches!(place, Place::Name(_)) {
                known_place
            } else {
                place
            };
            let text = format!(
                "the rules {:?} and {:?} overlap: some path could belong to both",
                known.name(),
                rule.name()
            );
            notes.note(place, text);
        }
    }
    written.into_iter().map(|(rule, _)| rule).collect()
}

/// A rule, with the place of its path.
fn one(mut table: Table<'_>) -> Option<(Rule, Place)> {
    let notes = table.notes();
    let mut places: Vec<(&'static str, Place)> = Vec::new();
    let mut place = |key, item: &Item<'_>| places.push((key, item.place()));
    let name = table.require("name", "metrics and purges call the rule by it", |item| {
        place("name", &item);
        string(item)
    });
    let path = table.require(
        "path",
        "write one like \"/responses/{response_id}\"",
        |item| {
            place("path", &item);
            string(item)
        },
    );
    let list_path = table.take("list").map(|item| {
        place("list", &item);
        string(item)
    });
    let object = table.require("object", "it is what the body's `object` must be", string);
    let identity = table.require(
        "identity",
        "write one like { id = \"response_id\" }, body member = path parameter",
        |item| {
            place("identity", &item);
            identity(item)
        },
    );
    let terminal = table.require(
        "terminal",
        "name the statuses after which the body never changes",
        |item| {
            place("terminal", &item);
            list("a list of statuses", string)(item)
        },
    );
    let query = table.take_or(
        "query",
        Vec::new(),
        list("a list of parameter names", string),
    );
    let whole = table.place().clone();
    table.finish();
    let parts = RuleSpec {
        name: name?,
        path: path?,
        // A list that could not be read is noted; the rule without it would be another one.
        list: match list_path {
            Some(read) => Some(read?),
            None => None,
        },
        object: object?,
        identity: identity?,
        terminal: terminal?,
        query,
    };
    let place_of = |key: &str| {
        let found = places.iter().find(|(known, _)| *known == key);
        found.map_or(&whole, |(_, place)| place)
    };
    match Rule::new(parts.clone()) {
        Ok(rule) => {
            if rule.list().is_some_and(|list| list.overlaps(rule.path())) {
                notes.note(place_of("list"), "overlaps the rule's own path");
            }
            Some((rule, place_of("path").clone()))
        }
        Err(error) => {
            notes.note(place_of(key_of(&error, &parts)), error.to_string());
            None
        }
    }
}

/// The key that an error is about.
fn key_of(error: &RuleError, parts: &RuleSpec) -> &'static str {
    match error {
        RuleError::Template(_)
        | RuleError::Parameter(_)
        | RuleError::Repeated(_)
        | RuleError::Prefixed(_) => {
            if Template::parse(&parts.path).is_err() {
                "path"
            } else {
                "list"
            }
        }
        RuleError::NoParameter => "path",
        RuleError::UnknownParameter { .. }
        | RuleError::Unidentified(_)
        | RuleError::ReservedMember(_)
        | RuleError::TooManyMembers => "identity",
        RuleError::NoTerminal => "terminal",
        RuleError::Name(_) | RuleError::ReservedName => "name",
    }
}

fn identity(item: Item<'_>) -> Option<Vec<(String, String)>> {
    let table = item.table("a table like { id = \"response_id\" }")?;
    let pairs = table
        .entries()
        .into_iter()
        .filter_map(|(member, _, item)| Some((member, string(item)?)));
    Some(pairs.collect())
}
