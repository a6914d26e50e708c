//! stepgate is a caching reverse-proxy sidecar for resources that are polled until they are final.
//!
//! The built-in resource is a run step, `GET /v1/threads/{thread_id}/runs/{run_id}/steps/{step_id}`.
//! Internal services poll stepgate in place of the upstream. stepgate injects the credentials,
//! coalesces the requests for a live resource into few fetches, and answers from memory once the
//! resource is final.
//!
//! # Architecture
//! A request passes down this list, and its response comes back the same way. Imports point down the
//! list, too; `tests/it/architecture.rs` checks that.
//!
//! | module | what it owns |
//! |---|---|
//! | `main.rs` | the command line, the log and the exit codes |
//! | [`demo`] | a sandbox upstream, pollers, a live view |
//! | this file | builds a gateway from a configuration and starts it |
//! | [`reload`] | SIGHUP, and secret files that change |
//! | [`server`] | listeners, connections, timeouts, drain, TLS, systemd; the admin listener and its page |
//! | [`gateway`] | the pipeline: parse, authenticate, look up, fetch, respond |
//! | [`coalesce`] | one fetch for many requests: batches, the concurrency limit, the Retry-After gate, long polls |
//! | [`cache`] | final bodies in memory, purge barriers, the shared tier in Redis |
//! | [`upstream`] | the connection pool, TLS, deadlines, header policy, the secret scanner |
//! | [`config`] | loads, validates and prints the configuration |
//! | [`policy`] | rules, routes, queries, keys, cacheability; pure, without IO and without a clock |
//!
//! # Glossary
//! - **client**: the program that sends requests (RFC 9110). A *configured client* is a `[[client]]`.
//! - **downstream, upstream**: the side of the clients, and the service that stepgate fetches from.
//! - **resource**: what a rule makes cacheable. It is *live* until its status is terminal, then *final*.
//! - **fetch**: a request of stepgate's own to the upstream. A *poll* is a client's request for a resource.
//! - **partition**: the requests that may share bodies and fetches, because stepgate sends the same upstream
//!   for them.
//! - **coalescing**: several requests share one fetch (`collapsed` in RFC 9211).
//! - **leader, waiter, batch**: the leader's request starts the fetch; its result answers every waiter
//!   in the batch.
//! - **sequence number** (`seq`): the order in which fetches start. An older fetch never replaces the
//!   result of a newer one.
//! - **purge barrier**: a fetch that started before the barrier stores nothing.
//! - **permit**: the right to have one fetch in flight, out of `upstream.max_in_flight`.
//! - **Retry-After gate**: blocks fetches after an upstream 429. One *probe* goes first when it reopens.
//! - **long poll**: a request with `Prefer: wait=N` (RFC 7240) that waits for a final resource.
//! - **cacheability**: whether a response may be stored, and if not, the reason.
//! - **final regression**: a resource that was final is live again; its stored body is removed.
//! - **bypass**: a request is forwarded without the cache (RFC 9211).
//! - **invalidation**: an unsafe request removes what it may have changed (RFC 9111 section 4.4).
//! - **drain**: the end of the process, in which every accepted request is still answered.
//! - **runtime config**: a snapshot of the configuration, replaced as a whole by a reload.
//! - **shared tier**: a Redis behind the memory cache, shared by the gateways of a *fleet*.
//! - **circuit breaker**: skips the shared tier after repeated failures, until a probe succeeds.
//! - **transport**: how a client is connected: TCP, TLS or a unix socket.
//!
//! # Threads
//! Clients are served by worker threads with one tokio runtime each ([`server::Workers`]). The main
//! thread runs the listeners, the admin listener, reloads and the connection to Redis. The cache, the
//! coalescer and the counters are shared between threads. Their locks are held for short sections, and
//! no task awaits while it holds one.
//!
//! # Memory
//! Memory is bounded by the sum of these:
//! - `cache.max_bytes` for stored bodies, keys and overhead.
//! - `upstream.max_in_flight` × `cache.max_entry_bytes` for fetches in flight. A larger body is
//!   streamed and never buffered whole.
//! - Some KiB for each connection.
//! - Some hundred KiB for each forwarded request, of which there are at most 1,024.
//! - With a shared tier: 16 MiB of bodies that wait to be written, 256 × `cache.max_entry_bytes` for
//!   lookups, and about 20 MiB for keys and purges.
//!
//! On glibc, all threads share one heap: with one heap for each thread, each of them would keep the
//! memory that bodies leave behind.

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

/// Says why a gateway did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The TLS of the upstream or of a listener cannot be prepared.
    #[error(transparent)]
    Setup(#[from] upstream::SetupError),
    /// A listener cannot be opened.
    #[error(transparent)]
    Bind(#[from] server::BindError),
}

/// Runs a gateway: its listeners and its background tasks.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    listeners: Listeners,
    /// Tasks that serve no request: the upkeep of the shared tier and the traffic history.
    background: TaskTracker,
    /// Cancels `background` when dropped.
    stop_background: DropGuard,
}

impl Server {
    /// Builds a gateway and opens its listeners. `workers` serve the clients; all other tasks run on
    /// the current tokio runtime.
    ///
    /// # Errors
    /// Returns a [`StartError`] if the configuration cannot be prepared or a listener cannot be
    /// opened. No listener stays open then.
    pub async fn start(config: Config, workers: &Workers) -> Result<Self, StartError> {
        let gateway = Arc::new(Gateway::new(&config)?);
        let (background, stop) = (TaskTracker::new(), CancellationToken::new());
        background.spawn(Arc::clone(&gateway).sync_shared_tier(stop.clone()));
        background.spawn(Arc::clone(&gateway).record_history(stop.clone()));
        gateway.shared_tier_tried().await;
        let listeners = Listeners::open(&config, &gateway, workers)?;
        Ok(Self {
            gateway,
            listeners,
            background,
            stop_background: stop.drop_guard(),
        })
    }

    /// Replaces the configuration for all requests that arrive from now on. Listeners and limits stay
    /// as they are.
    ///
    /// # Errors
    /// Returns a [`upstream::SetupError`] if TLS cannot be prepared. Nothing has changed then.
    pub fn apply_config(&self, config: &Config) -> Result<(), upstream::SetupError> {
        let prepared = self.gateway.prepare(config)?;
        self.listeners.apply_config(config);
        self.gateway.swap_config(prepared);
        Ok(())
    }

    /// Counts a reload and shows it in `/status`. `result` holds the keys that need a restart, or the
    /// problems.
    pub fn record_reload(&self, result: Result<Vec<&'static str>, Vec<String>>) {
        self.gateway.record_reload(result);
    }

    /// Returns the addresses of the data listeners, with a port 0 resolved.
    pub fn data(&self) -> &[Address] {
        self.listeners.data()
    }

    /// Returns the address of the admin listener, with a port 0 resolved.
    pub fn admin(&self) -> SocketAddr {
        self.listeners.admin()
    }

    /// Stops the gateway within `server.drain_timeout`. Returns whether every accepted request was
    /// answered.
    pub async fn drain(self) -> bool {
        let all_answered = self.listeners.drain().await;
        drop(self.stop_background);
        self.background.close();
        self.background.wait().await;
        all_answered
    }
}
