//! `stepgate demo`: a sandbox upstream, the gateway and pollers in one process, without a key and
//! without cost.
//!
//! The gateway is the real one, on real sockets, configured as a user would. The demo shows only what
//! the pollers saw and what the sandbox counted, and nothing that the gateway says about itself.

mod checker;
mod connection;
mod output;
mod pollers;
pub mod sandbox;
mod seeded_rng;
mod snapshot;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use console::Term;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use self::output::Output;
use self::pollers::Pollers;
pub use self::sandbox::Sandbox;
use self::snapshot::Snapshot;
use crate::config::{Address, Config, Flags, Problems, Sources};
use crate::server::{BindError, Workers};
use crate::{Server, StartError};

/// The addresses of the gateway's listeners, unless the user names others or they are taken.
const LISTEN: &str = "127.0.0.1:8180";
const ADMIN: &str = "127.0.0.1:8181";

const FREE_PORT: &str = "127.0.0.1:0";

/// The time between two drawings of the live view.
const FRAME: Duration = Duration::from_millis(100);

/// Holds what the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the demo runs; `None`: until Ctrl-C.
    pub duration: Option<Duration>,
    /// The number of pollers. Each has one connection and polls several steps.
    pub pollers: usize,
    /// The data listener; `None`: 127.0.0.1:8180, or a free port if that is taken.
    pub listen: Option<String>,
    /// The admin listener; `None`: 127.0.0.1:8181, or a free port if that is taken.
    pub admin: Option<String>,
    /// Whether standard output gets colours.
    pub colours: bool,
}

impl Default for Options {
    /// Returns eight teams of pollers, until Ctrl-C.
    fn default() -> Self {
        Self {
            duration: None,
            pollers: 240,
            listen: None,
            admin: None,
            colours: false,
        }
    }
}

