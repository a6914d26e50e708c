//! Routing: from a request target to its rule, its key and the upstream's target.
//!
//! The input is two request targets, one line each, and bytes that choose an equivalent form of the first
//! one. A naive reader says what each target means. Two targets must have equal keys exactly if they mean
//! the same.

#![no_main]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use arbitrary::Unstructured;
use hyper::Uri;
use libfuzzer_sys::fuzz_target;
use stepgate::policy::{CacheKey, Partition, Query, Route, Rule, RuleSpec};

/// Holds rules with a repeatable parameter, with a single one, and with none.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rule = |name: &str, path: &str, list: Option<&str>, ids: &[&str], query: &[&str]| {
        Rule::new(RuleSpec {
            name: name.into(),
            path: path.into(),
            list: list.map(Into::into),
            object: "object".into(),
            identity: ids.iter().map(|id| ((*id).into(), (*id).into())).collect(),
            terminal: vec!["completed".into()],
            query: query.iter().map(|name| (*name).into()).collect(),
        })
        .expect("a valid rule")
    };
    vec![
        Rule::run_step(),
        rule(
            "response",
            "/responses/{id}",
            None,
            &["id"],
            &["include[]", "a b"],
        ),
        rule(
            "file",
            "/stores/{store}/files/{file}",
            Some("/stores/{store}/files"),
            &["store", "file"],
            &[],
        ),
    ]
});

/// Holds the index of each rule, whether the path is its list, and the path as documented.
const PATHS: [(usize, bool, &str); 5] = [
    (0, false, "/v1/threads/{}/runs/{}/steps/{}"),
    (0, true, "/v1/threads/{}/runs/{}/steps"),
    (1, false, "/v1/responses/{}"),
    (2, false, "/v1/stores/{}/files/{}"),
    (2, true, "/v1/stores/{}/files"),
];

const KNOWN: [&[&str]; 3] = [&["include[]"], &["include[]", "a b"], &[]];

/// Holds the parameters that the gateway adds to every query.
static INJECTED: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    vec![
        ("api-version".to_owned(), "2024 05".to_owned()),
        ("ö".to_owned(), String::new()),
    ]
});

/// Holds what a target means by the naive reader.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    rule: usize,
    is_list: bool,
    ids: Vec<String>,
    query: QueryMeaning,
}

#[derive(Debug, PartialEq, Eq)]
enum QueryMeaning {
    /// Holds the parameters, if all are known and no single parameter has two values.
    Known(BTreeSet<(String, String)>),
    /// Holds the query as sent, without the injected parameters.
    AsIs(String),
}

fn is_id_letter(c: char) -> bool {
    matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-')
}

/// Splits the path from the left. An id ends at the first character that no id has.
fn ids_in<'p>(template: &str, path: &'p str) -> Option<Vec<&'p str>> {
    let mut literals = template.split("{}");
    let mut rest = path.strip_prefix(literals.next()?)?;
    let mut ids = Vec::new();
    for literal in literals {
        let end = rest.find(|c| !is_id_letter(c)).unwrap_or(rest.len());
        let (id, after) = rest.split_at(end);
        if !(1..=128).contains(&id.len()) {
            return None;
        }
        ids.push(id);
        rest = after.strip_prefix(literal)?;
    }
    rest.is_empty().then_some(ids)
}

fn accepted(path: &str) -> Option<(usize, bool, Vec<&str>)> {
    PATHS
        .iter()
        .find_map(|(rule, is_list, template)| Some((*rule, *is_list, ids_in(template, path)?)))
}

/// Returns whether the path has the literals of a rule, with any text in place of the ids.
fn is_rule_shaped(path: &str) -> bool {
    PATHS.iter().any(|(_, _, template)| {
        let (ours, theirs): (Vec<_>, Vec<_>) =
            (template.split('/').collect(), path.split('/').collect());
        let fits = |(ours, theirs): (&&str, &&str)| *ours == "{}" || ours == theirs;
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(fits)
    })
}

fn hex(byte: Option<&u8>) -> Option<u8> {
    char::from(*byte?)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Decodes each `%XX`. Returns the bytes, and whether there was no other `%`.
fn unescape(text: &str) -> (Vec<u8>, bool) {
    let (mut bytes, mut rest, mut clean) = (Vec::new(), text.as_bytes(), true);
    while let [first, after @ ..] = rest {
        match (first, hex(after.first()), hex(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high * 16 + low);
                rest = &after[2..];
            }
            _ => {
                clean &= *first != b'%';
                bytes.push(*first);
                rest = after;
            }
        }
    }
    (bytes, clean)
}

