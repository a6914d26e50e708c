//! Describes the machine and the versions that figures were taken with.

use std::fs;
use std::process::Command;

/// Returns a Markdown list of the machine, of stepgate and of `programs`, each with the command that
/// prints its version.
pub(crate) fn described(programs: &[(&str, &str)]) -> String {
    let mut lines = vec![
        ("CPU", cpu()),
        ("kernel", first_line("uname -sr")),
        ("stepgate", commit()),
        ("rustc", first_line("rustc --version")),
        ("hyper", locked("hyper")),
        ("tokio", locked("tokio")),
    ];
    lines.extend(
        programs
            .iter()
            .map(|(name, command)| (*name, first_line(command))),
    );
    let lines = lines
        .iter()
        .map(|(name, value)| format!("- {name}: {value}\n"));
    lines.collect()
}

pub(crate) fn cores() -> usize {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("processor"))
        .count()
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value
            .map_or("unknown", |(_, value)| value.trim())
            .to_owned()
    };
    format!(
        "{}, {} MHz, {} cores",
        field("model name"),
        field("cpu MHz"),
        cores()
    )
}

fn commit() -> String {
    let changed = match first_line("git status --porcelain -- src Cargo.toml Cargo.lock").as_str() {
        UNKNOWN => "",
        _ => ", changed",
    };
    format!(
        "commit {}{changed}",
        first_line("git rev-parse --short=12 HEAD")
    )
}

const UNKNOWN: &str = "unknown";

/// Returns the first line that a command prints, on either stream.
fn first_line(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let text = output.map(|output| [output.stdout, output.stderr].concat());
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or(UNKNOWN).trim().to_owned()
}

/// Returns a dependency's version.
fn locked(name: &str) -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"));
    let text = text.unwrap_or_default();
    let mut lines = text
        .lines()
        .skip_while(|line| *line != format!("name = \"{name}\""));
    let version = lines
        .nth(1)
        .and_then(|line| line.strip_prefix("version = "));
    version.unwrap_or(UNKNOWN).trim_matches('"').to_owned()
}
