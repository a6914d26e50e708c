//! `stepgate demo`: a sandbox upstream, the gateway in front of it and services that poll, in one
//! process, to see what the gateway does without a key and without a cost.
//!
//! The gateway is the real one, on real sockets, configured as by a user; what is shown is what the
//! pollers saw and what the sandbox counted, nothing that the gateway says about itself.

mod pollers;
pub mod sandbox;
mod seeded_rng;
mod text;
mod view;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use console::Term;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use self::pollers::Pollers;
pub use self::sandbox::Sandbox;
use self::text::Scene;
use self::view::View;
use crate::config::{Address, Config, Flags, Problems, Sources};
use crate::server::{BindError, Workers};
use crate::{Server, StartError};

/// What the gateway of the demo takes for its own when the user does not say.
const LISTEN: &str = "127.0.0.1:8180";
const ADMIN: &str = "127.0.0.1:8181";

/// Any free port.
const FREE: &str = "127.0.0.1:0";

/// How often the view is drawn.
const FRAME: Duration = Duration::from_millis(100);

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// None: until Ctrl-C.
    pub duration: Option<Duration>,
    /// Pollers, each with a connection and several steps of its own.
    pub pollers: usize,
    /// Where the gateway listens; none: 127.0.0.1:8180, or a free port where that is taken.
    pub listen: Option<String>,
    /// Where its admin listener is; none: 127.0.0.1:8181, or a free port where that is taken.
    pub admin: Option<String>,
    /// Whether standard output is to have colours.
    pub colours: bool,
}

impl Default for Options {
    /// Eight teams.
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

/// Why there is no demo.
#[derive(Debug, Error)]
pub enum DemoError {
    /// No loopback port for the sandbox.
    #[error("the sandbox could not listen")]
    Sandbox(#[source] io::Error),
    /// An address that the user named is not one.
    #[error(transparent)]
    Config(#[from] Problems),
    /// A listener of the gateway cannot be opened.
    #[error("{}", .0.with_advice())]
    Bind(#[source] BindError),
    /// The gateway did not start for another reason.
    #[error("the gateway could not start: {0}")]
    Start(#[source] StartError),
    /// `--listen unix:…`
    #[error("the demo polls over TCP: write --listen like `{LISTEN}`")]
    NoTcp,
    /// Neither a terminal nor a file nor a pipe to write to.
    #[error("the output could not be written")]
    Output(#[source] io::Error),
}

/// Runs the demo until its time is over or Ctrl-C, and sums up. The gateway's callers are served by `crew`.
///
/// # Errors
/// What kept it from starting or from being seen. A reader that left (`| head`) is no error.
pub async fn run(options: Options, crew: &Workers) -> Result<(), DemoError> {
    let settings = sandbox::Settings::wan();
    let latency = settings.latency;
    let sandbox = Sandbox::start(settings).await.map_err(DemoError::Sandbox)?;
    let (server, taken) = gateway(&options, &sandbox.base_url(), crew).await?;
    let shown = match tcp(server.data()) {
        Some(data) => {
            let taken = taken.as_ref().map(|error| &*error.address);
            let intro = text::intro(options.pollers, latency, (data, server.admin()), taken);
            perform(&options, &sandbox, data, &intro).await
        }
        None => Err(DemoError::NoTcp),
    };
    // Whoever presses Ctrl-C again does not want to wait for the rest.
    tokio::select! {
        () = async { server.drain().await; sandbox.stop().await } => {}
        Ok(()) = tokio::signal::ctrl_c() => {}
    }
    match shown {
        Err(DemoError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown,
    }
}

/// The gateway, where the user wants it, else at its usual place, else anywhere: then with what kept it
/// from there.
async fn gateway(
    options: &Options,
    upstream: &str,
    crew: &Workers,
) -> Result<(Server, Option<BindError>), DemoError> {
    let usual = start(options, [LISTEN, ADMIN], upstream, crew).await;
    match usual {
        Err(DemoError::Bind(error)) if options.listen.is_none() || options.admin.is_none() => {
            let server = start(options, [FREE, FREE], upstream, crew).await?;
            Ok((server, Some(error)))
        }
        outcome => outcome.map(|server| (server, None)),
    }
}

async fn start(
    options: &Options,
    [listen, admin]: [&str; 2],
    upstream: &str,
    crew: &Workers,
) -> Result<Server, DemoError> {
    let or = |named: &Option<String>, usual: &str| named.as_deref().unwrap_or(usual).to_owned();
    let config = Config::load(&Sources {
        file: None,
        flags: Flags {
            listen: vec![or(&options.listen, listen)],
            admin: Some(or(&options.admin, admin)),
            upstream: Some(upstream.to_owned()),
            log_format: None,
        },
        env: &environment,
    })?;
    Server::start(config, crew)
        .await
        .map_err(|error| match error {
            StartError::Bind(error) => DemoError::Bind(error),
            error => DemoError::Start(error),
        })
}

/// All that the gateway sees of an environment: none of the user's settings and keys.
fn environment(name: &str) -> Option<String> {
    let value = match name {
        "PORTKEY_API_KEY" => "demo-portkey-key-0001",
        "PORTKEY_PROVIDER_VIRTUAL_KEY" => "demo-virtual-key-0001",
        _ => return None,
    };
    Some(value.to_owned())
}

fn tcp(addresses: &[Address]) -> Option<SocketAddr> {
    addresses.iter().find_map(|address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    })
}

/// The show itself: pollers on, view on, until the end.
async fn perform(
    options: &Options,
    sandbox: &Sandbox,
    data: SocketAddr,
    intro: &str,
) -> Result<(), DemoError> {
    console::set_colors_enabled(options.colours);
    let mut view = View::open(Term::stdout(), intro).map_err(DemoError::Output)?;
    let begun = Instant::now();
    let pollers = Pollers::start(&pollers::Settings {
        address: data,
        count: options.pollers,
        headers: &[],
    });
    let scene = |figures| Scene {
        figures,
        upstream: sandbox.fetches(),
        elapsed: begun.elapsed(),
    };
    let frames = async {
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            frames.tick().await;
            view.show(&scene(pollers.figures()))?;
        }
    };
    let shown: io::Result<()> = tokio::select! {
        shown = frames => shown,
        () = end(options.duration) => Ok(()),
    };
    let figures = pollers.stop().await;
    shown
        .and_then(|()| view.close(&scene(figures)))
        .map_err(DemoError::Output)
}

/// Ctrl-C, or the end of the time.
async fn end(duration: Option<Duration>) {
    let over = async {
        match duration {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over => {}
        // It fails where no handler can be installed; then only the time ends the demo.
        Ok(()) = tokio::signal::ctrl_c() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_with_the_flag_that_names_another() {
        let taken = std::net::TcpListener::bind(FREE).unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let other = || Some(FREE.to_owned());
        for (listen, admin, flag) in [
            (Some(address.clone()), None, "--listen"),
            (Some(address.clone()), other(), "--listen"),
            (other(), Some(address.clone()), "--admin"),
        ] {
            let options = Options {
                duration: Some(Duration::ZERO),
                pollers: 1,
                listen,
                admin,
                ..Options::default()
            };
            let told = run(options, &Workers::current())
                .await
                .unwrap_err()
                .to_string();
            let said = format!("cannot listen on {address}: Address already in use");
            assert!(told.starts_with(&said), "{told}");
            assert!(
                told.ends_with(&format!("choose another with {flag}")),
                "{told}"
            );
        }
    }
}
