//! Reads the configuration anew: all of it when asked to, its secrets when their files change.
//!
//! What is whole and valid replaces what runs, between two requests; anything else changes nothing
//! but the log, a metric and the status. A changed secret is read together with the text of the
//! configuration that runs, not with a file that somebody may just be editing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::Server;
use crate::config::{Config, Problems, ReloadPlan, Sources};
use crate::server::systemd;

/// How often the files of secrets are looked at. Reading them tells more than a notice of the file
/// system would: it works across symlink swaps, network file systems and bind mounts alike.
const EVERY: Duration = Duration::from_secs(1);

/// Longer than any secret or bundle of certificates.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;

/// Reading takes milliseconds: files that change in all of these are written without a pause.
const ATTEMPTS: usize = 10;

/// What each file held, as a hash; none where it cannot be read, or is no file to read: opening a
/// pipe may wait for ever.
type Seen = BTreeMap<PathBuf, Option<blake3::Hash>>;

/// Keeps a running gateway's configuration up to date.
pub struct Reloader {
    sources: Arc<Sources<'static>>,
    running: Config,
    /// The text of the configuration that runs.
    text: String,
    /// What the files of its secrets held when they were last read.
    seen: Seen,
}

impl Reloader {
    /// Reads the configuration for the first time.
    ///
    /// # Errors
    /// All problems at once, each with its place.
    pub fn load(sources: Sources<'static>) -> Result<Self, Problems> {
        let (first, text) = Config::load_with_text(&sources)?;
        // The text again rather than the file: a pipe can be read once.
        let parse = || Config::parse(&text, &sources);
        let (running, seen) = match steadily(parse, Config::files)? {
            Some(read) => read,
            // Wrong at most until the next look.
            None => (first, Seen::new()),
        };
        Ok(Self {
            sources: Arc::new(sources),
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
                    systemd::reloading();
                    self.reload(server, Occasion::Asked).await;
                }
                _ = looks.tick() => {
                    let now = self.look().await;
                    // The same at two looks: whoever writes them is done.
                    if now != self.seen && now == before {
                        let taken = self.reload(server, Occasion::FilesChanged).await;
                        if !taken {
                            // As it is it was tried; unless it has changed meanwhile.
                            let tried = self.look().await == now;
                            self.seen = if tried { now.clone() } else { Seen::new() };
                        }
                    }
                    before = now;
                }
            }
        }
    }

    /// Returns whether what was read runs now.
    async fn reload(&mut self, server: &Server, occasion: Occasion) -> bool {
        let outcome = self.read(occasion).await.and_then(|read| {
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
                if read.config.clients.is_empty() && !self.running.clients.is_empty() {
                    tracing::warn!("no clients any more: whoever reaches the listener may ask");
                }
                let known = self.running.warnings();
                for caution in read.config.warnings() {
                    if !known.contains(&caution) {
                        tracing::warn!("{caution}");
                    }
                }
                if !read.needs_restart.is_empty() {
                    let keys = read.needs_restart.join(", ");
                    tracing::warn!(keys, "these differ from what runs, and wait for a restart");
                }
                (self.text, self.running, self.seen) = (read.text, read.config, read.seen);
                server.note_reload(Ok(read.needs_restart));
                systemd::reloaded(true);
                true
            }
            Err(problems) => {
                tracing::error!(occasion, "configuration not reloaded: the old one stays");
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                server.note_reload(Err(problems));
                systemd::reloaded(false);
                false
            }
        }
    }

    async fn read(&self, occasion: Occasion) -> Result<Read, Vec<String>> {
        let (sources, running) = (Arc::clone(&self.sources), self.running.clone());
        let text = match occasion {
            Occasion::Asked => None,
            Occasion::FilesChanged => Some(self.text.clone()),
        };
        // On a thread of its own: while a file system does not answer, signals must be heard.
        spawn_blocking(move || read(&sources, &running, text))
            .await
            .unwrap_or_else(|error| Err(vec![error.to_string()]))
    }

    /// What the files of the secrets that run hold now; as before where that cannot be said.
    async fn look(&self) -> Seen {
        let files = self.running.files();
        spawn_blocking(|| look(files))
            .await
            .unwrap_or_else(|_| self.seen.clone())
    }
}

/// Reads `text`, or else the file, and its secrets, for a gateway that runs with `running`.
fn read(
    sources: &Sources<'_>,
    running: &Config,
    text: Option<String>,
) -> Result<Read, Vec<String>> {
    let told =
        |problems: Problems| -> Vec<String> { problems.iter().map(ToString::to_string).collect() };
    let attempt = || {
        let text = match &text {
            Some(text) => text.clone(),
            None => Config::reread_text(sources)?,
        };
        let successor = running.plan_reload(&text, sources)?;
        Ok((text, successor))
    };
    // The configuration's own file among them: it may be valid and yet only half saved.
    let own = sources.file.as_ref().filter(|_| text.is_none());
    let files = |(_, successor): &(String, ReloadPlan)| {
        let beside = successor.config.files().into_iter();
        beside.chain(own.cloned()).collect()
    };
    let read = steadily(attempt, files).map_err(told)?;
    let Some((
        (
            text,
            ReloadPlan {
                config,
                needs_restart,
            },
        ),
        mut seen,
    )) = read
    else {
        return Err(vec![
            "the files change faster than they can be read".to_owned(),
        ]);
    };
    // Later looks leave it out: it is taken when that is asked for.
    let beside = config.files();
    seen.retain(|path, _| beside.contains(path));
    Ok(Read {
        text,
        config,
        needs_restart,
        seen,
    })
}

/// Reads until all files are the same before and after: what changes together is taken together, and
/// what changes later is found to have changed. None: they never were.
fn steadily<T>(
    read: impl Fn() -> Result<T, Problems>,
    files: impl Fn(&T) -> Vec<PathBuf>,
) -> Result<Option<(T, Seen)>, Problems> {
    let mut before = look(files(&read()?));
    for _ in 0..ATTEMPTS {
        let read = read()?;
        let after = look(files(&read));
        if after == before {
            return Ok(Some((read, after)));
        }
        before = after;
    }
    Ok(None)
}

/// What was read anew.
struct Read {
    text: String,
    config: Config,
    needs_restart: Vec<&'static str>,
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
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::config::Flags;

    const HALF: &str = "[upstream]\nbase_url = \"http://127.0.0.1:1/v1\"\n";

    const REST: &str = "[[client]]\nname = \"a\"\ntoken = { env = \"TOKEN\" }\n";

    /// Reads a half saved file, whose rest is saved while it is read for the `nth` time.
    fn read_while_it_is_saved(nth: usize) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f.toml");
        fs::write(&file, HALF).unwrap();
        let asked = AtomicUsize::new(0);
        // Whoever asks for a secret has read the text that names it.
        let env = |name: &str| {
            if name == "PORTKEY_API_KEY" && asked.fetch_add(1, Ordering::Relaxed) == nth {
                fs::write(&file, format!("{HALF}{REST}")).unwrap();
            }
            (!name.starts_with("STEPGATE_")).then(|| name.to_owned())
        };
        let sources = Sources {
            file: Some(file.clone()),
            flags: Flags::default(),
            env: &env,
        };
        let running = Config::parse(HALF, &sources).unwrap();
        read(&sources, &running, None).unwrap().config
    }

    #[test]
    fn a_file_that_is_saved_while_it_is_read_is_taken_whole() {
        for nth in 1..=2 {
            let config = read_while_it_is_saved(nth);
            assert_eq!(config.clients.len(), 1, "during reading {nth}");
        }
    }
}
