//! Reads the configuration anew: all of it when asked to, its secrets when their files change.
//!
//! What is whole and valid replaces what runs, between two requests; anything else changes nothing
//! but the log, a metric and the status. A changed secret is read together with the text of the
//! configuration that runs, not with a file that somebody may just be editing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval};

use crate::Server;
use crate::config::{Config, Problems, Sources, Successor};

/// How often the files of secrets are looked at. Reading them tells more than a notice of the file
/// system would: it works across symlink swaps, network file systems and bind mounts alike.
const EVERY: Duration = Duration::from_secs(1);

/// Longer than any secret or bundle of certificates.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;

/// What each file held, as a hash; none where it cannot be read.
type Seen = BTreeMap<PathBuf, Option<blake3::Hash>>;

/// Keeps a running gateway's configuration up to date.
pub struct Reloader<'a> {
    sources: Sources<'a>,
    running: Config,
    /// The text of the configuration that runs.
    text: String,
    /// What the files of its secrets held when they were last read.
    seen: Seen,
}

impl<'a> Reloader<'a> {
    /// Reads the configuration for the first time.
    ///
    /// # Errors
    /// All problems at once, each with its place.
    pub fn load(sources: Sources<'a>) -> Result<Self, Problems> {
        let (first, _) = Config::load_text(&sources)?;
        let seen = look(first.files());
        // Once more, so that whatever changes after it was looked at is found to have changed.
        let (running, text) = Config::load_text(&sources)?;
        Ok(Self {
            sources,
            running,
            text,
            seen,
        })
    }

    /// The configuration that runs.
    pub fn running(&self) -> &Config {
        &self.running
    }

    /// Reads the whole configuration at every `hangup`, and its secrets when their files have
    /// changed. Never returns.
    pub async fn run(&mut self, server: &Server, hangup: &mut Signal) {
        let mut looks = interval(EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = self.seen.clone();
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => {
                    self.reload(server, Occasion::Asked);
                }
                _ = looks.tick() => {
                    let files = self.running.files();
                    let Ok(now) = tokio::task::spawn_blocking(|| look(files)).await else {
                        continue;
                    };
                    // The same at two looks: whoever writes them is done.
                    if now != self.seen && now == before {
                        self.reload(server, Occasion::FilesChanged);
                        // As it is now it was tried, whatever came of it.
                        self.seen.clone_from(&now);
                    }
                    before = now;
                }
            }
        }
    }

    fn reload(&mut self, server: &Server, occasion: Occasion) {
        let outcome = self.read(occasion).and_then(|read| {
            let changed = read.config != self.running || read.seen != self.seen;
            if changed {
                server
                    .take_up(&read.config)
                    .map_err(|e| vec![e.to_string()])?;
            }
            Ok((read, changed))
        });
        let occasion = occasion.as_str();
        match outcome {
            Ok((read, changed)) => {
                tracing::info!(occasion, changed, "configuration reloaded");
                if !read.restart.is_empty() {
                    let keys = read.restart.join(", ");
                    tracing::warn!(keys, "these differ from what runs, and wait for a restart");
                }
                (self.text, self.running, self.seen) = (read.text, read.config, read.seen);
                server.note_reload(Ok(read.restart));
            }
            Err(problems) => {
                tracing::error!(occasion, "configuration not reloaded: the old one stays");
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                server.note_reload(Err(problems));
            }
        }
    }

    fn read(&self, occasion: Occasion) -> Result<Read, Vec<String>> {
        let read = || {
            let text = match occasion {
                Occasion::Asked => Config::load_text(&self.sources)?.1,
                Occasion::FilesChanged => self.text.clone(),
            };
            let first = self.running.succeed(&text, &self.sources)?;
            let seen = look(first.config.files());
            // Once more: see `load`.
            let Successor { config, restart } = self.running.succeed(&text, &self.sources)?;
            Ok(Read {
                text,
                config,
                restart,
                seen,
            })
        };
        read().map_err(|problems: Problems| problems.iter().map(ToString::to_string).collect())
    }
}

/// What was read anew.
struct Read {
    text: String,
    config: Config,
    restart: Vec<&'static str>,
    seen: Seen,
}

/// Why it is read anew.
#[derive(Debug, Clone, Copy)]
enum Occasion {
    Asked,
    FilesChanged,
}

impl Occasion {
    fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "hangup",
            Self::FilesChanged => "files_changed",
        }
    }
}

fn look(files: Vec<PathBuf>) -> Seen {
    files
        .into_iter()
        .map(|path| {
            let hash = hash(&path).ok();
            (path, hash)
        })
        .collect()
}

fn hash(path: &std::path::Path) -> std::io::Result<blake3::Hash> {
    use std::io::Read;
    let mut hasher = blake3::Hasher::new();
    let mut file = std::fs::File::open(path)?.take(LONGEST_FILE);
    let mut part = [0; 8 * 1024];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hasher.finalize()),
            read => hasher.update(&part[..read]),
        };
    }
}
