//! The command line as clap reads it, and what it says of itself.

mod suggestions;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use stepgate::config::{Flags, LogFormat};

/// A caching sidecar for run-step polling: final steps from memory, live steps always fresh
#[derive(Debug, Parser)]
#[command(
    name = "stepgate",
    version,
    long_about = ABOUT,
    after_help = MORE,
    after_long_help = DETAILS
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Of whatever command follows.
    #[command(flatten)]
    pub(crate) settings: Settings,
}

const ABOUT: &str = "\
A caching sidecar for run-step polling: final steps from memory, live steps always fresh.

Services point their base URL at it and send no key. It injects the credentials, forwards
  GET /v1/threads/{thread_id}/runs/{run_id}/steps/{step_id}
to the upstream (Portkey, unless told otherwise), and once a step is final answers from memory,
byte for byte. As long as a step is live, every answer comes from a fetch that left after the
question arrived; many who ask at once share one.";

const MORE: &str = "\
Try `stepgate demo`: it needs no key. `stepgate --help` has examples, variables and exit codes.";

const DETAILS: &str = "\
Examples:
  stepgate demo
          see what it does, without any key
  PORTKEY_API_KEY=… PORTKEY_PROVIDER_VIRTUAL_KEY=… stepgate
          run it; then point services at http://127.0.0.1:8180/v1
  stepgate check --config stepgate.toml
          say everything that is wrong with a configuration, or show what it means
  stepgate --config stepgate.toml --log-format json
          run it with that configuration

Configuration: flag, variable, file, default, in this order. `stepgate check` prints every key with
the value in force; config/stepgate.toml, among the sources, gives the reason for each default.

Environment:
  PORTKEY_API_KEY, PORTKEY_PROVIDER_VIRTUAL_KEY
          the credentials that are injected, unless the configuration names others
  STEPGATE_CONFIG, STEPGATE_LISTEN, STEPGATE_ADMIN, STEPGATE_UPSTREAM, STEPGATE_LOG_FORMAT
          as the flags of these names (STEPGATE_LISTEN: commas between addresses)
  STEPGATE_LOG
          which lines are logged: a level, or a filter like info,stepgate=debug
  HTTPS_PROXY, ALL_PROXY, NO_PROXY (or in lower case)
          the proxy before an https upstream, and which hosts are reached without it
  TOKIO_WORKER_THREADS
          how many threads serve callers; as many as there are cores, unless set
  NO_COLOR
          no colours on a terminal either

Signals: SIGHUP reads the configuration again; SIGTERM and SIGINT end it when what is under way is
answered, a second one at once.

Exit status:
  0   ended as it should; health: ready
  1   could not run, or was ended at once; health: not ready
  2   bad usage
  78  bad configuration: each problem on a line, with its place and what would be right";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway (the default)
    Serve(Settings),
    /// Say what is wrong with the configuration, or print what results, secrets redacted
    #[command(after_long_help = "\
Exit status: 0; 78 where something is wrong. What is printed can be used as a configuration file.")]
    Check(Settings),
    /// Watch the traffic shrink: a sandbox upstream, the gateway and pollers in one process
    #[command(after_help = "\
It needs no key, no configuration and no network beyond loopback, and runs until Ctrl-C.")]
    Demo(Demo),
    /// Ask a running gateway whether it is ready: exit 0 or 1
    #[command(after_help = "\
For container health checks. Only where the admin listener is matters to it.")]
    Health(Health),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// For which shell
        shell: Shell,
    },
}

const COMPLETIONS: &str = "\
Where shells look for it:
  stepgate completions bash > ~/.local/share/bash-completion/completions/stepgate
  stepgate completions zsh > ~/.zfunc/_stepgate        (with ~/.zfunc in fpath, before compinit)
  stepgate completions fish > ~/.config/fish/completions/stepgate.fish";

/// Each overrides its variable, which overrides the file.
#[derive(Debug, Default, Args)]
pub(crate) struct Settings {
    /// Configuration file (TOML) [env: STEPGATE_CONFIG]
    ///
    /// There is no search path: without one, the defaults hold.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Listen here, or at unix:/path; repeatable [env: STEPGATE_LISTEN]
    ///
    /// By default 127.0.0.1:8180. Beyond loopback the configuration must name clients.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Listen here for /metrics and the like [env: STEPGATE_ADMIN]
    ///
    /// By default 127.0.0.1:8181. Beyond loopback the configuration must hold a token.
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Fetch from there [env: STEPGATE_UPSTREAM]
    ///
    /// By default https://api.portkey.ai/v1.
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    upstream: Option<String>,
    /// Log lines [env: STEPGATE_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
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
    #[arg(long, value_name = "TIME", value_parser = duration, allow_negative_numbers = true)]
    pub(crate) duration: Option<Duration>,
    /// How many services poll, from 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 240, value_parser = pollers, allow_negative_numbers = true)]
    pub(crate) pollers: u16,
    /// Listen here, or at unix:/path
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Listen here for /metrics and the like
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Health {
    /// The gateway's configuration file [env: STEPGATE_CONFIG]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The gateway's admin listener: 127.0.0.1:8181 [env: STEPGATE_ADMIN]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "write a duration with its unit, such as 20s or 2m")
}

fn pollers(text: &str) -> Result<u16, &'static str> {
    let count = text.parse().ok().filter(|count| (1..=1000).contains(count));
    count.ok_or("write a number from 1 to 1000")
}

impl Cli {
    /// What this program was called with.
    ///
    /// # Errors
    /// It cannot be read; or help or the version were asked for.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        Self::try_parse().map_err(|error| suggestions::with_tip(error, &Self::command()))
    }
}

impl Settings {
    /// Of a command, with what stood before it.
    pub(crate) fn after(self, before: Self) -> Self {
        Self {
            config: self.config.or(before.config),
            listen: match self.listen.is_empty() {
                true => before.listen,
                false => self.listen,
            },
            admin: self.admin.or(before.admin),
            upstream: self.upstream.or(before.upstream),
            log_format: self.log_format.or(before.log_format),
        }
    }

    pub(crate) fn config(&self) -> Option<PathBuf> {
        self.config.clone()
    }

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

impl Demo {
    /// Of the flags it has those that it takes, with what stood before it.
    pub(crate) fn settings(&self, before: Settings) -> Settings {
        let own = Settings {
            listen: self.listen.iter().cloned().collect(),
            admin: self.admin.clone(),
            ..Settings::default()
        };
        own.after(before)
    }
}

impl Health {
    /// The same.
    pub(crate) fn settings(&self, before: Settings) -> Settings {
        let own = Settings {
            config: self.config.clone(),
            admin: self.admin.clone(),
            ..Settings::default()
        };
        own.after(before)
    }
}

/// The script with which this shell completes what is typed.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "stepgate", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_its_examples_are_read() {
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
    fn no_line_of_help_is_wider_than_a_terminal_of_100() {
        let mut command = Cli::command();
        command.build();
        let pages = command.get_subcommands().cloned().chain([command.clone()]);
        for mut page in pages {
            for text in [page.render_help(), page.render_long_help()] {
                for line in text.to_string().lines() {
                    assert!(line.chars().count() <= 100, "{line}");
                }
            }
        }
    }
}
