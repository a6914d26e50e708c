//! Holds the source to its architecture: imports point down one list of rooms and form no circle,
//! `policy` stays pure, and every item of the catalogue of hazards is tested.

mod module_graph;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proc_macro2::{TokenStream, TokenTree};

use module_graph::{Import, ModuleGraph};

/// The rooms, top to bottom. A room may import from those below it.
const ROOMS: [&str; 11] = [
    "main", "demo", "reload", "lib", "server", "gateway", "coalesce", "cache", "upstream",
    "config", "policy",
];

/// File names that do not say what the file holds.
const EMPTY_WORDS: [&str; 4] = ["utils", "common", "manager", "helpers"];

/// Names that would let IO or a clock into `policy`, where `now` is an argument.
const IMPURE: [&str; 3] = ["tokio", "Instant", "SystemTime"];

/// The items of the catalogue of hazards: these ranges of numbers, and the ones with a letter.
const NUMBERED_HAZARDS: [std::ops::RangeInclusive<u32>; 1] = [1..=51];
const LETTERED_HAZARDS: [&str; 3] = ["19a", "19b", "41a"];

/// Returns the room of a module; every module of the program belongs to `main`.
fn room_of(module: &[String]) -> &str {
    match module {
        [root, ..] if root == "main" => "main",
        [_, room, ..] => room,
        _ => "lib",
    }
}

/// Returns the module that a file below `src/` is.
fn module_path(file: &str) -> Vec<String> {
    let below = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut words: Vec<_> = below.split('/').map(str::to_owned).collect();
    words.pop_if(|word| word == "mod");
    match &*words[0] {
        "lib" => vec!["stepgate".to_owned()],
        "main" => words,
        room if ROOMS.contains(&room) => [vec!["stepgate".to_owned()], words].concat(),
        _ => [vec!["main".to_owned()], words].concat(),
    }
}

fn graph_of(files: &[(String, String)]) -> ModuleGraph {
    let mut graph = ModuleGraph::default();
    for (file, text) in files {
        graph.add(file, module_path(file), text);
    }
    graph
}

fn imports_of(files: &[(String, String)]) -> Vec<Import> {
    let unresolved = |paths: Vec<String>| panic!("paths to nothing:\n{}", paths.join("\n"));
    graph_of(files).imports().unwrap_or_else(unresolved)
}

/// The imports of `src/`, read once for all tests.
static IMPORTS: LazyLock<Vec<Import>> = LazyLock::new(|| imports_of(&files_below("src")));

/// Returns every import that leads through a room which is not below its own.
fn upward_imports(imports: &[Import]) -> Vec<String> {
    let rank = |room: &str| ROOMS.iter().position(|r| *r == room);
    let mut upward = Vec::new();
    for import in imports {
        let from = room_of(&import.module);
        let rooms: BTreeSet<_> = import.through.iter().map(|m| room_of(m)).collect();
        for to in rooms {
            if to != from && rank(to) <= rank(from) {
                let Import {
                    from: file,
                    line,
                    path,
                    ..
                } = import;
                upward.push(format!("{file}:{line}: {from} imports {path} from {to}"));
            }
        }
    }
    upward
}

/// Returns the file that an import depends on, where that is another one.
///
/// Two imports are no dependency: a `pub use` of an item that the file does not use itself, and a
/// module's use of what its own parent module defines (`impl Gateway` in a file of its own).
fn dependency(import: &Import) -> Option<&str> {
    let to = import.defined_in.as_deref()?;
    let parent = import.module.starts_with(&module_path(to));
    (to != import.from && !import.reexport && !parent).then_some(to)
}

