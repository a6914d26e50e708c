//! What the README shows is what happens: outputs in it go stale unnoticed otherwise.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::process::run;
use crate::support::{Gateway, Origin, STEP};

const README: &str = include_str!("../../README.md");

/// What is fenced as `language` behind this heading, the first.
fn fenced<'r>(heading: &str, language: &str) -> &'r str {
    let section = README.split_once(&format!("\n### {heading}\n"));
    let section = section.unwrap_or_else(|| panic!("no section {heading}")).1;
    let fence = section.split_once(&format!("\n```{language}\n"));
    let text = fence
        .unwrap_or_else(|| panic!("no {language} in {heading}"))
        .1;
    text.split_once("```").unwrap().0
}

#[tokio::test]
async fn mistakes_are_told_as_it_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.toml");
    std::fs::write(&file, fenced("Finding mistakes", "toml")).unwrap();
    let file = file.display().to_string();
    let (code, told) = run(&["check", "--config", &file], &[]).await;
    let told = told.replace(&file, "broken.toml");
    let shown = fenced("Finding mistakes", "text");
    let (_, shown) = shown.split_once('\n').unwrap();
    assert_eq!(format!("{told}exit {}\n", code.unwrap()), shown);
}

/// The names of all members, each with those it is within; of a list, of its first.
fn members(value: &Value, within: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let name = format!("{within}.{name}");
                members(value, &name, found);
                found.insert(name);
            }
        }
        Value::Array(list) => {
            if let Some(first) = list.first() {
                members(first, within, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn the_status_has_the_members_that_it_shows() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway.get(STEP).await;
    let shown = fenced("Asking it", "text");
    let shown = shown
        .lines()
        .find(|line| line.starts_with("{\"cache\""))
        .unwrap();
    let shown: Value = serde_json::from_str(shown).unwrap();
    let (mut of_shown, mut of_status) = (BTreeSet::new(), BTreeSet::new());
    members(&shown, "", &mut of_shown);
    members(
        &gateway.admin("GET", "/status").await.json(),
        "",
        &mut of_status,
    );
    assert_eq!(of_status, of_shown);
}

#[tokio::test]
async fn the_metrics_are_those_that_it_names() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let scraped = gateway.admin("GET", "/metrics").await.text();
    let types = scraped
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let scraped: BTreeSet<String> = types
        .filter_map(|line| line.split_once(' '))
        // A counter's samples end so, its name does not (OpenMetrics 1.0).
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            _ => name.to_owned(),
        })
        .collect();
    let rows = README.split_once("\n| metric | |\n").unwrap().1;
    let rows = rows.split("\n\n").next().unwrap().lines();
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split('`'));
    let named: BTreeSet<String> = names
        .filter(|name| name.starts_with("stepgate_"))
        .map(|name| name.split('{').next().unwrap_or(name).to_owned())
        .collect();
    assert_eq!(scraped, named);
}

#[test]
fn its_fuzz_targets_are_those_that_there_are() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/targets");
    let files = std::fs::read_dir(folder).unwrap();
    for file in files {
        let name = file.unwrap().file_name().into_string().unwrap();
        let row = format!("\n| `{}` | ", name.strip_suffix(".rs").unwrap());
        assert!(README.contains(&row), "{name}");
    }
}
