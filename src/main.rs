//! The command line: serve, check, demo, health; exit codes.

mod cli;
mod logging;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use stepgate::config::{Config, Sources};
use stepgate::{Server, StartError, demo};
use tokio::signal::unix::{Signal, SignalKind, signal};

use cli::{Cli, Command, Demo, Settings};

/// It could not run.
const FAILED: u8 = 1;
/// EX_CONFIG of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way, too. Nobody is left to tell of a closed terminal.
            let _ = error.print();
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            return if asked {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => with_configuration(&cli.settings, serve),
        Command::Check => with_configuration(&cli.settings, |config| {
            say(std::io::stdout(), config.to_toml().trim_end());
            ExitCode::SUCCESS
        }),
        Command::Health => health(&cli.settings),
        Command::Demo(options) => run_demo(&cli.settings, &options),
    }
}

fn sources(settings: &Settings) -> Sources<'static> {
    Sources {
        file: settings.config.clone(),
        flags: settings.flags(),
        env: &|name| std::env::var(name).ok(),
    }
}

fn with_configuration(settings: &Settings, run: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(&sources(settings)) {
        Ok(config) => run(config),
        Err(problems) => bad_configuration(&problems),
    }
}

fn serve(config: Config) -> ExitCode {
    if let Err(error) = logging::start(&config.log) {
        return bad_configuration(&format_args!("STEPGATE_LOG: {error}"));
    }
    in_runtime(async {
        let signals = signal(SignalKind::terminate())
            .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
        let (mut terminate, mut interrupt) = match signals {
            Ok(signals) => signals,
            Err(error) => return failed(&format_args!("cannot listen for signals: {error}")),
        };
        let server = match Server::start(config).await {
            Ok(server) => server,
            Err(StartError::Setup(error)) => return bad_configuration(&error),
            Err(StartError::Bind(error)) => {
                return failed(&format_args!("{error}: {}", error.source));
            }
        };
        either(&mut terminate, &mut interrupt).await;
        tokio::select! {
            whole = server.drain() => {
                tracing::info!(whole, "stopped");
                ExitCode::SUCCESS
            }
            () = either(&mut terminate, &mut interrupt) => {
                tracing::warn!("stopped at once by a second signal");
                ExitCode::from(FAILED)
            }
        }
    })
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Asks the gateway that this configuration describes; needs none of its secrets.
fn health(settings: &Settings) -> ExitCode {
    let admin = Config::admin_address(&sources(settings));
    in_runtime(async {
        match stepgate::serve::check_ready(admin).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    })
}

fn run_demo(settings: &Settings, options: &Demo) -> ExitCode {
    let flags = settings.flags();
    let options = demo::Options {
        duration: options.duration,
        pollers: usize::from(options.pollers),
        listen: flags.listen.first().cloned(),
        admin: flags.admin,
    };
    in_runtime(async {
        match demo::run(options).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    })
}

fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            // What is still running was given its time.
            runtime.shutdown_background();
            code
        }
        Err(error) => failed(&format_args!("cannot start: {error}")),
    }
}

fn bad_configuration(problems: &dyn Display) -> ExitCode {
    say(std::io::stderr(), &problems.to_string());
    ExitCode::from(BAD_CONFIGURATION)
}

fn failed(error: &dyn Display) -> ExitCode {
    say(std::io::stderr(), &format!("stepgate: {error}"));
    ExitCode::from(FAILED)
}

fn say(mut to: impl Write, text: &str) {
    // A closed pipe is the reader's wish.
    let _ = writeln!(to, "{text}");
}