/// Returns the circles of imports among files, each with the imports that make it one.
fn circles(imports: &[Import]) -> Vec<String> {
    let with_target = |import| Some((import, dependency(import)?));
    let used: Vec<_> = imports.iter().filter_map(with_target).collect();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (import, to) in &used {
        edges.entry(&import.from).or_default().insert(to);
    }
    let reachable = |start| {
        let mut seen = BTreeSet::new();
        let mut next = vec![start];
        while let Some(file) = next.pop() {
            let targets = edges.get(file).into_iter().flatten();
            next.extend(targets.filter(|target| seen.insert(**target)));
        }
        seen
    };
    let reach: BTreeMap<_, _> = edges.keys().map(|file| (*file, reachable(file))).collect();
    let circle_of = |file: &str| -> BTreeSet<&str> {
        let back = |other: &&str| {
            reach
                .get(other)
                .is_some_and(|reached| reached.contains(file))
        };
        reach[file].iter().copied().filter(back).collect()
    };
    let circles: BTreeSet<_> = edges.keys().map(|file| circle_of(file)).collect();
    let mut described = Vec::new();
    for circle in circles.iter().filter(|circle| !circle.is_empty()) {
        let mut lines = vec![format!("circle of {} files:", circle.len())];
        for (
            Import {
                from, line, path, ..
            },
            to,
        ) in &used
        {
            if circle.contains(&**from) && circle.contains(to) {
                lines.push(format!("  {from}:{line}: {path} from {to}"));
            }
        }
        described.push(lines.join("\n"));
    }
    described
}

/// Returns all Rust files below a folder of the package, with their text.
fn files_below(folder: &str) -> Vec<(String, String)> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![package.join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let below = path.strip_prefix(package).unwrap();
                files.push((
                    below.display().to_string(),
                    fs::read_to_string(&path).unwrap(),
                ));
            }
        }
    }
    files.sort();
    files
}

