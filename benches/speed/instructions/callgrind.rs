//! A program under callgrind, which counts the instructions that it executes in user space.

use std::path::Path;

use tokio::process::Command;

use super::Failure;

/// `program` under callgrind, which writes its count to `out`; with no environment but what is added.
pub(super) fn under(program: &Path, out: &Path) -> Result<Command, Failure> {
    // Of an earlier run: it must not be taken for this one's.
    if out.exists() {
        std::fs::remove_file(out)?;
    }
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    Ok(command)
}

/// The instructions of the whole run, all threads together.
pub(super) fn total(out: &Path) -> Result<u64, Failure> {
    let text = std::fs::read(out).map_err(|error| format!("{}: {error}", out.display()))?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
        .ok_or_else(|| format!("{}: no totals", out.display()).into())
}
