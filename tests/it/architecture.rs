//! The house's rules, held against its own source: imports point down one list, `step/` stays pure,
//! files stay small and are named for what they hold.

mod source;

use std::fs;
use std::io;
use std::path::Path;

use source::{Source, Spelled};

/// The rooms, top to bottom, as the crate's documentation draws them. A room may name those below
/// it; `lib` builds the gateway out of the others, so it may name all but `main`.
const ROOMS: [&str; 11] = [
    "main", "demo", "reload", "lib", "server", "gateway", "upstream", "coalesce", "cache",
    "config", "policy",
];

/// Beyond this a file holds more than one noun. Its `mod tests` is not counted.
const MOST_LINES: usize = 400;

/// Words that say nothing about what a file holds.
const EMPTY_WORDS: [&str; 4] = ["utils", "common", "manager", "helpers"];

/// What would let I/O or a clock into `step/`, where `now` is an argument.
const IMPURE: [&str; 3] = ["tokio", "Instant", "SystemTime"];

/// The catalogue of what can go wrong counts to here, with these beside.
const LAST_ITEM: u32 = 51;
const ITEMS_BESIDE: [&str; 3] = ["19a", "19b", "41a"];

#[derive(Debug, PartialEq, Eq)]
struct Edge {
    line: usize,
    from: &'static str,
    to: &'static str,
}

impl Edge {
    fn points_down(&self) -> bool {
        let rank = |room| ROOMS.iter().position(|r| *r == room);
        rank(self.from) < rank(self.to) || (self.from == "lib" && self.to != "main")
    }
}

fn room_called(name: &str) -> Option<&'static str> {
    ROOMS.into_iter().find(|room| *room == name)
}

/// The room a file belongs to: what is no room of the library stands beside `main.rs`.
fn room_of(source: &Source) -> &'static str {
    room_called(source.words()[0]).unwrap_or("main")
}

/// The room that a path in room `from` leads to.
fn room_at(from: &'static str, path: &Spelled<'_>) -> &'static str {
    let words = &path.words[..];
    let relative = |w: &&&str| matches!(**w, "self" | "super");
    let lead = words.iter().take_while(relative).count();
    let ups = words[..lead].iter().filter(|w| **w == "super").count();
    let below_root = match words[0] {
        "stepgate" => &words[1..],
        // The program's own root, which is not the library's.
        _ if from == "main" => return from,
        "crate" => &words[1..],
        _ if ups < path.depth => return from,
        _ => &words[lead..],
    };
    let first = below_root.first().and_then(|word| room_called(word));
    first.unwrap_or("lib")
}

fn edges(source: &Source) -> Vec<Edge> {
    let from = room_of(source);
    let edge = |path: &Spelled<'_>| {
        let (line, to) = (path.line, room_at(from, path));
        (to != from).then_some(Edge { line, from, to })
    };
    source.paths().iter().filter_map(edge).collect()
}

fn upward_edges(source: &Source) -> Vec<String> {
    let edges = edges(source);
    let upward = edges.iter().filter(|edge| !edge.points_down());
    upward
        .map(|Edge { line, from, to }| format!("{}:{line}: {from} names {to}", source.path))
        .collect()
}

/// `mod x;` in a crate's root: the library takes in rooms, the program none of them.
fn misplaced_modules(source: &Source) -> Vec<String> {
    let modules = source.modules();
    let misplaced = modules.iter().filter(|name| match source.words()[..] {
        ["lib"] => room_called(name.text).is_none(),
        ["main"] => room_called(name.text).is_some(),
        _ => false,
    });
    misplaced
        .map(|name| format!("{}:{}: takes in {}", source.path, name.line, name.text))
        .collect()
}

fn impure_words(source: &Source) -> Vec<String> {
    if room_of(source) != "policy" {
        return Vec::new();
    }
    let tokens = source.tokens();
    let impure = tokens.iter().filter(|token| IMPURE.contains(&token.text));
    impure
        .map(|token| format!("{}:{}: names {}", source.path, token.line, token.text))
        .collect()
}

