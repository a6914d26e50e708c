//! Measures what stepgate costs: beside its peers, as the load grows, in a fleet, in instructions.
//!
//! One program holds all measurements, because the servers that stepgate is compared with (bare
//! hyper) are processes of this program. `benches/peers/run`, `benches/growth`, `benches/fleet` and
//! `benches/instructions` build it and run one of its commands.
//!
//! This process is the client and the upstream of every measurement and stays on one core. The
//! server under measurement runs on another.

mod baseline;
#[path = "../../tests/fixtures/certificates.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the tests use the rest of it"
)]
mod certificates;
mod fleet;
mod growth;
mod http;
mod instructions;
mod load;
mod origin;
mod peers;
mod process;
mod report;
mod run_step;
mod samples;
mod server;
mod suite;

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
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
    Bare {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        size: usize,
    },
    /// Passes every request on to an upstream with hyper's server and client alone
    Relay {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// Checks a final body for cacheability, again and again
    Cacheability {
        #[arg(long)]
        times: u64,
    },
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
        Command::Bare { listen, size } => baseline::bare(listen, size),
        Command::Relay { listen, upstream } => baseline::relay(listen, upstream),
        Command::Cacheability { times } => baseline::cacheability(times),
        Command::Instructions(instructions) => instructions.run(),
        Command::Peers(options) => suite::run(&options, &peers::parts()),
        Command::Growth(options) => suite::run(&options, &growth::parts()),
        Command::Fleet(options) => suite::run(&options, &fleet::parts()),
    };
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let _ = writeln!(io::stderr(), "speed: {error}");
    ExitCode::FAILURE
}
