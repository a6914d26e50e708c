//! Measures what stepgate costs: beside its peers, as the load grows, in a fleet, in instructions.
//!
//! One program holds all measurements, because the servers that stepgate is compared with (bare
//! hyper) are processes of this program. `benches/peers/run`, `benches/growth`, `benches/fleet` and
//! `benches/instructions` build it and run one of its commands.
//!
//! This process is the client and the upstream of every measurement and stays on one core. The
//! server under measurement runs on another.

mod baseline;
mod client;
mod fleet;
mod growth;
mod instructions;
mod load;
mod machine;
mod origin;
mod peers;
mod process;
mod report;
mod run_step;
mod server;
mod suite;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Returns errors as text for the terminal; nothing here handles one kind differently.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
struct Cli {
    /// Is passed by cargo to every bench.
    #[arg(long, global = true, hide = true)]
    bench: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves a stored step's body and headers with hyper alone
    Bare(baseline::Bare),
    /// Passes every request on to an upstream with hyper's server and client alone
    Relay(baseline::Relay),
    /// Checks a final body for cacheability, again and again
    Cacheability(baseline::Cacheability),
    /// Counts instructions per request and fails above the bounds
    Instructions(instructions::Instructions),
    /// Compares stepgate with its peers
    Peers(suite::Options),
    /// Measures how stepgate's cost grows
    Growth(suite::Options),
    /// Measures what the shared tier saves a fleet and what it costs
    Fleet(suite::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bare(bare) => bare.run(),
        Command::Relay(relay) => relay.run(),
        Command::Cacheability(cacheability) => cacheability.run(),
        Command::Instructions(instructions) => instructions.run(),
        Command::Peers(options) => peers::suite().run(&options),
        Command::Growth(options) => growth::suite().run(&options),
        Command::Fleet(options) => fleet::suite().run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "speed: {error}");
            ExitCode::FAILURE
        }
    }
}
