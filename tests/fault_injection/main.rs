//! The fault rig and the soak: a harmful upstream, harmful callers, the real gateway between them,
//! and a ledger of every request.
//!
//! `tests/faults` and `tests/soak` run them whole. Without arguments, as `cargo test` runs it, this
//! is their short form.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a rig picks out what it looks for; a new variant is not that"
)]

mod caller;
mod campaign;
mod client_faults;
mod dice;
mod gateway;
mod kind;
mod kinds;
mod ledger;
mod origin;
mod process_faults;
mod refusals;
mod reloads;
mod soak;
mod step;
mod verdict;
mod world;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use campaign::Orders;
use ledger::{Ledger, say};

/// Injections of each kind in the short form.
const SHORT: u64 = 2;

/// The soak's short form.
const SHORT_SOAK: Duration = Duration::from_secs(5);
const RATE: u32 = 200;

/// Lanes of the campaign: they mostly wait.
const LANES: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("the rig failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was lost, wrong or leaked.
async fn run(arguments: &[String]) -> Result<bool, Box<dyn Error>> {
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let seed = match value("--seed") {
        Some(seed) => seed.parse()?,
        // The same each time, so that what fails can be seen again.
        None => 1,
    };
    let orders = Orders {
        seed,
        each: value("--each").map_or(Ok(SHORT), |each| each.parse())?,
        only: value("--only"),
        lanes: value("--lanes").map_or(Ok(LANES), |lanes| lanes.parse())?,
    };
    let ledger = Ledger::default();
    let soak = soak::Orders {
        seed,
        duration: match value("--duration") {
            Some(duration) => humantime::parse_duration(&duration)?,
            None => SHORT_SOAK,
        },
        rate: value("--rate").map_or(Ok(RATE), |rate| rate.parse())?,
    };
    let (faults, soaking) = match arguments.first().map(String::as_str) {
        Some("faults") => (true, false),
        Some("soak") => (false, true),
        // A filter of `cargo test`, for somebody else.
        Some(filter) if !filter.starts_with("--") => (false, false),
        _ => (true, true),
    };
    if faults {
        campaign::run(&orders, &ledger).await?;
    }
    let well = !soaking || soak::run(&soak).await?;
    Ok(well && ledger.total().bad() == 0)
}