/// Decodes form encoding.
fn form(text: &str) -> Option<String> {
    let spaced: String = text
        .chars()
        .map(|c| if c == '+' { ' ' } else { c })
        .collect();
    let (bytes, clean) = unescape(&spaced);
    String::from_utf8(bytes).ok().filter(|_| clean)
}

fn query_of(raw: Option<&str>, known: Option<&[&str]>) -> QueryMeaning {
    let pieces: Vec<(&str, Option<String>, Option<String>)> = raw
        .unwrap_or_default()
        .split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| match piece.find('=') {
            Some(at) => (piece, form(&piece[..at]), form(&piece[at + 1..])),
            None => (piece, form(piece), Some(String::new())),
        })
        .filter(|(_, name, _)| !INJECTED.iter().any(|(ours, _)| Some(ours) == name.as_ref()))
        .collect();
    let mut parameters = BTreeSet::new();
    for (_, name, value) in &pieces {
        if let (Some(name), Some(value)) = (name, value)
            && known.is_some_and(|known| known.contains(&name.as_str()))
        {
            parameters.insert((name.clone(), value.clone()));
        } else {
            parameters.clear();
            break;
        }
    }
    let contradicts = parameters.iter().any(|(name, value)| {
        !name.ends_with("[]")
            && parameters
                .iter()
                .any(|(other, another)| other == name && another != value)
    });
    if known.is_some() && !contradicts && (pieces.is_empty() || !parameters.is_empty()) {
        return QueryMeaning::Known(parameters);
    }
    let pieces: Vec<&str> = pieces.iter().map(|(piece, _, _)| *piece).collect();
    QueryMeaning::AsIs(pieces.join("&"))
}

fn meaning(target: &Uri) -> Option<Meaning> {
    let (rule, is_list, ids) = accepted(target.path())?;
    let known = (!is_list).then_some(KNOWN[rule]);
    Some(Meaning {
        rule,
        is_list,
        ids: ids.into_iter().map(Into::into).collect(),
        query: query_of(target.query(), known),
    })
}

/// Returns the gateway's key, query, and target for the upstream with the injected parameters.
fn read(target: &Uri) -> Option<(CacheKey, Query, String)> {
    let partition = Partition::of(["fuzz"]);
    let (rule, is_list, ids) = match Route::parse(&RULES, target.path()) {
        Route::Resource { rule, ids } => (rule, false, ids),
        Route::List { rule, ids } => (rule, true, ids),
        Route::Other | Route::Invalid(_) => return None,
    };
    let query = if is_list {
        Query::for_list(target.query(), &INJECTED)
    } else {
        Query::for_resource(&RULES[rule], target.query(), &INJECTED)
    };
    // The gateway marks a query that it keeps unchanged.
    let mark = if query.is_known() { "" } else { "?" };
    let variant = format!("{mark}{}", query.as_str());
    let name = RULES[rule].name();
    let key = if is_list {
        CacheKey::for_list(partition, name, &ids, &variant)
    } else {
        CacheKey::new(partition, name, &ids, &variant)
    };
    let ours: Vec<String> = INJECTED
        .iter()
        .map(|(name, value)| stepgate::policy::query::encode_pair(name, value))
        .collect();
    let all = [query.as_str(), &ours.join("&")];
    let all: Vec<&str> = all.into_iter().filter(|part| !part.is_empty()).collect();
    let up = format!("{}?{}", target.path(), all.join("&"));
    Some((key, query, up))
}

/// Asserts that the route equals that of the naive reader, and that a rejected path has a reason.
fn check_route(path: &str) {
    let route = Route::parse(&RULES, path);
    if let Some((rule, is_list, ids)) = accepted(path) {
        let ids = ids.into();
        let expected = if is_list {
            Route::List { rule, ids }
        } else {
            Route::Resource { rule, ids }
        };
        assert_eq!(route, expected, "{path:?}");
        return;
    }
    let decoded = String::from_utf8_lossy(&unescape(path).0).into_owned();
    let has_dots = decoded.split('/').any(|part| part == "." || part == "..");
    let parts: Vec<&str> = decoded.split('/').filter(|part| !part.is_empty()).collect();
    let merged = format!("/{}", parts.join("/"));
    let must_be_rejected = is_rule_shaped(path) || accepted(&merged).is_some() || has_dots;
    let may_be_rejected = must_be_rejected || path.contains(['%']) || path.contains("//");
    let may_be_rejected = may_be_rejected || (path.ends_with('/') && path != "/");
    match route {
        Route::Invalid(_) => assert!(may_be_rejected, "rejected: {path:?}"),
        Route::Other => assert!(!must_be_rejected, "not rejected: {path:?}"),
        Route::Resource { .. } | Route::List { .. } => panic!("matched: {path:?}"),
    }
}

