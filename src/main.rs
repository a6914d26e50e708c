//! The command line: serve, check, demo, health, completions; exit codes.

mod cli;
mod logging;

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use stepgate::config::{Config, LogFormat, Sources};
use stepgate::reload::Reloader;
use stepgate::server::{Workers, systemd};
use stepgate::{Server, StartError, demo};
use tokio::signal::unix::{Signal, SignalKind, signal};

use cli::{Cli, Command, Demo, Settings};

/// It could not run.
const FAILED: u8 = 1;
/// As clap has it.
const BAD_USAGE: u8 = 2;
/// EX_CONFIG of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    share_one_heap();
    let cli = match Cli::read() {
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
                ExitCode::from(BAD_USAGE)
            };
        }
    };
    let before = cli.settings;
    match cli.command.unwrap_or(Command::Serve(Settings::default())) {
        Command::Serve(settings) => serve(&settings.after(before)),
        Command::Check(settings) => check(&settings.after(before)),
        Command::Health(options) => health(&options.settings(before)),
        Command::Demo(options) => run_demo(&options.settings(before), &options),
        Command::Completions { shell } => {
            // A closed pipe is the reader's wish.
            let _ = std::io::stdout().write_all(&cli::completions(shell));
            ExitCode::SUCCESS
        }
    }
}

/// By itself glibc gives each thread a heap of its own, which keeps what bodies leave behind in it:
/// resident memory could grow to `cache.max_bytes` times the threads. To be called before any other
/// thread runs.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "there is no safe way to ask glibc for one heap")]
fn share_one_heap() {
    // SAFETY: mallopt only sets a number of glibc's, and no other thread allocates yet.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    debug_assert_eq!(set, 1, "mallopt(M_ARENA_MAX) takes 1");
}

#[cfg(not(target_env = "gnu"))]
fn share_one_heap() {}

/// One that is not UTF-8 is there all the same: whoever reads it says that it cannot be used.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?;
    Some(value.to_string_lossy().into_owned())
}

fn sources<'a>(
    settings: &Settings,
    env: &'a (dyn Fn(&str) -> Option<String> + Sync),
) -> Sources<'a> {
    let named = || std::env::var_os("STEPGATE_CONFIG").filter(|path| !path.is_empty());
    Sources {
        file: settings.config().or_else(|| named().map(PathBuf::from)),
        flags: settings.flags(),
        env,
    }
}

/// What is valid, and yet may not be what was meant, in the configuration and around it.
fn cautions(config: &Config) -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let names: Vec<String> = names.collect();
    let mut cautions = config.warnings();
    cautions.extend(config.environment_warnings(&names));
    if variable(WORKERS).is_some_and(|text| !text.is_empty()) && workers_wanted().is_none() {
        cautions.push(format!(
            "{WORKERS} is passed over: it is no number from 1; one thread serves callers for each core"
        ));
    }
    cautions
}

fn check(settings: &Settings) -> ExitCode {
    match Config::load(&sources(settings, &variable)) {
        Ok(config) => {
            for caution in cautions(&config) {
                say(std::io::stderr(), &format!("warning: {caution}"));
            }
            say(std::io::stdout(), config.to_toml().trim_end());
            ExitCode::SUCCESS
        }
        Err(problems) => bad_configuration(&problems),
    }
}

fn serve(settings: &Settings) -> ExitCode {
    in_runtime(async {
        // Before anything else: until then a hangup ends the process.
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => return deaf(&error),
        };
        let mut reloader = match Reloader::load(sources(settings, &variable)) {
            Ok(reloader) => reloader,
            Err(problems) => return bad_configuration(&problems),
        };
        let config = reloader.running().clone();
        // From here on whoever collects the log reads no other lines.
        let is_json = config.log.format == LogFormat::Json;
        if let Err(error) = logging::start(&config.log) {
            return bad_configuration(&format_args!("STEPGATE_LOG: {error}"));
        }
        for caution in cautions(&config) {
            tracing::warn!("{caution}");
        }
        if let Some(proxy) = &config.upstream.proxy {
            tracing::info!(%proxy, "fetches go through a proxy");
        }
        // The usual soft limit of 1,024 descriptors is for programs that select(); max_connections
        // is above it. What cannot be raised is met when accepting.
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        let (mut terminate, mut interrupt) = match (signal(terminate), signal(interrupt)) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => return deaf(&error),
        };
        let crew = match Workers::hire(workers()) {
            Ok(crew) => crew,
            Err(error) => return unmanned(&error),
        };
        let drain_timeout = config.server.drain_timeout;
        let server = match Server::start(config, &crew).await {
            Ok(server) => server,
            Err(StartError::Setup(error)) if is_json => {
                tracing::error!("{error}");
                return ExitCode::from(BAD_CONFIGURATION);
            }
            Err(StartError::Bind(error)) if is_json => {
                tracing::error!("{}", error.with_advice());
                return ExitCode::from(FAILED);
            }
            Err(StartError::Setup(error)) => return bad_configuration(&error),
            Err(StartError::Bind(error)) => {
                return failed(&error.with_advice());
            }
        };
        systemd::ready();
        tokio::select! {
            () = either(&mut terminate, &mut interrupt) => {}
            () = reloader.run(&server, &mut hangup) => {}
            () = systemd::keep_awake(&crew) => {}
        }
        systemd::stopping(drain_timeout);
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

fn unmanned(error: &std::io::Error) -> ExitCode {
    failed(&format_args!("cannot start a worker: {error}"))
}

fn deaf(error: &std::io::Error) -> ExitCode {
    failed(&format_args!("cannot listen for signals: {error}"))
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Asks the gateway that this configuration describes. Secrets that only the gateway's own environment
/// has do not matter here; any other mistake could mean that it asks the wrong one.
fn health(settings: &Settings) -> ExitCode {
    let admin = match Config::admin_address(&sources(settings, &variable)) {
        Ok(admin) => admin,
        Err(problems) => return failed(&problems),
    };
    in_runtime(async {
        match stepgate::server::check_ready(admin).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    })
}

fn run_demo(settings: &Settings, options: &Demo) -> ExitCode {
    let flags = settings.flags();
    if settings.config().is_some() || flags.upstream.is_some() || flags.log_format.is_some() {
        let wrong = "the demo takes --listen and --admin; leave out --config, --upstream and \
                     --log-format: the rest of its configuration is its own";
        say(std::io::stderr(), &format!("stepgate: {wrong}"));
        return ExitCode::from(BAD_USAGE);
    }
    let crew = match Workers::hire(workers()) {
        Ok(crew) => crew,
        Err(error) => return unmanned(&error),
    };
    let options = demo::Options {
        duration: options.duration,
        pollers: usize::from(options.pollers),
        listen: flags.listen.first().cloned(),
        admin: flags.admin,
        colours: logging::has_colours(&std::io::stdout()),
    };
    in_runtime(async {
        match demo::run(options, &crew).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    })
}

/// The variable for it that tokio knows.
const WORKERS: &str = "TOKIO_WORKER_THREADS";

fn workers_wanted() -> Option<usize> {
    let wanted = variable(WORKERS)?.trim().parse().ok();
    wanted.filter(|workers| *workers > 0)
}

/// As many workers as there are cores to run on, or as the variable says.
fn workers() -> usize {
    workers_wanted()
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
}

/// Runs `work` on this thread.
fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    match builder.enable_all().build() {
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