fn shapeless(source: &Source) -> Vec<String> {
    let words = source.words();
    let mut parts = words.iter().flat_map(|word| word.split('_'));
    let lines = source.lines();
    let empty = parts.find(|part| EMPTY_WORDS.contains(part));
    let named = empty.map(|part| format!("{}: `{part}` says nothing", source.path));
    let long =
        (lines > MOST_LINES).then(|| format!("{}: {lines} lines, over {MOST_LINES}", source.path));
    named.into_iter().chain(long).collect()
}

/// All of `src/`, in no order.
fn sources() -> io::Result<Vec<Source>> {
    sources_below("src")
}

fn sources_below(folder: &str) -> io::Result<Vec<Source>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![package.join(folder)];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let below = path.strip_prefix(package).unwrap_or(&path);
                let text = fs::read_to_string(&path)?;
                sources.push(Source::new(&below.to_string_lossy(), &text));
            }
        }
    }
    Ok(sources)
}

/// The items of the catalogue that a source tests: those tests are named `c12_…` for item 12.
fn tested_items(source: &Source) -> Vec<String> {
    let tokens = source.tokens();
    let named = tokens.windows(2).filter(|t| t[0].text == "fn");
    let items = named.filter_map(|t| t[1].text.strip_prefix('c')?.split_once('_'));
    items.map(|(item, _)| item.to_owned()).collect()
}

fn items() -> Vec<String> {
    // Two digits, so that names sort as the catalogue does.
    let counted = (1..=LAST_ITEM).map(|item| format!("{item:02}"));
    let beside = ITEMS_BESIDE.map(str::to_owned);
    counted.chain(beside).collect()
}

fn assert_none_in_src(check: impl Fn(&Source) -> Vec<String>) {
    let sources = sources().expect("src/ is readable");
    let problems: Vec<_> = sources.iter().flat_map(check).collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn imports_point_down_the_list() {
    let sources = sources().expect("src/ is readable");
    let seen = sources.iter().flat_map(edges).count();
    assert!(seen > 0, "no import between rooms was seen");
    assert_none_in_src(upward_edges);
}

#[test]
fn the_library_is_made_of_the_rooms_alone() {
    assert_none_in_src(misplaced_modules);
}

#[test]
fn step_names_neither_the_runtime_nor_a_clock() {
    assert_none_in_src(impure_words);
}

#[test]
fn files_are_small_and_named_for_what_they_hold() {
    assert_none_in_src(shapeless);
}

#[test]
fn every_item_of_the_catalogue_is_tested() {
    let sources = sources_below("tests/it").expect("tests/it is readable");
    let mut tested: Vec<_> = sources.iter().flat_map(tested_items).collect();
    tested.sort();
    let mut missing = items();
    missing.retain(|item| tested.binary_search(item).is_err());
    assert!(missing.is_empty(), "not tested: {missing:?}");
}

#[test]
fn an_item_is_tested_by_functions_that_are_named_for_it() {
    let text = "async fn c07_a() {}\nfn c19a_b() {}\n// fn c08_c() {}\nfn other() {}\nfn c9() {}";
    let items = tested_items(&Source::new("tests/it/x.rs", text));
    assert_eq!(items, ["07", "19a"]);
}

#[test]
fn edges_are_seen_however_they_are_written() {
    type Case = (&'static str, &'static str, &'static [(usize, &'static str)]);
    let seen: [Case; 18] = [
        (
            "src/gateway.rs",
            "use crate::policy::Rule;",
            &[(1, "policy")],
        ),
        (
            "src/gateway.rs",
            "use crate::{\n    cache::{self, Entry},\n    coalesce as f, policy::*,\n};",
            &[(2, "cache"), (2, "cache"), (3, "coalesce"), (3, "policy")],
        ),
        (
            "src/cache/mod.rs",
            "fn f(x: &crate::config::Config) {}",
            &[(1, "config")],
        ),
        (
            "src/cache/mod.rs",
            "x::<crate::a::<crate::policy::B>>()",
            &[(1, "lib"), (1, "policy")],
        ),
        ("src/cache/mod.rs", "use super::server;", &[(1, "server")]),
        (
            "src/cache/entry.rs",
            "use super::server;\nuse self::policy::A;",
            &[],
        ),
        (
            "src/cache/entry.rs",
            "use super::super::server;",
            &[(1, "server")],
        ),
        (
            "src/cache/entry.rs",
            "use super::{super::server, key};",
            &[(1, "server")],
        ),
        (
            "src/gateway.rs",
            "mod tests { use super::*; }\nuse super::*;",
            &[(2, "lib")],
        ),
        (
            "src/server/mod.rs",
            "use crate::Gateway;\nuse crate as root;",
            &[(1, "lib"), (2, "lib")],
        ),
        (
            "src/server/mod.rs",
            "pub(crate) fn f(&self) { self.crate_step() }",
            &[],
        ),
        (
            "src/demo/mod.rs",
            "use stepgate::{Gateway, server};",
            &[(1, "lib"), (1, "server")],
        ),
        (
            "src/main.rs",
            "mod cli;\nuse crate::cli;\nuse stepgate::demo;",
            &[(3, "demo")],
        ),
        (
            "src/cli.rs",
            "use crate::Exit;\nuse stepgate::Gateway;",
            &[(2, "lib")],
        ),
        (
            "src/policy/mod.rs",
            "// crate::server\n/* /* */ crate::server */\n/// [`crate::server`]",
            &[],
        ),
        (
            "src/policy/mod.rs",
            r##"f("\"crate::server", r#""crate::server"#, b"crate::server")"##,
            &[],
        ),
        (
            "src/policy/mod.rs",
            r"f::<'a>('\'', '\u{7f}', '{', b'\\', crate::server::F)",
            &[(1, "server")],
        ),
        (
            "src/policy/mod.rs",
            "macro_rules! m { () => { $crate::coalesce::f() } }",
            &[(1, "coalesce")],
        ),
    ];
    for (path, text, expected) in seen {
        let edges = edges(&Source::new(path, text));
        let edges: Vec<_> = edges.iter().map(|edge| (edge.line, edge.to)).collect();
        assert_eq!(edges, expected, "{path}: {text}");
    }
}