/// Asserts that the upstream's target has the same path and means the same.
fn check_upstream_target(target: &Uri) {
    let Some((key, query, up)) = read(target) else {
        return;
    };
    let sent: Uri = up.parse().expect("the sent target is valid");
    assert_eq!(sent.path(), target.path());
    let (again, query_again, _) = read(&sent).expect("the sent target matches");
    assert_eq!(key, again, "{target} was sent as {up}");
    assert_eq!(query, query_again, "{target} was sent as {up}");
    let ours = |name: &str| INJECTED.iter().any(|(ours, _)| ours == name);
    for piece in query.as_str().split('&') {
        let name = form(piece.split('=').next().unwrap_or_default());
        assert!(!name.is_some_and(|name| ours(&name)), "{target}: {piece}");
    }
}

/// Returns an equivalent query: in another order and escaping, with repeated and empty parts.
fn equivalent_query(parameters: &BTreeSet<(String, String)>, u: &mut Unstructured<'_>) -> String {
    let mut pairs: Vec<_> = parameters.iter().collect();
    for index in 0..pairs.len() {
        let other = u.choose_index(pairs.len()).unwrap_or(index);
        pairs.swap(index, other);
        if u.ratio(1, 4).unwrap_or(false) {
            pairs.push(pairs[index]);
        }
    }
    let mut text = String::new();
    for (name, value) in pairs {
        text.push_str(&"&".repeat(u.int_in_range(0..=2).unwrap_or(0)));
        if !text.is_empty() {
            text.push('&');
        }
        escape(name, u, &mut text);
        if !value.is_empty() || u.arbitrary().unwrap_or(true) {
            text.push('=');
            escape(value, u, &mut text);
        }
    }
    text
}

fn escape(text: &str, u: &mut Unstructured<'_>, out: &mut String) {
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~[]*:/?@!$'(),;".contains(&byte);
        match u.int_in_range(0..=2).unwrap_or(0) {
            0 if plain => out.push(char::from(byte)),
            0 if byte == b' ' => out.push('+'),
            1 => out.push_str(&format!("%{byte:02x}")),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn target_of(line: &[u8]) -> Option<Uri> {
    Uri::try_from(line)
        .ok()
        .filter(|target| target.path().starts_with('/'))
}

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let targets: Vec<Uri> = lines.by_ref().take(2).filter_map(target_of).collect();
    for target in &targets {
        check_route(target.path());
        check_upstream_target(target);
        let seen = read(target);
        let meant = meaning(target);
        assert_eq!(seen.is_some(), meant.is_some());
        if let (Some((_, query, _)), Some(meant)) = (&seen, &meant) {
            match &meant.query {
                QueryMeaning::Known(_) => assert!(query.is_known(), "{target}"),
                QueryMeaning::AsIs(text) => {
                    assert!(!query.is_known(), "{target}");
                    assert_eq!(query.as_str(), text, "{target}");
                }
            }
        }
    }
    if let [one, other] = targets.as_slice()
        && let (Some((key, _, _)), Some((other_key, _, _))) = (read(one), read(other))
    {
        let same = meaning(one) == meaning(other);
        assert_eq!(key == other_key, same, "{one} and {other}");
    }
    if let Some(target) = targets.first()
        && let Some(Meaning {
            query: QueryMeaning::Known(parameters),
            ..
        }) = meaning(target)
    {
        let mut choices = Unstructured::new(lines.next().unwrap_or_default());
        let other = format!(
            "{}?{}",
            target.path(),
            equivalent_query(&parameters, &mut choices)
        );
        let other: Uri = other.parse().expect("a target");
        let keys = [read(target), read(&other)].map(|read| read.map(|(key, _, _)| key));
        assert_eq!(keys[0], keys[1], "{target} and {other}");
    }
});
