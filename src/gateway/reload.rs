//! Another configuration comes into force, between two requests.

use std::sync::PoisonError;

use serde_json::json;

use super::setup::Setup;
use super::{Gateway, wall_clock};
use crate::config::Config;
use crate::upstream::SetupError;

/// What became of reading a configuration, or its secrets, anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Reload {
    /// When, in seconds since 1970.
    at: f64,
    /// What was wrong, a line each; then the old one stays. Never a secret.
    problems: Vec<String>,
    /// Keys that differ from what runs, and wait for a restart.
    restart: Vec<&'static str>,
}

/// A configuration that is ready to come into force.
#[derive(Debug)]
pub struct Prepared(Setup);

impl Gateway {
    /// Builds what `config` means, without any effect yet.
    ///
    /// # Errors
    /// [`SetupError`] where the upstream's TLS cannot be prepared.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, SetupError> {
        let number = self.setup.load().number + 1;
        Setup::new(config, &self.metrics, number).map(Prepared)
    }

    /// Puts it in force for whatever arrives from now on. Requests that came before, and their
    /// fetches, end as they began, and store nothing.
    pub fn put_in_force(&self, prepared: Prepared) {
        // In this order: see where a flight departs.
        let before = self.setup.swap(prepared.0.into());
        self.cache.fence_in_flight();
        before.upstream.retire();
        self.metrics
            .secrets_loaded(wall_clock::seconds_since_1970());
    }

    /// Remembers for the status, and counts, what became of a reload: the keys that wait for a
    /// restart, or what was wrong.
    pub fn note_reload(&self, outcome: Result<Vec<&'static str>, Vec<String>>) {
        self.metrics.reloaded(outcome.is_ok());
        let (restart, problems) = match outcome {
            Ok(restart) => (restart, Vec::new()),
            Err(problems) => (Vec::new(), problems),
        };
        let reload = Reload {
            at: wall_clock::seconds_since_1970(),
            problems,
            restart,
        };
        *self
            .last_reload
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(reload);
    }

    /// The last reload, for the status; null where there was none.
    pub(super) fn last_reload(&self) -> serde_json::Value {
        let last = self.last_reload.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner).clone();
        last.map_or(serde_json::Value::Null, |reload| {
            json!({
                "result": if reload.problems.is_empty() { "success" } else { "failure" },
                "timestamp_seconds": reload.at,
                "problems": reload.problems,
                "needs_restart": reload.restart,
            })
        })
    }
}
