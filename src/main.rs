//! The program: runs the command of the command line and turns its result into an exit code.
//!
//! `serve` reads from top to bottom: configuration, log, workers, listeners, signals, drain.

mod cli;
mod logging;

use std::fmt::Display;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::error::ErrorKind;
use stepgate::config::{Config, LogFormat, Sources};
use stepgate::reload::Reloader;
use stepgate::server::{Workers, systemd};
use stepgate::{Server, StartError, demo};
use tokio::signal::unix::{Signal, SignalKind, signal};

use cli::{Cli, Command, ConfigArgs, DemoArgs};

/// The exit code of a program that could not run.
const FAILED: u8 = 1;
/// The exit code of bad usage, as clap has it.
const BAD_USAGE: u8 = 2;
/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;

/// tokio's own variable for the number of worker threads.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// Says why a command failed, and with which exit code the program ends.
struct Failure {
    exit_code: u8,
    /// `None` if the user was told already.
    message: Option<String>,
}

impl Failure {
    fn reported(exit_code: u8) -> Self {
        Self {
            exit_code,
            message: None,
        }
    }

    fn run(error: impl Display) -> Self {
        Self {
            exit_code: FAILED,
            message: Some(error.to_string()),
        }
    }

    fn usage(error: impl Display) -> Self {
        Self {
            exit_code: BAD_USAGE,
            ..Self::run(error)
        }
    }

    fn config(problems: impl Display) -> Self {
        Self {
            exit_code: BAD_CONFIGURATION,
            ..Self::run(problems)
        }
    }

    fn signals(error: io::Error) -> Self {
        Self::run(format_args!("cannot listen for signals: {error}"))
    }

    fn workers(error: io::Error) -> Self {
        Self::run(format_args!("cannot start a worker thread: {error}"))
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Setup(error) => Self::config(error),
            StartError::Bind(error) => Self::run(error.with_advice()),
        }
    }
}

fn main() -> ExitCode {
    limit_heap_arenas();
    let result = match Cli::read() {
        Ok(cli) => run(cli),
        Err(error) => {
            // clap returns help and version as errors, too. A closed terminal is no failure.
            let _ = error.print();
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) {
                Ok(())
            } else {
                Err(Failure::reported(BAD_USAGE))
            }
        }
    };
    let Err(Failure { exit_code, message }) = result else {
        return ExitCode::SUCCESS;
    };
    match message {
        // Each problem begins with its place: file, line and column, a flag or a variable.
        Some(problems) if exit_code == BAD_CONFIGURATION => print_line(io::stderr(), &problems),
        Some(message) => print_line(io::stderr(), &format!("stepgate: {message}")),
        None => {}
    }
    ExitCode::from(exit_code)
}

fn run(cli: Cli) -> Result<(), Failure> {
    let earlier = cli.config;
    match cli.command.unwrap_or(Command::Serve(ConfigArgs::default())) {
        Command::Serve(args) => serve(&args.or(earlier)),
        Command::Check(args) => check(&args.or(earlier)),
        Command::Health(args) => health(&args.config_args(earlier)),
        Command::Demo(args) => run_demo(&args.config_args(earlier), &args),
        Command::Completions { shell } => {
            // The reader of a pipe may close it early.
            let _ = io::stdout().write_all(&cli::completions(shell));
            Ok(())
        }
    }
}

/// Runs the gateway until a signal ends it.
fn serve(args: &ConfigArgs) -> Result<(), Failure> {
    block_on(async {
        // The handler comes first, because until then SIGHUP ends the process.
        let mut hangup = signal(SignalKind::hangup()).map_err(Failure::signals)?;
        let mut reloader =
            Reloader::load(sources(args, &env_var)).map_err(|p| Failure::config(&p))?;
        let config = reloader.config().clone();
        let format = config.log.format;
        logging::init(&config.log)
            .map_err(|error| Failure::config(format_args!("STEPGATE_LOG: {error}")))?;

        match serve_config(config, &mut reloader, &mut hangup).await {
            // From here on, a collector of JSON must not meet any other line.
            Err(Failure {
                exit_code,
                message: Some(message),
            }) if format == LogFormat::Json => {
                tracing::error!("{message}");
                Err(Failure::reported(exit_code))
            }
            result => result,
        }
    })
}

async fn serve_config(
    config: Config,
    reloader: &mut Reloader,
    hangup: &mut Signal,
) -> Result<(), Failure> {
    for warning in warnings(&config) {
        tracing::warn!("{warning}");
    }
    if let Some(proxy) = &config.upstream.proxy {
        tracing::info!(%proxy, "fetches go through a proxy");
    }
    // The usual soft limit of 1,024 is below the default of max_connections. If it cannot be raised,
    // the listeners accept fewer connections.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let mut stop = StopSignals::new().map_err(Failure::signals)?;
    let workers = Workers::spawn(worker_count()).map_err(Failure::workers)?;
    let drain_timeout = config.server.drain_timeout;
    let server = Server::start(config, &workers).await?;

    systemd::ready();
    tokio::select! {
        () = stop.recv() => {}
        () = reloader.run(&server, hangup) => {}
        () = systemd::run_watchdog(&workers) => {}
    }

    systemd::stopping(drain_timeout);
    tokio::select! {
        all_answered = server.drain() => {
            tracing::info!(all_answered, "stopped");
            Ok(())
        }
        () = stop.recv() => {
            tracing::warn!("a second signal ended the drain");
            Err(Failure::reported(FAILED))
        }
    }
}

