//! What the figures were taken on and with: without it they say nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine, and what is always part of it: a list in Markdown.
pub(crate) fn described() -> String {
    list(&[
        ("CPU", cpu()),
        ("kernel", kernel()),
        ("stepgate", commit()),
        ("rustc", said("rustc", &["--version"])),
        ("hyper", locked("hyper")),
        ("tokio", locked("tokio")),
        ("wrk", said("wrk", &["-v"])),
    ])
}

/// Those beside it.
pub(crate) fn peers() -> String {
    list(&[
        ("HAProxy", said("haproxy", &["-v"])),
        ("nginx", said("nginx", &["-v"])),
        ("Varnish", said("varnishd", &["-V"])),
    ])
}

fn list(lines: &[(&str, String)]) -> String {
    lines
        .iter()
        .map(|(name, value)| format!("- {name}: {value}\n"))
        .collect()
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = text.lines().filter(|l| l.starts_with("processor")).count();
    let model = field("model name").unwrap_or_else(|| "unknown".to_owned());
    let pace = field("cpu MHz").unwrap_or_else(|| "?".to_owned());
    format!("{model}, {pace} MHz, {cores} cores")
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
    let source = ["src", "Cargo.toml", "Cargo.lock"];
    let changed = said(
        "git",
        &[&["status", "--porcelain", "--"], &source[..]].concat(),
    );
    let changed = if changed == UNKNOWN { "" } else { ", changed" };
    format!("commit {commit}{changed}")
}

const UNKNOWN: &str = "unknown";

/// The first line that it says, on either stream.
fn said(program: &str, arguments: &[&str]) -> String {
    let package = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(program)
        .args(arguments)
        .current_dir(package)
        .output();
    let said = output.map(|output| [output.stdout, output.stderr].concat());
    let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
    let first = said.lines().find(|line| !line.trim().is_empty());
    first.unwrap_or(UNKNOWN).trim().to_owned()
}

/// A dependency's version.
fn locked(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines();
    let found = lines.find(|line| *line == format!("name = \"{name}\""));
    let version = found.and_then(|_| lines.next()?.strip_prefix("version = "));
    version.unwrap_or(UNKNOWN).trim_matches('"').to_owned()
}
