//! Holds the documents to their word: outputs, tables and links in them go stale unnoticed otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::process::run;
use crate::support::{Gateway, Origin, STEP};

/// Every document, by its path from the top of the repository.
const DOCUMENTS: [(&str, &str); 9] = [
    ("README.md", include_str!("../../README.md")),
    ("CHANGELOG.md", include_str!("../../CHANGELOG.md")),
    ("CONTRIBUTING.md", include_str!("../../CONTRIBUTING.md")),
    ("SECURITY.md", include_str!("../../SECURITY.md")),
    ("benches/README.md", include_str!("../../benches/README.md")),
    ("config/README.md", include_str!("../../config/README.md")),
    (
        "config/deploy/README.md",
        include_str!("../../config/deploy/README.md"),
    ),
    (
        "src/gateway/http.md",
        include_str!("../../src/gateway/http.md"),
    ),
    ("tests/README.md", include_str!("../README.md")),
];

/// Returns the text of a document.
fn document(path: &str) -> &'static str {
    let found = DOCUMENTS.iter().find(|(name, _)| *name == path);
    found.unwrap_or_else(|| panic!("no document {path}")).1
}

/// Returns the first code block in `language` below a heading.
fn code_block(path: &str, heading: &str, language: &str) -> &'static str {
    let section = document(path).split_once(&format!("\n## {heading}\n"));
    let section = section.unwrap_or_else(|| panic!("no section {heading}")).1;
    let block = section.split_once(&format!("\n```{language}\n"));
    let block = block.unwrap_or_else(|| panic!("no {language} in {heading}"));
    block.1.split_once("```").unwrap().0
}

#[tokio::test]
async fn check_reports_mistakes_as_documented() {
    const CONFIGURATION: &str = "config/README.md";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.toml");
    let broken = code_block(CONFIGURATION, "Finding mistakes", "toml");
    std::fs::write(&file, broken).unwrap();
    let file = file.display().to_string();
    let (code, reported) = run(&["check", "--config", &file], &[]).await;
    let reported = reported.replace(&file, "broken.toml");
    let documented = code_block(CONFIGURATION, "Finding mistakes", "text");
    let (_, documented) = documented.split_once('\n').unwrap();
    assert_eq!(format!("{reported}exit {}\n", code.unwrap()), documented);
}

#[tokio::test]
async fn check_accepts_the_example_of_the_readme() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stepgate.toml");
    let example = code_block("README.md", "Configuration", "toml");
    std::fs::write(&file, example).unwrap();
    let variables = [
        ("PORTKEY_API_KEY", "a"),
        ("PORTKEY_PROVIDER_VIRTUAL_KEY", "b"),
        ("BILLING_TOKEN", "a-token-of-some-length"),
    ];
    let file = file.display().to_string();
    let (code, reported) = run(&["check", "--config", &file], &variables).await;
    assert_eq!(code, Some(0), "{reported}");
}

/// Returns the keys of `config/stepgate.toml` by full name, also those that are commented out, with the
/// values of those that are not.
fn keys_of_file() -> BTreeMap<String, Option<String>> {
    let mut section = "";
    let mut keys = BTreeMap::new();
    for line in include_str!("../../config/stepgate.toml").lines() {
        let uncommented = line.trim_start_matches(['#', ' ']);
        if let Some((name, _)) = uncommented.trim_start_matches('[').split_once(']')
            && uncommented.starts_with('[')
        {
            section = name;
        } else if let Some((key, value)) = uncommented.split_once(" = ")
            && !key.contains(' ')
        {
            let value = (!line.starts_with('#')).then(|| value.to_owned());
            keys.insert(format!("{section}.{key}"), value);
        }
    }
    // The tables of names that users choose, and those that have sections of their own.
    let others = ["upstream.headers.", "upstream.query.", "client", "rule."];
    keys.retain(|key, _| !others.iter().any(|other| key.starts_with(other)));
    keys
}

#[test]
fn every_key_is_documented_with_its_default() {
    let table = document("config/README.md").split_once("\n| key | default | meaning |\n");
    let rows = table.unwrap().1.split("\n\n").next().unwrap().lines();
    let mut section = "";
    let mut documented = BTreeMap::new();
    for row in rows.skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let names: Vec<&str> = cells[1].split('`').skip(1).step_by(2).collect();
        if let Some(name) = names[0].strip_prefix('[') {
            section = name.trim_matches(['[', ']']);
        } else {
            let default = cells[2]
                .strip_prefix('`')
                .map(|d| d.trim_end_matches('`').to_owned());
            let keys = names.iter().map(|name| format!("{section}.{name}"));
            documented.extend(keys.map(|key| (key, default.clone())));
        }
    }
    let mut keys = keys_of_file();
    // The shared tier is off by default, so the file shows its default in a comment.
    let timeout = keys.insert(
        "cache.redis.command_timeout".to_owned(),
        Some("\"50ms\"".to_owned()),
    );
    assert_eq!(timeout, Some(None));
    assert_eq!(documented, keys);
}

