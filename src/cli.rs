//! The command line as clap reads it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stepgate::config::{Flags, LogFormat};

/// A caching sidecar for run-step polling: final steps from memory, live steps always fresh.
#[derive(Debug, Parser)]
#[command(name = "stepgate", version, after_help = EXAMPLES, args_conflicts_with_subcommands = false)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  stepgate demo
          see what it does, without any key
  PORTKEY_API_KEY=… PORTKEY_PROVIDER_VIRTUAL_KEY=… stepgate
          run it; then point services at http://127.0.0.1:8180/v1
  stepgate check --config /etc/stepgate.toml
          say everything that is wrong with a configuration, or show what it means

Exit status: 0; 1 could not run; 2 bad usage; 78 bad configuration.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway (the default)
    Serve,
    /// Validate the configuration and print the effective one, secrets redacted
    Check,
    /// Run a sandbox upstream, the gateway and pollers in one process, and watch the traffic shrink
    /// (takes --listen and --admin; the rest of its configuration is its own)
    Demo(Demo),
    /// Ask a running gateway whether it is ready: exit 0 or 1
    Health,
}

/// Each overrides its variable, which overrides the file.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Configuration file (TOML); without one, the built-in defaults [env: STEPGATE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where to listen: 127.0.0.1:8180 or unix:/path; repeatable [env: STEPGATE_LISTEN]
    #[arg(long, global = true, value_name = "ADDR")]
    listen: Vec<String>,
    /// Where the admin listener listens [env: STEPGATE_ADMIN]
    #[arg(long, global = true, value_name = "ADDR")]
    admin: Option<String>,
    /// Where requests go, such as https://api.portkey.ai/v1 [env: STEPGATE_UPSTREAM]
    #[arg(long, global = true, value_name = "URL")]
    upstream: Option<String>,
    /// How log lines look [env: STEPGATE_LOG_FORMAT; STEPGATE_LOG sets the filter]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<Format>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End after this long, with a summary, such as 20s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// How many services poll
    #[arg(long, value_name = "N", default_value_t = 240, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) pollers: u16,
}

impl Settings {
    pub(crate) fn flags(&self) -> Flags {
        Flags {
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            upstream: self.upstream.clone(),
            log_format: self.log_format.map(|format| match format {
                Format::Text => LogFormat::Text,
                Format::Json => LogFormat::Json,
            }),
        }
    }
}
