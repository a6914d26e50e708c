//! A configuration for a gateway that runs already: what it can take up, and what waits for a
//! restart.

use std::path::{Path, PathBuf};

use super::diagnostics::{Notes, Place};
use super::validate::{self, Placed};
use super::{Config, Problems, Redis, Secret, SecretSource, Sources, Tls, Value};

/// A configuration that a running gateway can take up.
#[derive(Debug)]
pub struct ReloadPlan {
    /// As it will run.
    pub config: Config,
    /// The keys of the file that differ from what runs, and wait for a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Takes over from `running` what needs a restart, and names what differs.
macro_rules! keep {
    ($new:ident, $running:ident, $($($key:ident).+),+ $(,)?) => {{
        let mut differing = Vec::new();
        $(if $new.$($key).+ != $running.$($key).+ {
            $new.$($key).+.clone_from(&$running.$($key).+);
            differing.push(concat!($(".", stringify!($key)),+).trim_start_matches('.'));
        })+
        differing
    }};
}

impl Config {
    /// Reads `text` for a gateway that runs with `self`. It must be valid as it is written, and with
    /// the listeners and limits that stay as they are.
    ///
    /// # Errors
    /// All problems at once, each with its place.
    pub fn plan_reload(&self, text: &str, sources: &Sources<'_>) -> Result<ReloadPlan, Problems> {
        let mut config = Self::parse(text, sources)?;
        let mut needs_restart = keep!(
            config,
            self,
            server.listen,
            server.max_connections,
            server.max_long_polls,
            server.header_timeout,
            server.idle_timeout,
            server.drain_timeout,
            server.lame_duck,
            admin.listen,
            upstream.max_in_flight,
            upstream.queue_timeout,
            upstream.coalesce_window,
            cache.max_bytes,
            cache.redis,
            log.format,
        );
        // Another certificate is taken up; whether there is one at all belongs to the listeners.
        if config.server.tls.is_some() != self.server.tls.is_some() {
            config.server.tls.clone_from(&self.server.tls);
            needs_restart.push("server.tls");
        }
        let path = sources
            .file
            .as_deref()
            .unwrap_or(Path::new("configuration"));
        let notes = Notes::new(path, text);
        let named = |name: &str, times: usize| vec![Place::name(name); times];
        let placed = Placed {
            listen: named("server.listen (as it runs)", config.server.listen.len()),
            admin: Place::name("admin.listen (as it runs)"),
            forwarded: named("upstream.vary_headers", config.upstream.vary_headers.len()),
            has_clients: !config.clients.is_empty(),
        };
        validate::check(&config, &placed, &notes);
        notes.finish().map_or(
            Ok(ReloadPlan {
                config,
                needs_restart,
            }),
            Err,
        )
    }

    /// All secrets that it names.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let clients = self.clients.iter();
        let headers = self
            .upstream
            .headers
            .iter()
            .chain(clients.clone().flat_map(|client| &client.headers));
        let injected = headers.filter_map(|header| match &header.value {
            Value::Secret(secret) => Some(secret),
            Value::Literal(_) => None,
        });
        let tokens = clients.flat_map(|client| &client.tokens);
        let shared = self.cache.redis.iter().flat_map(Redis::secrets);
        injected
            .chain(tokens)
            .chain(&self.admin.token)
            .chain(shared)
    }

    /// The files beside its own that it was read from: secrets and certificates.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self
            .secrets()
            .filter_map(|secret| match secret.source() {
                SecretSource::File(path) => Some(path.clone()),
                SecretSource::Env(_) => None,
            })
            .chain(self.upstream.ca_file.clone())
            .chain(self.server.tls.iter().flat_map(Tls::files))
            .collect();
        files.sort();
        files.dedup();
        files
    }
}