/// Returns every identifier of a text, comments and literals left out.
fn identifiers(text: &str) -> Vec<String> {
    let mut identifiers = Vec::new();
    let mut streams = vec![text.parse::<TokenStream>().unwrap()];
    while let Some(stream) = streams.pop() {
        for token in stream {
            match token {
                TokenTree::Group(group) => streams.push(group.stream()),
                TokenTree::Ident(ident) => identifiers.push(ident.to_string()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }
    identifiers
}

/// Returns the items of the catalogue that a text tests: `fn c12_…` tests item 12.
fn tested_hazards(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim_start);
    let functions = lines.filter_map(|line| line.trim_start_matches("async ").strip_prefix("fn c"));
    let items = functions.filter_map(|name| name.split_once('_'));
    items.map(|(item, _)| item).collect()
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn imports_between_rooms_point_down_the_list() {
    let count = IMPORTS.len();
    assert!(count > 100, "only {count} imports were read");
    assert_none(&upward_imports(&IMPORTS));
}

#[test]
fn imports_between_files_form_no_circle() {
    assert_none(&circles(&IMPORTS));
}

#[test]
fn policy_names_neither_the_runtime_nor_a_clock() {
    let mut impure = Vec::new();
    for (file, text) in files_below("src/policy") {
        let names = identifiers(&text);
        let names = names.iter().filter(|name| IMPURE.contains(&&***name));
        impure.extend(names.map(|name| format!("{file}: {name}")));
    }
    assert_none(&impure);
}

#[test]
fn files_are_named_for_what_they_hold() {
    let files = files_below("src");
    let mut names = files
        .iter()
        .map(|(file, _)| file.clone())
        .collect::<Vec<_>>();
    names.retain(|file| {
        let mut words = file.split(['/', '_', '.']);
        words.any(|word| EMPTY_WORDS.contains(&word))
    });
    assert_none(&names);
}

#[test]
fn every_item_of_the_catalogue_is_tested() {
    let files = files_below("tests/it");
    let tested: BTreeSet<_> = files
        .iter()
        .flat_map(|(_, text)| tested_hazards(text))
        .collect();
    // Two digits, as in the names of the tests.
    let numbered = NUMBERED_HAZARDS
        .into_iter()
        .flatten()
        .map(|item| format!("{item:02}"));
    let items = numbered.chain(LETTERED_HAZARDS.map(str::to_owned));
    let untested: Vec<_> = items.filter(|item| !tested.contains(&**item)).collect();
    assert!(
        untested.is_empty(),
        "no test is named for items {untested:?}"
    );
}

#[test]
fn a_hazard_is_tested_by_the_functions_named_for_it() {
    let text = "async fn c07_a() {}\nfn c19a_b() {}\n// fn c08_c() {}\nfn other() {}\nfn c9() {}";
    assert_eq!(tested_hazards(text), ["07", "19a"]);
}

/// Makes a library of these files, in which every room has a root that defines `Root`.
fn library(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let roots = ROOMS.map(|room| (format!("src/{room}/mod.rs"), "pub struct Root;".to_owned()));
    let mut all: BTreeMap<_, _> = roots.into_iter().skip(1).collect();
    all.insert("src/lib.rs".to_owned(), "pub struct Server;".to_owned());
    all.remove("src/lib/mod.rs");
    all.extend(
        files
            .iter()
            .map(|(file, text)| ((*file).to_owned(), (*text).to_owned())),
    );
    all.into_iter().collect()
}

#[test]
fn a_module_in_the_wrong_crate_is_found() {
    for (file, text) in [("src/lib.rs", "mod utils;"), ("src/main.rs", "mod policy;")] {
        let files = library(&[(file, text), ("src/utils.rs", "")]);
        let unresolved = graph_of(&files).imports().unwrap_err();
        assert_eq!(unresolved, [format!("{file}:1: {text}").replace(';', "")]);
    }
}

#[test]
fn an_import_that_points_up_is_found_however_it_is_written() {
    let upward = [
        ("src/cache/mod.rs", "\nuse crate::gateway::Root;"),
        (
            "src/cache/mod.rs",
            "\nuse crate::{gateway::{self, Root as R}, policy};",
        ),
        ("src/cache/mod.rs", "\nfn f(x: &crate::gateway::Root) {}"),
        (
            "src/cache/mod.rs",
            "\nfn f() { a::<B<crate::gateway::Root>>() }",
        ),
        (
            "src/cache/mod.rs",
            "\nfn f() { println!(\"{:?}\", crate::gateway::Root) }",
        ),
        (
            "src/cache/mod.rs",
            "\nmacro_rules! m { () => { $crate::gateway::Root } }",
        ),
        ("src/cache/mod.rs", "\nuse super::gateway::*;"),
        ("src/cache/entry.rs", "\nuse super::super::gateway;"),
        (
            "src/cache/entry.rs",
            "mod tests {\nuse crate::gateway as g; }",
        ),
        ("src/cache/entry.rs", "\nuse crate::Server;"),
    ];
    for (file, text) in upward {
        let found = upward_imports(&imports_of(&library(&[(file, text)])));
        assert!(!found.is_empty(), "not found: {text}");
        let start = format!("{file}:2: cache imports ");
        assert!(
            found.iter().all(|line| line.starts_with(&start)),
            "{text}: {found:?}"
        );
    }
    let unnamed = "// crate::gateway\n/// [`crate::gateway`]\nconst A: &str = \"crate::gateway\";";
    assert_eq!(
        upward_imports(&imports_of(&library(&[("src/cache/mod.rs", unnamed)]))),
        [""; 0]
    );
}

#[test]
fn a_circle_of_files_is_found_through_whatever_reexports_them() {
    let circle_of = |files: &[(&str, &str)]| circles(&imports_of(&library(files)));
    let parent = (
        "src/cache/mod.rs",
        "mod a;\nmod b;\npub use a::A;\npub use b::*;",
    );
    let circle = [
        parent,
        ("src/cache/a.rs", "use super::B;\npub struct A(B);"),
        (
            "src/cache/b.rs",
            "pub struct B;\nimpl B { fn f() { super::A } }",
        ),
    ];
    let expected = "circle of 2 files:\n  src/cache/a.rs:1: super::B from src/cache/b.rs\n  \
                    src/cache/b.rs:2: super::A from src/cache/a.rs";
    assert_eq!(circle_of(&circle), [expected]);

    let one_way = [parent, circle[1], ("src/cache/b.rs", "pub struct B;")];
    assert_eq!(circle_of(&one_way), [""; 0]);

    let used_by_its_parent = [
        (
            "src/cache/mod.rs",
            "mod a;\nmod b;\npub use a::A;\npub use b::B;\npub struct C(A);",
        ),
        ("src/cache/a.rs", "use super::{B, C};\npub struct A(B, C);"),
        ("src/cache/b.rs", "pub struct B;"),
    ];
    assert_eq!(circle_of(&used_by_its_parent), [""; 0]);

    let through_the_parent = [
        used_by_its_parent[0],
        used_by_its_parent[1],
        ("src/cache/b.rs", "use super::a::A;\npub struct B(A);"),
    ];
    assert_eq!(circle_of(&through_the_parent).len(), 1);
}
