//! Reloads the configuration at SIGHUP, and the secrets and certificates when their files change.
//!
//! A configuration that is whole and valid replaces the running one between two requests. Any other
//! one changes nothing but the log, a metric and the status. A changed secret is read with the text of
//! the running configuration, because somebody may be editing the configuration file at that moment.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::Server;
use crate::config::{Config, Problems, ReloadPlan, Sources};
use crate::server::systemd;

/// How often the files of secrets are hashed. Unlike file system events, hashes work across symlink
/// swaps, network file systems and bind mounts alike.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How many bytes of a file are hashed. No secret and no certificate bundle is longer.
const MAX_HASHED: u64 = 4 * 1024 * 1024;

/// How often [`read_stable`] reads. A read takes milliseconds, so files that change during each of
/// these are written without a pause.
const MAX_READS: usize = 10;

/// Holds a hash of each file; `None` if it cannot be read or is not a regular file. A pipe is not
/// opened, because that may block for ever.
#[derive(Clone, Default, PartialEq)]
struct FileHashes(BTreeMap<PathBuf, Option<blake3::Hash>>);

impl FileHashes {
    fn of(files: Vec<PathBuf>) -> Self {
        let hashes = files.into_iter().map(|path| {
            let hash = hash(&path).ok();
            (path, hash)
        });
        Self(hashes.collect())
    }
}

fn hash(path: &Path) -> std::io::Result<blake3::Hash> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_HASHED).read_to_end(&mut bytes)?;
    Ok(blake3::hash(&bytes))
}

/// Keeps the configuration of a running gateway up to date.
pub struct Reloader {
    sources: Arc<Sources<'static>>,
    config: Config,
    /// The text that `config` was parsed from.
    text: String,
    /// The files of secrets and certificates, as they were when `config` was read.
    hashes: FileHashes,
}

impl Reloader {
    /// Reads the configuration for the first time.
    ///
    /// # Errors
    /// Returns all problems at once, each with its place.
    pub fn load(sources: Sources<'static>) -> Result<Self, Problems> {
        let (first, text) = Config::load_with_text(&sources)?;
        // The file may be a pipe, which can be read only once.
        let parse = || Config::parse(&text, &sources);
        // If the files never were stable, `run` reads them again within seconds.
        let (config, hashes) =
            read_stable(parse, Config::files)?.unwrap_or((first, FileHashes::default()));
        Ok(Self {
            sources: Arc::new(sources),
            config,
            text,
            hashes,
        })
    }

    /// Returns the running configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reloads the configuration at every `hangup`, and the secrets when their files have changed.
    /// Never returns.
    pub async fn run(&mut self, server: &Server, hangup: &mut Signal) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut previous = self.hashes.clone();
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => {
                    systemd::reloading();
                    self.reload(server, ReloadTrigger::Sighup).await;
                }
                _ = ticks.tick() => {
                    let current = self.hash_files().await;
                    // Two equal readings in a row mean that the files are written completely.
                    if current != self.hashes && current == previous {
                        let applied = self.reload(server, ReloadTrigger::FilesChanged).await;
                        if !applied {
                            // The same files are not tried again, unless they changed meanwhile.
                            let tried = self.hash_files().await == current;
                            self.hashes = if tried { current.clone() } else { FileHashes::default() };
                        }
                    }
                    previous = current;
                }
            }
        }
    }

    /// Returns whether the configuration that was read is running now.
    async fn reload(&mut self, server: &Server, trigger: ReloadTrigger) -> bool {
        let result = self.read(trigger).await.and_then(|candidate| {
            let changed = candidate.plan.config != self.config || candidate.hashes != self.hashes;
            if changed {
                server
                    .apply_config(&candidate.plan.config)
                    .map_err(|error| vec![error.to_string()])?;
            }
            Ok((candidate, changed))
        });
        let trigger = trigger.as_str();
        let applied = result.is_ok();
        match result {
            Ok((candidate, changed)) => {
                tracing::info!(trigger, changed, "configuration reloaded");
                let ReloadPlan {
                    config,
                    needs_restart,
                } = candidate.plan;
                self.log_warnings(&config, &needs_restart);
                self.config = config;
                self.text = candidate.text;
                self.hashes = candidate.hashes;
                server.record_reload(Ok(needs_restart));
            }
            Err(problems) => {
                tracing::error!(trigger, "configuration not reloaded: the old one stays");
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                server.record_reload(Err(problems));
            }
        }
        systemd::reloaded(applied);
        applied
    }

    /// Logs what an operator should know of `config`, which replaces the running one.
    fn log_warnings(&self, config: &Config, needs_restart: &[&str]) {
        if config.clients.is_empty() && !self.config.clients.is_empty() {
            tracing::warn!("no configured clients left: requests need no token any more");
        }
        let old_warnings = self.config.warnings();
        for warning in config.warnings() {
            if !old_warnings.contains(&warning) {
                tracing::warn!("{warning}");
            }
        }
        if !needs_restart.is_empty() {
            let keys = needs_restart.join(", ");
            tracing::warn!(keys, "changes of these keys need a restart");
        }
    }

    async fn read(&self, trigger: ReloadTrigger) -> Result<Candidate, Vec<String>> {
        let (sources, running) = (Arc::clone(&self.sources), self.config.clone());
        let text = match trigger {
            ReloadTrigger::Sighup => None,
            ReloadTrigger::FilesChanged => Some(self.text.clone()),
        };
        // A file system may not answer for a long time, and signals must be received meanwhile.
        spawn_blocking(move || Candidate::read(&sources, &running, text))
            .await
            .unwrap_or_else(|error| Err(vec![error.to_string()]))
    }

    /// Hashes the files of the running configuration's secrets and certificates.
    async fn hash_files(&self) -> FileHashes {
        let files = self.config.files();
        spawn_blocking(|| FileHashes::of(files))
            .await
            .unwrap_or_else(|_| self.hashes.clone())
    }
}

