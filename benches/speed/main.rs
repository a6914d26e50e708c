//! What speed costs and how it compares: stepgate beside bare hyper and beside what a user would
//! pick instead.
//!
//! Every part is a command of this one program, so that a server of the measurements is a process of
//! its own without a build of its own. `benches/peers/run`, `benches/instructions`, `benches/growth` and
//! `benches/fleet` call it.

mod ask;
mod bare;
mod clock;
mod contender;
mod fleet;
mod growth;
mod instructions;
mod line;
mod machine;
mod open_loop;
mod origin;
mod peers;
mod process;
mod relay;
mod report;
mod steps;
mod suite;
mod upstream;
mod verdict;
mod weight;
mod wrk;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What went wrong is for whoever reads the terminal.
type Fallible<T> = Result<T, Box<dyn Error>>;

#[derive(Parser)]
struct Cli {
    /// Cargo's own flag for benches.
    #[arg(long, global = true, hide = true)]
    bench: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A bare hyper server that answers everything with a stored step's bytes and headers.
    Bare(bare::Bare),
    /// Bare hyper on both sides: what comes in goes up, what comes back goes down.
    Relay(relay::Relay),
    /// An upstream that is cheap to run: what an id says is what it answers.
    Origin(origin::Origin),
    /// The verdict on a final body, so many times.
    Verdict(verdict::Verdict),
    /// Counts what requests cost in instructions, and fails above the bounds.
    Instructions(instructions::Instructions),
    /// Hits at a fixed pace, and how long they take.
    Load(open_loop::Load),
    /// stepgate beside its peers.
    Peers(peers::Peers),
    /// How stepgate's cost grows.
    Growth(growth::Growth),
    /// What the shared tier saves a fleet, and what it costs.
    Fleet(fleet::Fleet),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Bare(bare) => bare.run(),
        Command::Relay(relay) => relay.run(),
        Command::Origin(origin) => origin.run(),
        Command::Verdict(verdict) => verdict.run(),
        Command::Instructions(instructions) => instructions.run(),
        Command::Load(load) => load.run(),
        Command::Peers(peers) => peers.run(),
        Command::Growth(growth) => growth.run(),
        Command::Fleet(fleet) => fleet.run(),
    }
}