#[test]
fn an_upward_edge_is_named_with_its_place() {
    let source = Source::new(
        "src/cache/mod.rs",
        "\nuse crate::{policy, upstream::Client};",
    );
    assert_eq!(
        upward_edges(&source),
        ["src/cache/mod.rs:2: cache names upstream"]
    );
    let library = Source::new("src/lib.rs", "use crate::{demo, gateway};");
    assert_eq!(edges(&library).len(), 2);
    assert!(upward_edges(&library).is_empty());
}

#[test]
fn what_breaks_the_other_rules_is_seen() {
    let root = "mod policy;\nmod utils;";
    let module = |path: &str| misplaced_modules(&Source::new(path, root));
    assert_eq!(module("src/lib.rs"), ["src/lib.rs:2: takes in utils"]);
    assert_eq!(module("src/main.rs"), ["src/main.rs:1: takes in policy"]);

    let clock = "// tokio\nuse std::time::{Duration, Instant};";
    let impure = |path: &str| impure_words(&Source::new(path, clock));
    assert_eq!(
        impure("src/policy/key.rs"),
        ["src/policy/key.rs:2: names Instant"]
    );
    assert!(impure("src/coalesce/mod.rs").is_empty());

    let code = "fn f() {}\n".repeat(MOST_LINES);
    let tests = format!("mod tests {{\n    fn g() {{}}\n{code}}}\n");
    let shape = |path: &str, text: &str| shapeless(&Source::new(path, text));
    assert!(shape("src/coalesce/flight.rs", &format!("{code}{tests}")).is_empty());
    assert_eq!(
        shape("src/coalesce/flight.rs", &format!("{code}{tests}\n")).len(),
        1
    );
    assert_eq!(shape("src/coalesce/flight_manager.rs", "").len(), 1);
    assert_eq!(shape("src/common/mod.rs", "").len(), 1);
}