/// Receives the signals that end the process.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Prints the effective configuration, and warnings to standard error.
fn check(args: &ConfigArgs) -> Result<(), Failure> {
    let config = Config::load(&sources(args, &env_var)).map_err(|p| Failure::config(&p))?;
    for warning in warnings(&config) {
        print_line(io::stderr(), &format!("warning: {warning}"));
    }
    print_line(io::stdout(), config.to_toml().trim_end());
    Ok(())
}

/// Asks a running gateway whether it is ready. Only the address of the admin listener is read from the
/// configuration: secrets that only the gateway can read are not needed.
fn health(args: &ConfigArgs) -> Result<(), Failure> {
    let admin = Config::admin_address(&sources(args, &env_var)).map_err(|p| Failure::run(&p))?;
    block_on(async {
        stepgate::server::check_ready(admin)
            .await
            .map_err(Failure::run)
    })
}

fn run_demo(config: &ConfigArgs, args: &DemoArgs) -> Result<(), Failure> {
    let flags = config.flags();
    if config.file().is_some() || flags.upstream.is_some() || flags.log_format.is_some() {
        return Err(Failure::usage(
            "the demo has a configuration of its own and takes only --listen and\n\
             --admin; leave out --config, --upstream and --log-format",
        ));
    }
    let workers = Workers::spawn(worker_count()).map_err(Failure::workers)?;
    let options = demo::Options {
        duration: args.duration,
        pollers: usize::from(args.pollers),
        listen: flags.listen.first().cloned(),
        admin: flags.admin,
        colours: logging::has_colours(&io::stdout()),
    };
    block_on(async { demo::run(options, &workers).await.map_err(Failure::run) })
}

/// Returns what is valid in the configuration and in the environment, but may be a mistake.
fn warnings(config: &Config) -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let names: Vec<String> = names.collect();
    let mut warnings = config.warnings();
    warnings.extend(config.environment_warnings(&names));
    if env_var(WORKER_THREADS).is_some_and(|text| !text.is_empty()) && worker_threads().is_none() {
        warnings.push(format!(
            "{WORKER_THREADS} is ignored: it must be a number from 1; \
             stepgate starts one worker thread for each core"
        ));
    }
    warnings
}

fn sources<'a>(args: &ConfigArgs, env: &'a (dyn Fn(&str) -> Option<String> + Sync)) -> Sources<'a> {
    let from_env = || std::env::var_os("STEPGATE_CONFIG").filter(|path| !path.is_empty());
    Sources {
        file: args.file().or_else(|| from_env().map(PathBuf::from)),
        flags: args.flags(),
        env,
    }
}

/// Returns a variable of the environment. Bytes that are not UTF-8 become U+FFFD, so that the
/// configuration refuses the value in place of ignoring the variable.
fn env_var(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?;
    Some(value.to_string_lossy().into_owned())
}

/// Returns the value of [`WORKER_THREADS`]; `None` if it is unset or not a number from 1.
fn worker_threads() -> Option<NonZeroUsize> {
    env_var(WORKER_THREADS)?.trim().parse().ok()
}

/// Returns [`worker_threads`], by default the number of cores.
fn worker_count() -> usize {
    worker_threads()
        .or_else(|| available_parallelism().ok())
        .map_or(1, NonZeroUsize::get)
}

/// Runs `work` on this thread.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::run(format_args!("cannot start: {error}")))?;
    let result = runtime.block_on(work);
    // A blocking read of a file that never ends must not keep the process from ending.
    runtime.shutdown_background();
    result
}

/// Writes a line. The reader of a pipe may close it early, so an error is ignored.
fn print_line(mut to: impl Write, text: &str) {
    let _ = writeln!(to, "{text}");
}

/// Makes all threads share one heap. By default glibc gives each thread a heap of its own, which keeps
/// the memory of freed bodies: resident memory could grow to `cache.max_bytes` times the threads. Must
/// be called before any other thread runs.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "there is no safe way to ask glibc for one heap")]
fn limit_heap_arenas() {
    // SAFETY: mallopt only sets a number of glibc's, and no other thread allocates yet.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    debug_assert_eq!(set, 1, "mallopt(M_ARENA_MAX) accepts 1");
}

#[cfg(not(target_env = "gnu"))]
fn limit_heap_arenas() {}
