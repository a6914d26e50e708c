//! The `[[rule]]` tables: reads rules, and adds the built-in one.

use crate::policy::{Rule, RuleError, RuleSpec, Template};

use super::diagnostics::{Diagnostics, SourceSpan};
use super::table::{Item, Table};
use super::value::{list, string};

/// Reads all `[[rule]]` tables. A rule with the name of the built-in rule replaces it.
pub(super) fn read(tables: Vec<Table<'_>>, diagnostics: &Diagnostics<'_>) -> Vec<Rule> {
    let mut rules: Vec<(Rule, SourceSpan)> = Vec::new();
    for table in tables {
        let Some((rule, span)) = read_rule(table) else {
            continue;
        };
        if rules
            .iter()
            .any(|(earlier, _)| earlier.name() == rule.name())
        {
            diagnostics.report(
                &span,
                format!(
                    "another rule is named {:?}; give each rule its own name",
                    rule.name()
                ),
            );
            continue;
        }
        rules.push((rule, span));
    }
    let built_in = Rule::run_step();
    let first = match rules
        .iter()
        .position(|(rule, _)| rule.name() == built_in.name())
    {
        Some(index) => rules.remove(index),
        None => (built_in, SourceSpan::name("rule")),
    };
    rules.insert(0, first);
    for (index, (rule, span)) in rules.iter().enumerate() {
        let earlier = rules[..index]
            .iter()
            .find(|(earlier, _)| earlier.overlaps(rule));
        if let Some((other, other_span)) = earlier {
            // The built-in rule has no span, so the problem names the span of the other rule.
            let span = if matches!(span, SourceSpan::Name(_)) {
                other_span
            } else {
                span
            };
            let text = format!(
                "the rules {:?} and {:?} overlap; change a path, so that no path matches both",
                other.name(),
                rule.name()
            );
            diagnostics.report(span, text);
        }
    }
    rules.into_iter().map(|(rule, _)| rule).collect()
}

/// Reads a rule. Returns it with the span of its path.
fn read_rule(mut table: Table<'_>) -> Option<(Rule, SourceSpan)> {
    let diagnostics = table.diagnostics();
    let mut spans: Vec<(&'static str, SourceSpan)> = Vec::new();
    let mut span = |key, item: &Item<'_>| spans.push((key, item.span()));
    let name = table.require("name", "metrics and purges name the rule by it", |item| {
        span("name", &item);
        string(item)
    });
    let path = table.require(
        "path",
        "write one like \"/responses/{response_id}\"",
        |item| {
            span("path", &item);
            string(item)
        },
    );
    let list_path = table.take("list").map(|item| {
        span("list", &item);
        string(item)
    });
    let object = table.require(
        "object",
        "write the value that the body's `object` must have",
        string,
    );
    let identity = table.require(
        "identity",
        "write one like { id = \"response_id\" } (body member = path parameter)",
        |item| {
            span("identity", &item);
            identity(item)
        },
    );
    let terminal = table.require(
        "terminal",
        "name the statuses after which the body never changes",
        |item| {
            span("terminal", &item);
            list("a list of statuses", string)(item)
        },
    );
    let query = table.take_or(
        "query",
        Vec::new(),
        list("a list of parameter names", string),
    );
    let whole = table.span().clone();
    table.finish();
    let spec = RuleSpec {
        name: name?,
        path: path?,
        // An invalid list is reported. The rule without its list would be a different rule.
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
        let found = spans.iter().find(|(known, _)| *known == key);
        found.map_or(&whole, |(_, span)| span)
    };
    match Rule::new(spec.clone()) {
        Ok(rule) => {
            if rule.list().is_some_and(|list| list.overlaps(rule.path())) {
                diagnostics.report(
                    place_of("list"),
                    "overlaps the rule's own path; change it, so that no path matches both",
                );
            }
            Some((rule, place_of("path").clone()))
        }
        Err(error) => {
            diagnostics.report(place_of(key_of(&error, &spec)), error.to_string());
            None
        }
    }
}

/// Returns the key that an error is about.
fn key_of(error: &RuleError, spec: &RuleSpec) -> &'static str {
    match error {
        RuleError::Template(_)
        | RuleError::Parameter(_)
        | RuleError::Repeated(_)
        | RuleError::Prefixed(_) => {
            if Template::parse(&spec.path).is_err() {
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
