//! Reload: which settings a running gateway can change, and which ones need a restart.

use std::path::{Path, PathBuf};

use super::diagnostics::{Diagnostics, SourceSpan};
use super::load::UNNAMED_FILE;
use super::validate::{self, Spans};
use super::{Config, Problems, Redis, Secret, SecretSource, Sources, Tls, Value};

/// Holds a configuration that a running gateway can apply.
#[derive(Debug)]
pub struct ReloadPlan {
    /// Holds the configuration that will run after the reload.
    pub config: Config,
    /// Names the keys whose new values need a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Copies the given keys from `$running` to `$new`, and returns the names of those that differ.
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
    /// Validates `text` as the new configuration of a gateway that runs with `self`.
    ///
    /// The text must be valid as it is written. It must also be valid in combination with the listeners
    /// and limits that need a restart.
    ///
    /// # Errors
    /// Returns all problems at once, each with its place.
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
        // A certificate can be replaced by a reload. TLS itself can only be turned on or off by a restart.
        if config.server.tls.is_some() != self.server.tls.is_some() {
            config.server.tls.clone_from(&self.server.tls);
            needs_restart.push("server.tls");
        }
        let path = sources.file.as_deref().unwrap_or(Path::new(UNNAMED_FILE));
        let diagnostics = Diagnostics::new(path, text);
        let named = |name: &str, count: usize| vec![SourceSpan::name(name); count];
        let spans = Spans {
            listen: named("server.listen (as it runs)", config.server.listen.len()),
            admin: SourceSpan::name("admin.listen (as it runs)"),
            vary_headers: named("upstream.vary_headers", config.upstream.vary_headers.len()),
            has_clients: !config.clients.is_empty(),
        };
        validate::check(&config, &spans, &diagnostics);
        diagnostics.finish().map_or(
            Ok(ReloadPlan {
                config,
                needs_restart,
            }),
            Err,
        )
    }

    /// Returns all secrets of the configuration.
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

    /// Returns the files of secrets and certificates that the configuration was read from.
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