/// Collects the names of all members, each with the members around it. Of an array, the first element
/// counts.
fn collect_members(value: &Value, path: &str, members: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let name = format!("{path}.{name}");
                collect_members(value, &name, members);
                members.insert(name);
            }
        }
        Value::Array(elements) => {
            if let Some(first) = elements.first() {
                collect_members(first, path, members);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn status_has_the_documented_members() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway.get(STEP).await;
    let example = code_block("config/deploy/README.md", "Status and purges", "text");
    let example = example
        .lines()
        .find(|line| line.contains("\"uptime_seconds\""));
    let example: Value = serde_json::from_str(example.unwrap()).unwrap();
    let status = gateway.admin("GET", "/status").await.json();
    let (mut documented, mut reported) = (BTreeSet::new(), BTreeSet::new());
    collect_members(&example, "", &mut documented);
    collect_members(&status, "", &mut reported);
    assert_eq!(reported, documented);
}

#[tokio::test]
async fn metrics_are_the_documented_ones() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let scraped = gateway.admin("GET", "/metrics").await.text();
    let types = scraped
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let scraped: BTreeSet<String> = types
        .filter_map(|line| line.split_once(' '))
        // OpenMetrics 1.0: the samples of a counter end in `_total`, its name does not.
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            _ => name.to_owned(),
        })
        .collect();
    let table = document("config/deploy/README.md").split_once("\n| metric | meaning |\n");
    let rows = table.unwrap().1.split("\n\n").next().unwrap().lines();
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let documented: BTreeSet<String> = cells
        .flat_map(|cell| cell.split('`'))
        .filter(|name| name.starts_with("stepgate_"))
        .map(|name| name.split('{').next().unwrap_or(name).to_owned())
        .collect();
    assert_eq!(scraped, documented);
}

#[test]
fn every_fuzz_target_is_documented() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/targets");
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let row = format!("\n| `{}` | ", name.strip_suffix(".rs").unwrap());
        assert!(document("tests/README.md").contains(&row), "{name}");
    }
}

/// Returns the number of the hazard that a line's test is for: `12` for `fn c12_…`.
fn hazard_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let name = line.strip_prefix("async ").unwrap_or(line);
    let (number, _) = name.strip_prefix("fn c")?.split_once('_')?;
    let is_number = number.starts_with(|c: char| c.is_ascii_digit());
    is_number.then(|| number.trim_start_matches('0'))
}

/// Collects the files that test each hazard.
fn collect_hazards(folder: &Path, top: &Path, hazards: &mut BTreeMap<String, BTreeSet<String>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_hazards(&path, top, hazards);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(top).unwrap().display().to_string();
            let text = std::fs::read_to_string(&path).unwrap();
            for hazard in text.lines().filter_map(hazard_of) {
                let files = hazards.entry(hazard.to_owned()).or_default();
                files.insert(file.clone());
            }
        }
    }
}

#[test]
fn every_hazard_is_documented_with_its_tests() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it"));
    let mut tested = BTreeMap::new();
    collect_hazards(folder, folder, &mut tested);
    let rows = document("tests/README.md").lines().filter_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        match cells[..] {
            [number, _, _, files] if number.trim().starts_with(|c: char| c.is_ascii_digit()) => {
                let files = files.split('`').skip(1).step_by(2).map(str::to_owned);
                Some((number.trim().to_owned(), files.collect()))
            }
            _ => None,
        }
    });
    let documented: BTreeMap<String, BTreeSet<String>> = rows.collect();
    for (hazard, files) in &tested {
        let row = documented.get(hazard);
        assert_eq!(row, Some(files), "the row of hazard {hazard}");
    }
    assert!(documented.keys().eq(tested.keys()), "{documented:?}");
}

/// Returns the anchor that a heading has on GitHub and in rustdoc.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Returns the headings of a document outside code blocks, as anchors.
fn anchors(text: &str) -> BTreeSet<String> {
    let outside = text.split("\n```").step_by(2);
    let lines = outside.flat_map(str::lines);
    let headings = lines.filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, text) in DOCUMENTS {
        let links = text.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target: PathBuf = match file {
                "" => top.join(path),
                _ => top.join(path).parent().unwrap().join(file),
            };
            assert!(target.exists(), "{path}: {link}");
            if !heading.is_empty() {
                let target = std::fs::read_to_string(target).unwrap();
                assert!(anchors(&target).contains(heading), "{path}: {link}");
            }
        }
    }
}

#[test]
fn the_readme_is_short() {
    assert!(document("README.md").lines().count() <= 250);
}