/// Says what started a reload.
#[derive(Debug, Clone, Copy)]
enum ReloadTrigger {
    Sighup,
    FilesChanged,
}

impl ReloadTrigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sighup => "sighup",
            Self::FilesChanged => "files_changed",
        }
    }
}

/// Holds a valid configuration that may replace the running one.
struct Candidate {
    plan: ReloadPlan,
    /// The text that it was parsed from.
    text: String,
    /// The files of its secrets and certificates.
    hashes: FileHashes,
}

impl Candidate {
    /// Reads `text`, by default the configuration file, and the secrets in it, for a gateway that runs
    /// with `running`.
    fn read(
        sources: &Sources<'_>,
        running: &Config,
        text: Option<String>,
    ) -> Result<Self, Vec<String>> {
        let read = || {
            let text = match &text {
                Some(text) => text.clone(),
                None => Config::reread_text(sources)?,
            };
            let plan = running.plan_reload(&text, sources)?;
            Ok((text, plan))
        };
        // The configuration file must be stable, too: a file that is half saved may be valid.
        let own_file = sources.file.as_ref().filter(|_| text.is_none());
        let files = |(_, plan): &(String, ReloadPlan)| {
            let mut files = plan.config.files();
            files.extend(own_file.cloned());
            files
        };
        let stable = read_stable(read, files)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let Some(((text, plan), mut hashes)) = stable else {
            return Err(vec![
                "the files change faster than they can be read".to_owned(),
            ]);
        };
        // A change of the configuration file alone triggers no reload.
        let watched = plan.config.files();
        hashes.0.retain(|path, _| watched.contains(path));
        Ok(Self { plan, text, hashes })
    }
}

/// Calls `read` until all of its `files` are the same before and after, so that files that change
/// together are used together. Returns `None` if they still change after [`MAX_READS`].
fn read_stable<T>(
    read: impl Fn() -> Result<T, Problems>,
    files: impl Fn(&T) -> Vec<PathBuf>,
) -> Result<Option<(T, FileHashes)>, Problems> {
    let mut before = FileHashes::of(files(&read()?));
    for _ in 0..MAX_READS {
        let value = read()?;
        let after = FileHashes::of(files(&value));
        if after == before {
            return Ok(Some((value, after)));
        }
        before = after;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::config::Flags;

    const FIRST_HALF: &str = "[upstream]\nbase_url = \"http://127.0.0.1:1/v1\"\n";

    const SECOND_HALF: &str = "[[client]]\nname = \"a\"\ntoken = { env = \"TOKEN\" }\n";

    /// Reads a file that holds its first half. The second half is written during read `nth`.
    fn read_during_save(nth: usize) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f.toml");
        fs::write(&file, FIRST_HALF).unwrap();
        let reads = AtomicUsize::new(0);
        // A secret is looked up once in each read, after the text was read.
        let env = |name: &str| {
            if name == "PORTKEY_API_KEY" && reads.fetch_add(1, Ordering::Relaxed) == nth {
                fs::write(&file, format!("{FIRST_HALF}{SECOND_HALF}")).unwrap();
            }
            (!name.starts_with("STEPGATE_")).then(|| name.to_owned())
        };
        let sources = Sources {
            file: Some(file.clone()),
            flags: Flags::default(),
            env: &env,
        };
        let running = Config::parse(FIRST_HALF, &sources).unwrap();
        let candidate = Candidate::read(&sources, &running, None).unwrap();
        candidate.plan.config
    }

    #[test]
    fn a_file_saved_during_a_reload_is_read_whole() {
        for nth in 1..=2 {
            let config = read_during_save(nth);
            assert_eq!(config.clients.len(), 1, "saved during read {nth}");
        }
    }
}
