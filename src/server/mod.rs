//! The server side: listeners, connections and their timeouts, the drain, and the admin listener with its page.
//!
//! Every wait has a limit, and every task runs on a tracker that the drain waits for.

mod admin;
mod connection;
mod drain;
mod fd_limit;
mod health;
mod listener;
pub mod systemd;
mod timeouts;
mod tls;
mod tracked_body;
mod tracked_io;
mod wake_filter;
mod workers;

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::TaskTracker;

pub use drain::Phase;
pub use health::{HealthError, check_ready};
pub use workers::Workers;

use crate::config::{Address, Config, Forward};
use crate::gateway::{ConnectionState, Gateway, GaugeGuard, MAX_FORWARDED};
use admin::AdminService;
use connection::ProxyHandler;
use drain::Drain;
use fd_limit::ConnectionLimits;
use listener::Listener;
use timeouts::Timeouts;
use tls::Tls;

/// A listener could not be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address.
    pub address: String,
    /// The reason.
    pub source: io::Error,
    /// The flag that sets another address.
    flag: &'static str,
}

impl BindError {
    /// Returns the error with its reason and the flag that may help.
    pub fn with_advice(&self) -> String {
        let Self { source, flag, .. } = self;
        let guess = match source.kind() == io::ErrorKind::AddrInUse {
            true => "is another stepgate running? ",
            false => "",
        };
        format!("{self}: {source}; {guess}choose another with {flag}")
    }
}

/// The open listeners of a gateway, and their connections.
#[derive(Debug)]
pub struct Listeners {
    data: Vec<Address>,
    admin: SocketAddr,
    tls: Option<Arc<Tls>>,
    gateway: Arc<Gateway>,
    admin_service: Arc<AdminService>,
    drain: Drain,
    connections: TaskTracker,
    admin_tasks: TaskTracker,
    drain_timeout: Duration,
    lame_duck: Duration,
}

impl Listeners {
    /// Opens every listener and begins to accept. Accepting, and everything of the admin listener, runs on the
    /// current runtime, so that it never waits for clients. The connections of clients run on `workers`.
    ///
    /// # Errors
    /// [`BindError`] for the first listener that cannot be opened. In this case none stays open.
    pub fn open(
        config: &Config,
        gateway: &Arc<Gateway>,
        workers: &Workers,
    ) -> Result<Self, BindError> {
        let bind = |address: &Address, shown: &dyn Display, flag| {
            Listener::bind(address).map_err(|source| BindError {
                address: shown.to_string(),
                source,
                flag,
            })
        };
        let server = &config.server;
        let mut listeners = Vec::new();
        for address in &server.listen {
            listeners.push(bind(address, address, "--listen")?);
        }
        let address = config.admin.listen;
        let admin_listener = bind(&Address::Tcp(address), &address, "--admin")?;
        let Address::Tcp(admin) = admin_listener.address().clone() else {
            unreachable!("a TCP address was bound");
        };

        let drain = Drain::new();
        let connections = TaskTracker::new();
        let admin_tasks = TaskTracker::new();
        let timeouts = Timeouts {
            header: server.header_timeout,
            idle: server.idle_timeout,
        };
        let tls = server.tls.as_ref().map(|tls| Arc::new(Tls::new(tls)));
        let wanted = ConnectionLimits {
            data: server.max_connections.min(Semaphore::MAX_PERMITS),
            admin: admin::MAX_CONNECTIONS,
        };
        let max_forwarded = match server.forward {
            Forward::Rules => 0,
            Forward::All => MAX_FORWARDED,
        };
        let fetches = config.upstream.max_in_flight.saturating_add(max_forwarded);
        let limits = ConnectionLimits::within_fd_limit(wanted, fetches);
        // All data listeners share one limit.
        let permits = Arc::new(Semaphore::new(limits.data));
        let phase = drain.subscribe();
        let mut data = Vec::new();
        for listener in listeners {
            let address = listener.address().clone();
            tracing::info!(on = %"data", %address, "listening");
            data.push(address);
            let (gateway, phase, tls) = (Arc::clone(gateway), phase.clone(), tls.clone());
            connections.spawn(listener.accept(
                workers.clone(),
                Arc::clone(&permits),
                phase.clone(),
                connections.clone(),
                move |accepted| {
                    let open = GaugeGuard::new(&gateway.gauges().connections);
                    let (gateway, phase) = (Arc::clone(&gateway), phase.clone());
                    let tls = tls.clone();
                    async move {
                        let handler = |transport| ProxyHandler {
                            gateway,
                            state: ConnectionState::new(transport),
                        };
                        connection::serve(accepted, tls, handler, timeouts, phase).await;
                        drop(open);
                    }
                },
            ));
        }
        tracing::info!(
            on = %"admin",
            address = %admin,
            upstream = %config.upstream.base_url,
            "listening"
        );
        let admin_service = Arc::new(AdminService::new(
            &config.admin,
            Arc::clone(gateway),
            drain.subscribe(),
            &data,
            tls.is_some(),
        ));
        // The admin listener serves during the drain, for `/ready` and a last scrape.
        let end = drain.subscribe_end();
        let service = Arc::clone(&admin_service);
        admin_tasks.spawn(admin_listener.accept(
            Workers::current(),
            Arc::new(Semaphore::new(limits.admin)),
            end.clone(),
            admin_tasks.clone(),
            move |accepted| {
                let service = Arc::clone(&service);
                connection::serve(accepted, None, |_| service, timeouts, end.clone())
            },
        ));
        Ok(Self {
            gateway: Arc::clone(gateway),
            admin_service,
            data,
            admin,
            tls,
            drain,
            connections,
            admin_tasks,
            drain_timeout: server.drain_timeout,
            lame_duck: server.lame_duck,
        })
    }

    /// Applies the parts of another configuration that can change at run time: the admin token and TLS.
    pub(crate) fn apply_config(&self, config: &Config) {
        self.admin_service.apply_config(&config.admin);
        if let (Some(current), Some(tls)) = (&self.tls, &config.server.tls) {
            current.replace(tls);
        }
    }

    /// Returns the addresses of the data listeners. A port 0 is resolved.
    pub fn data(&self) -> &[Address] {
        &self.data
    }

    /// Returns the address of the admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Drains, and returns within `server.drain_timeout` whether every request was answered.
    ///
    /// The gateway is not ready from now on. After `lame_duck` it accepts no connection. One second before the
    /// end it answers the remaining requests with 503 `draining`.
    pub async fn drain(self) -> bool {
        let end = Instant::now() + self.drain_timeout;
        if !self.lame_duck.is_zero() {
            self.drain.enter(Phase::LameDuck);
            tracing::info!("lame duck: not ready, and still accepting");
            sleep(self.lame_duck.min(self.drain_timeout)).await;
        }

        self.drain.enter(Phase::Draining);
        self.gateway.begin_drain();
        tracing::info!("draining");
        self.connections.close();
        let last_second = end.checked_sub(drain::LAST_SECOND).unwrap_or(end);
        let mut is_done = timeout_at(last_second, self.connections.wait())
            .await
            .is_ok();
        if !is_done {
            self.drain.enter(Phase::Closing);
            self.gateway.close();
            tracing::warn!(
                connections = self.connections.len(),
                "draining: the remaining requests are answered with 503"
            );
            is_done = timeout_at(end, self.connections.wait()).await.is_ok();
        }
        self.drain.finish();
        self.admin_tasks.close();
        // A slow reader of /metrics must not delay the end.
        let _ = timeout(drain::ADMIN_GRACE, self.admin_tasks.wait()).await;
        is_done
    }
}
