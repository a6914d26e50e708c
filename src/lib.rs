//! stepgate: a caching sidecar for run-step polling.
//!
//! Services poll `GET /v1/threads/{thread_id}/runs/{run_id}/steps/{step_id}` until the step ends,
//! and again afterwards. stepgate injects the credentials, fetches every live step afresh, and
//! answers from memory once a step is final.
//!
//! # The way of a request
//! Data flows one way, down this list; an answer comes back the same way. Imports point down it,
//! too (`tests/it/house.rs` holds them to it).
//!
//! | room | what it owns |
//! |---|---|
//! | `main.rs` | the command line: serve, check, demo, health; exit codes |
//! | [`demo`] | the sandbox upstream, the pollers, the live view |
//! | this file | builds a gateway from a configuration and starts it |
//! | [`reload`] | the configuration and its secrets, read anew |
//! | [`server`] | the edge: listeners, connection limits, drain, the admin listener and its page, what a service manager is told |
//! | [`gateway`] | the pipeline: admit, authorise, look up, fly, check, store, answer |
//! | [`upstream`] | the client: connections, TLS, deadlines, what may pass up and down |
//! | [`coalesce`] | when a fetch may depart |
//! | [`cache`] | final bodies, and the walls that purges put up; the tier that a fleet shares |
//! | [`config`] | the file as written, the configuration as meant, secrets |
//! | [`policy`] | pure: rules and paths, what a body says, the verdict, the key |
//!
//! # Threads
//! Callers are served by a crew of threads with a runtime each ([`server::Workers`]); listeners, the admin
//! listener and reloads have the main one. What callers share (the cache, the book of live steps, the
//! counters) is locked for moments only, and nothing waits under a lock. The connection to Redis lives on
//! the main one; requests wait for it where they are, for no longer than its budget.
//!
//! # Bounds
//! Memory: `cache.max_bytes` for what is stored, `upstream.max_in_flight` ×
//! `cache.max_entry_bytes` for what is under way, and some kilobytes a connection. A larger body
//! passes through without being held, and so does all that is forwarded for a caller: 1,024 requests at
//! most, each with what its two connections read ahead, some hundred KiB. A shared tier
//! adds 16 MiB of bodies on their way there, 256 look-ups × `cache.max_entry_bytes`, and some 20 MiB of
//! what was asked. All threads share one heap: of glibc's own, one a thread, each would keep what bodies
//! leave behind.

#![forbid(unsafe_code)]

pub mod cache;
pub mod coalesce;
pub mod config;
pub mod demo;
pub mod gateway;
pub mod policy;
pub mod reload;
pub mod server;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use config::{Address, Config};
use gateway::Gateway;
use server::{Listeners, Workers};

/// Why a gateway did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The upstream cannot be used as configured.
    #[error(transparent)]
    Setup(#[from] upstream::SetupError),
    /// A listener cannot be opened.
    #[error(transparent)]
    Bind(#[from] server::BindError),
}

/// A running gateway.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    edge: Listeners,
    /// What keeps the shared tier and the history, and what ends it.
    keeping: (TaskTracker, DropGuard),
}

impl Server {
    /// Builds a gateway and opens its listeners. Callers are served by `crew`, everything else runs on
    /// the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left open then.
    pub async fn start(config: Config, crew: &Workers) -> Result<Self, StartError> {
        let gateway = Arc::new(Gateway::new(&config)?);
        let end = CancellationToken::new();
        let keeping = TaskTracker::new();
        keeping.spawn(Arc::clone(&gateway).sync_shared_tier(end.clone()));
        keeping.spawn(Arc::clone(&gateway).record_history(end.clone()));
        gateway.shared_tier_tried().await;
        let edge = Listeners::open(&config, &gateway, crew)?;
        Ok(Self {
            gateway,
            edge,
            keeping: (keeping, end.drop_guard()),
        })
    }

    /// Puts another configuration in force for whatever arrives from now on; all of it or, where
    /// something cannot be prepared, nothing. Listeners and limits stay as they are.
    ///
    /// # Errors
    /// [`upstream::SetupError`]; nothing has changed then.
    pub fn take_up(&self, config: &Config) -> Result<(), upstream::SetupError> {
        let prepared = self.gateway.prepare(config)?;
        self.edge.take_up(config);
        self.gateway.swap_config(prepared);
        Ok(())
    }

    /// Counts a reload, and shows it in the status: the keys that wait for a restart, or what was
    /// wrong.
    pub fn note_reload(&self, outcome: Result<Vec<&'static str>, Vec<String>>) {
        self.gateway.record_reload(outcome);
    }

    /// Where it listens for data; a port 0 is resolved.
    pub fn data(&self) -> &[Address] {
        self.edge.data()
    }

    /// Where the admin listener listens.
    pub fn admin(&self) -> SocketAddr {
        self.edge.admin()
    }

    /// Ends it gracefully, within `server.drain_timeout`. Returns whether every accepted request
    /// was answered.
    pub async fn drain(self) -> bool {
        let all_answered = self.edge.drain().await;
        let (keeping, end) = self.keeping;
        drop(end);
        keeping.close();
        keeping.wait().await;
        all_answered
    }
}
