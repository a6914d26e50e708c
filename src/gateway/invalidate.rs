//! Purges: by an operator, and by requests that change a resource (RFC 9111 section 4.4).

use std::sync::Arc;

use hyper::http::request::Parts;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::fetch::FetchContext;
use super::runtime_config::RuntimeConfig;
use super::telemetry::request_log::shows_ids;
use crate::policy::{PurgeScope, ResourcePrefix, invalidated_by};

/// Why nothing was purged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PurgeError {
    /// No rule has this name.
    #[error("there is no rule `{0}`")]
    NoRule(String),
    /// More ids than the rule's path has, which has this many.
    #[error("the paths of this rule have {0} ids; write /cache/RULE/ID[/ID…] with at most as many")]
    TooManyIds(usize),
}

/// What a purge did.
#[derive(Debug)]
pub struct Purge {
    /// How many bodies were removed from this gateway's memory.
    pub purged: usize,
    /// Completes when the fleet knows. `None` without a shared tier.
    pub shared: Option<oneshot::Receiver<()>>,
}

/// Removes what a rule stored below these leading ids, and announces it to the fleet.
///
/// # Errors
/// [`PurgeError`]; then nothing is removed.
pub(super) fn purge(context: &FetchContext, rule: &str, ids: &[&str]) -> Result<Purge, PurgeError> {
    let config = context.config.load();
    let known = config.rules.iter().find(|known| known.name() == rule);
    let known = known.ok_or_else(|| PurgeError::NoRule(rule.to_owned()))?;
    let most = known.path().parameters().count();
    if ids.len() > most {
        return Err(PurgeError::TooManyIds(most));
    }
    // The announcement comes first. Otherwise a body that is read from the shared tier after the
    // barrier is up would be kept.
    let shared = context.cache.announce_purge(known.name(), ids);
    let purged = context.cache.purge(&PurgeScope::prefix(known.name(), ids));
    let logged_ids = shows_ids(&config).then(|| ids.join("/"));
    tracing::info!(rule, ids = logged_ids, depth = ids.len(), purged, "purged");
    Ok(Purge { purged, shared })
}

/// The purge that an unsafe request causes. A drop before [`Invalidation::apply`] purges, too: the upstream
/// may have carried out the request although its response never came.
pub(super) struct Invalidation<'a> {
    context: &'a Arc<FetchContext>,
    config: &'a Arc<RuntimeConfig>,
    prefixes: Vec<ResourcePrefix>,
    /// Whether the upstream's response confirms the change.
    confirmed: bool,
}

impl<'a> Invalidation<'a> {
    /// Returns what the request may change.
    pub(super) fn of(
        context: &'a Arc<FetchContext>,
        config: &'a Arc<RuntimeConfig>,
        head: &Parts,
    ) -> Self {
        Self {
            context,
            config,
            prefixes: invalidated_by(&config.rules, &head.method, head.uri.path()),
            confirmed: false,
        }
    }

    /// Notes that the upstream changed nothing.
    pub(super) fn cancel(&mut self) {
        self.prefixes.clear();
    }

    /// Notes that the upstream confirmed the change.
    pub(super) fn confirm(&mut self) {
        self.confirmed = true;
    }

    /// Purges, and returns when this gateway's memory is done.
    pub(super) async fn apply(mut self) {
        if let Some(task) = self.start() {
            // A panic of the task has been logged already.
            let _ = task.await;
        }
    }

    /// Starts the purge on a blocking thread, since it walks all entries.
    fn start(&mut self) -> Option<JoinHandle<()>> {
        let mut prefixes = std::mem::take(&mut self.prefixes);
        // An unconfirmed change may cost the entries below some ids, but not all entries of a rule.
        prefixes.retain(|(_, ids)| self.confirmed || !ids.is_empty());
        if prefixes.is_empty() {
            return None;
        }
        let (context, config) = (Arc::clone(self.context), Arc::clone(self.config));
        Some(tokio::task::spawn_blocking(move || {
            for (rule, ids) in prefixes {
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                // No request waits until the fleet knows. An error means that a reload has removed the
                // rule, which stores nothing any more.
                drop(purge(&context, config.rules[rule].name(), &ids));
            }
        }))
    }
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        self.start();
    }
}