/// Says why the demo failed.
#[derive(Debug, Error)]
pub enum DemoError {
    /// The sandbox got no loopback port.
    #[error("the sandbox upstream cannot listen")]
    Sandbox(#[source] io::Error),
    /// An address from the command line is invalid.
    #[error(transparent)]
    Config(#[from] Problems),
    /// A listener of the gateway cannot be opened.
    #[error("{}", .0.with_advice())]
    Bind(#[source] BindError),
    /// The gateway did not start for another reason.
    #[error("the gateway cannot start: {0}")]
    Start(#[source] StartError),
    /// `--listen unix:…` was given.
    #[error("the demo polls over TCP; write --listen like `{LISTEN}`")]
    UnixListener,
    /// Standard output cannot be written.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

/// Runs the demo until its time is over or Ctrl-C, then prints a summary. `workers` serve the
/// gateway's clients.
///
/// # Errors
/// Returns a [`DemoError`] if the demo cannot start or its output cannot be written. A reader that
/// closes the pipe early (`| head`) is no error.
pub async fn run(options: Options, workers: &Workers) -> Result<(), DemoError> {
    let settings = sandbox::Settings::wan();
    let latency = settings.latency;
    let sandbox = Sandbox::start(settings).await.map_err(DemoError::Sandbox)?;
    let (server, bind_error) = start_gateway(&options, &sandbox.base_url(), workers).await?;
    let shown = match tcp_address(server.data()) {
        Some(data) => {
            let taken = bind_error.as_ref().map(|error| &*error.address);
            let intro = snapshot::intro(options.pollers, latency, (data, server.admin()), taken);
            show(&options, &sandbox, data, &intro).await
        }
        None => Err(DemoError::UnixListener),
    };
    // A second Ctrl-C ends the drain.
    tokio::select! {
        () = async { server.drain().await; sandbox.stop().await } => {}
        Ok(()) = tokio::signal::ctrl_c() => {}
    }
    match shown {
        Err(DemoError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown,
    }
}

/// Starts the gateway at the addresses from the command line, by default at [`LISTEN`] and [`ADMIN`].
/// If a default is taken, both get free ports, and the error is returned beside the server.
async fn start_gateway(
    options: &Options,
    upstream: &str,
    workers: &Workers,
) -> Result<(Server, Option<BindError>), DemoError> {
    match start_at(options, [LISTEN, ADMIN], upstream, workers).await {
        Err(DemoError::Bind(error)) if options.listen.is_none() || options.admin.is_none() => {
            let server = start_at(options, [FREE_PORT, FREE_PORT], upstream, workers).await?;
            Ok((server, Some(error)))
        }
        result => result.map(|server| (server, None)),
    }
}

async fn start_at(
    options: &Options,
    [listen, admin]: [&str; 2],
    upstream: &str,
    workers: &Workers,
) -> Result<Server, DemoError> {
    let config = Config::load(&Sources {
        file: None,
        flags: Flags {
            listen: vec![options.listen.clone().unwrap_or(listen.to_owned())],
            admin: Some(options.admin.clone().unwrap_or(admin.to_owned())),
            upstream: Some(upstream.to_owned()),
            log_format: None,
        },
        env: &environment,
    })?;
    let started = Server::start(config, workers).await;
    started.map_err(|error| match error {
        StartError::Bind(error) => DemoError::Bind(error),
        error => DemoError::Start(error),
    })
}

/// Returns the variables that the gateway sees in place of the user's own.
fn environment(name: &str) -> Option<String> {
    let value = match name {
        "PORTKEY_API_KEY" => "demo-portkey-key-0001",
        "PORTKEY_PROVIDER_VIRTUAL_KEY" => "demo-virtual-key-0001",
        _ => return None,
    };
    Some(value.to_owned())
}

fn tcp_address(addresses: &[Address]) -> Option<SocketAddr> {
    addresses.iter().find_map(|address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    })
}

/// Runs the pollers and the output until the demo ends.
async fn show(
    options: &Options,
    sandbox: &Sandbox,
    gateway: SocketAddr,
    intro: &str,
) -> Result<(), DemoError> {
    console::set_colors_enabled(options.colours);
    let mut output = Output::open(Term::stdout(), intro).map_err(DemoError::Output)?;
    let started = Instant::now();
    let pollers = Pollers::start(gateway, options.pollers, &[]);
    let snapshot = |figures| Snapshot {
        figures,
        fetches: sandbox.request_count(),
        elapsed: started.elapsed(),
    };
    let frames = async {
        let mut ticks = interval(FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            output.show(&snapshot(pollers.figures()))?;
        }
    };
    let shown: io::Result<()> = tokio::select! {
        shown = frames => shown,
        () = end(options.duration) => Ok(()),
    };
    let figures = pollers.stop().await;
    shown
        .and_then(|()| output.close(&snapshot(figures)))
        .map_err(DemoError::Output)
}

/// Returns after `duration` or at Ctrl-C.
async fn end(duration: Option<Duration>) {
    let timeout = async {
        match duration {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = timeout => {}
        // If no handler can be installed, Ctrl-C ends the process.
        Ok(()) = tokio::signal::ctrl_c() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_the_flag_for_another() {
        let taken = std::net::TcpListener::bind(FREE_PORT).unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let free = || Some(FREE_PORT.to_owned());
        for (listen, admin, flag) in [
            (Some(address.clone()), None, "--listen"),
            (Some(address.clone()), free(), "--listen"),
            (free(), Some(address.clone()), "--admin"),
        ] {
            let options = Options {
                duration: Some(Duration::ZERO),
                pollers: 1,
                listen,
                admin,
                ..Options::default()
            };
            let error = run(options, &Workers::current()).await.unwrap_err();
            let text = error.to_string();
            let start = format!("cannot listen on {address}: Address already in use");
            assert!(text.starts_with(&start), "{text}");
            let end = format!("choose another with {flag}");
            assert!(text.ends_with(&end), "{text}");
        }
    }
}
