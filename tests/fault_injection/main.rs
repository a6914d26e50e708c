//! Fault injection and the soak: the gateway's own process between a harmful upstream and harmful
//! clients, and a ledger of every request.
//!
//! `tests/faults` and `tests/soak` run the long forms. Without arguments, as `cargo test` runs it,
//! this is the short form of both.

mod campaign;
mod client_faults;
mod fault;
mod judge;
mod ledger;
mod process_faults;
mod soak;
mod step;
mod testbed;
mod upstream;
mod upstream_faults;

#[expect(
    dead_code,
    unused_imports,
    reason = "the tests and the benches use the rest of it"
)]
#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use ledger::{Ledger, print};

/// Injections of each fault in the short form.
const EACH: u64 = 2;

/// The duration and the requests a second of the short soak.
const SOAK: Duration = Duration::from_secs(5);
const RATE: u32 = 200;

/// Lanes of the short form. A lane mostly waits.
const LANES: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            print(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print(&format!("the fault injection failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs what the arguments name, and returns whether nothing was lost, wrong or leaked.
async fn run(arguments: &[String]) -> Result<bool, Box<dyn Error>> {
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    // The default seed is fixed, so that a failure can be seen again.
    let seed = value("--seed").map_or(Ok(1), |seed| seed.parse())?;
    let (faults, soaks) = match arguments.first().map(String::as_str) {
        Some("faults") => (true, false),
        Some("soak") => (false, true),
        // A filter of `cargo test` names tests of another binary.
        Some(filter) if !filter.starts_with("--") => (false, false),
        _ => (true, true),
    };
    let ledger = Ledger::default();
    if faults {
        let options = campaign::Options {
            seed,
            each: value("--each").map_or(Ok(EACH), |each| each.parse())?,
            only: value("--only"),
            lanes: value("--lanes").map_or(Ok(LANES), |lanes| lanes.parse())?,
        };
        campaign::run(&options, &ledger).await?;
    }
    let mut passed = ledger.total().bad() == 0;
    if soaks {
        let options = soak::Options {
            seed,
            duration: match value("--duration") {
                Some(duration) => humantime::parse_duration(&duration)?,
                None => SOAK,
            },
            rate: value("--rate").map_or(Ok(RATE), |rate| rate.parse())?,
        };
        passed &= soak::run(&options).await?;
    }
    Ok(passed)
}
