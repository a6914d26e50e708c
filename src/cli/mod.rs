//! Defines the command line: commands, flags and help texts, as clap parses them.

mod suggestions;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use stepgate::config::{Flags, LogFormat};

/// Caching reverse-proxy sidecar for resources that are polled until they are final
#[derive(Debug, Parser)]
#[command(
    name = "stepgate",
    version,
    long_about = ABOUT,
    after_help = MORE_HELP,
    after_long_help = DETAILS
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Holds the flags that stand before the command.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

const ABOUT: &str = "\
Caching reverse-proxy sidecar for resources that are polled until they are final

Services point their base URL at stepgate and send no key. stepgate injects the
credentials and forwards
  GET /v1/threads/{thread_id}/runs/{run_id}/steps/{step_id}
to the upstream (by default Portkey). Once a run step is final, stepgate answers
from memory, byte for byte. While it is live, every answer comes from a fetch
that started after the request arrived; requests that arrive together share one.";

const MORE_HELP: &str = "\
Try `stepgate demo`: it needs no key.
`stepgate --help` has examples, environment variables and exit codes.";

const DETAILS: &str = "\
Examples:
  stepgate demo
          See what stepgate does, without a key
  PORTKEY_API_KEY=… PORTKEY_PROVIDER_VIRTUAL_KEY=… stepgate
          Run it; then point services at http://127.0.0.1:8180/v1
  stepgate check --config stepgate.toml
          List all problems of a configuration, or print the effective one
  stepgate --config stepgate.toml --log-format json
          Run it with that configuration

Configuration: a flag overrides its environment variable, which overrides the
configuration file, which overrides the default. `stepgate check` prints every
key with its effective value. config/stepgate.toml in the source repository
explains each default.

Environment:
  PORTKEY_API_KEY, PORTKEY_PROVIDER_VIRTUAL_KEY
          The credentials to inject, unless the configuration names others
  STEPGATE_CONFIG, STEPGATE_LISTEN, STEPGATE_ADMIN, STEPGATE_UPSTREAM,
  STEPGATE_LOG_FORMAT
          Same as the flags (in STEPGATE_LISTEN, commas separate addresses)
  STEPGATE_LOG
          Which lines to log: a level, or a filter like info,stepgate=debug
  HTTPS_PROXY, ALL_PROXY, NO_PROXY (or in lower case)
          The proxy for an https upstream, and the hosts reached without it
  TOKIO_WORKER_THREADS
          Threads that serve clients [default: one for each core]
  NO_COLOR
          If it is set and not empty, no colours

Signals:
  SIGHUP           Reload the configuration
  SIGTERM, SIGINT  Answer every accepted request, then exit; a second signal
                   exits at once

Exit codes:
  0   success; `health`: the gateway is ready
  1   could not run, or a second signal ended it; `health`: not ready
  2   bad usage
  78  bad configuration: one line for each problem, with its place and what
      would be right";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway (the default)
    Serve(ConfigArgs),
    /// Validate the configuration; print the effective one, redacted
    #[command(after_long_help = "\
Exit code: 0, or 78 if there is a problem. The output is a valid configuration
file.")]
    Check(ConfigArgs),
    /// Run a sandbox upstream, the gateway and pollers in one process
    #[command(after_help = "\
The demo needs no key, no configuration and no network beyond loopback. It runs
until Ctrl-C.")]
    Demo(DemoArgs),
    /// Ask a running gateway whether it is ready; exit code 0 or 1
    #[command(after_help = "\
Meant for container health checks. It reads only the address of the admin
listener from the configuration.")]
    Health(HealthArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

const COMPLETIONS: &str = "\
Where shells look for the script:
  stepgate completions bash > /etc/bash_completion.d/stepgate
  stepgate completions zsh > ~/.zfunc/_stepgate
          with ~/.zfunc in fpath, before compinit
  stepgate completions fish > ~/.config/fish/completions/stepgate.fish";

/// Holds the flags that override keys of the configuration.
#[derive(Debug, Default, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file (TOML) [env: STEPGATE_CONFIG]
    ///
    /// There is no search path: without a file, only defaults apply.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Data listener; repeatable [env: STEPGATE_LISTEN]
    ///
    /// A TCP address, or unix:/path for a unix socket.
    ///
    /// Beyond loopback, the configuration must have clients.
    ///
    /// [default: 127.0.0.1:8180]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Admin listener [env: STEPGATE_ADMIN]
    ///
    /// Serves metrics, status and the status page.
    ///
    /// Beyond loopback, the configuration must have an admin token.
    ///
    /// [default: 127.0.0.1:8181]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Base URL of the upstream [env: STEPGATE_UPSTREAM]
    ///
    /// [default: https://api.portkey.ai/v1]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    upstream: Option<String>,
    /// Log format: text or json [env: STEPGATE_LOG_FORMAT]
    #[arg(
        long,
        value_name = "FORMAT",
        value_parser = log_format(),
        hide_possible_values = true
    )]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Stop after this time, such as 20s
    #[arg(long, value_name = "TIME", value_parser = duration, allow_negative_numbers = true)]
    pub(crate) duration: Option<Duration>,
    /// Number of pollers, 1 to 1000
    #[arg(
        long,
        value_name = "N",
        default_value_t = 240,
        value_parser = pollers,
        allow_negative_numbers = true
    )]
    pub(crate) pollers: u16,
    /// Data listener [default: 127.0.0.1:8180 or a free port]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Admin listener [default: 127.0.0.1:8181 or a free port]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Configuration file of the gateway [env: STEPGATE_CONFIG]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Admin listener of the gateway [env: STEPGATE_ADMIN]
    ///
    /// [default: 127.0.0.1:8181]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
}

fn log_format() -> impl TypedValueParser<Value = LogFormat> {
    PossibleValuesParser::new(["text", "json"]).map(|name| match &*name {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    })
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "write a duration with its unit, such as 20s or 2m")
}

fn pollers(text: &str) -> Result<u16, &'static str> {
    let count = text.parse().ok().filter(|count| (1..=1000).contains(count));
    count.ok_or("write a number from 1 to 1000")
}

impl Cli {
    /// Parses the arguments of this process.
    ///
    /// # Errors
    /// Returns an error if they are invalid, and also if help or the version was asked for.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        Self::try_parse().map_err(|error| suggestions::add(error, &Self::command()))
    }
}

impl ConfigArgs {
    /// Returns these flags, and where one is missing, the one that stood before the command.
    pub(crate) fn or(self, earlier: Self) -> Self {
        Self {
            config: self.config.or(earlier.config),
            listen: match self.listen.is_empty() {
                true => earlier.listen,
                false => self.listen,
            },
            admin: self.admin.or(earlier.admin),
            upstream: self.upstream.or(earlier.upstream),
            log_format: self.log_format.or(earlier.log_format),
        }
    }

    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    pub(crate) fn flags(&self) -> Flags {
        Flags {
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            upstream: self.upstream.clone(),
            log_format: self.log_format,
        }
    }
}

impl DemoArgs {
    /// Returns the flags that override keys, like [`ConfigArgs::or`].
    pub(crate) fn config_args(&self, earlier: ConfigArgs) -> ConfigArgs {
        ConfigArgs {
            listen: self.listen.iter().cloned().collect(),
            admin: self.admin.clone(),
            ..ConfigArgs::default()
        }
        .or(earlier)
    }
}

impl HealthArgs {
    /// Returns the flags that override keys, like [`ConfigArgs::or`].
    pub(crate) fn config_args(&self, earlier: ConfigArgs) -> ConfigArgs {
        ConfigArgs {
            config: self.config.clone(),
            admin: self.admin.clone(),
            ..ConfigArgs::default()
        }
        .or(earlier)
    }
}

/// Returns the completion script for `shell`.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "stepgate", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound_and_the_examples_of_the_help_parse() {
        Cli::command().debug_assert();
        let lines = DETAILS.lines().chain(COMPLETIONS.lines());
        let is_example = |line: &&str| line.starts_with("  ") && line.contains("stepgate ");
        let examples: Vec<&str> = lines
            .filter(|line| !line.starts_with("   "))
            .filter(is_example)
            .chain(["stepgate"])
            .collect();
        assert_eq!(examples.len(), 7, "{examples:?}");
        for example in examples {
            let words = example.split_whitespace().take_while(|word| *word != ">");
            let words: Vec<&str> = words.filter(|word| !word.contains('=')).collect();
            assert!(Cli::try_parse_from(&words).is_ok(), "{words:?}");
        }
    }

    #[test]
    fn help_fits_80_columns() {
        let mut command = Cli::command();
        command.build();
        let pages = command.get_subcommands().cloned().chain([command.clone()]);
        for mut page in pages {
            for text in [page.render_help(), page.render_long_help()] {
                for line in text.to_string().lines() {
                    assert!(line.chars().count() <= 80, "{line}");
                }
            }
        }
    }
}
