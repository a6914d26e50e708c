//! The edge: listeners, connections and their limits, drain, the admin listener and its page.
//!
//! Everything that waits here waits with a limit, and everything that runs here runs on the tracker
//! that drain waits for.

mod admin;
mod connection;
mod drain;
mod fd_limit;
mod health;
mod listener;
mod page;
pub mod systemd;
mod timeouts;
mod tls;
mod tracked_body;
mod tracked_io;
mod wake_filter;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub use drain::Phase;
pub use health::{HealthError, check_ready};
pub use workers::Workers;

use crate::config::{Address, Config, Forward};
use crate::gateway::{ConnectionState, Gateway, GaugeGuard, MAX_FORWARDED};
use admin::AdminService;
use connection::Data;
use drain::Drain;
use fd_limit::Shares;
use listener::Listener;
use timeouts::Limits;
use tls::Tls;

/// A listener could not be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// Where.
    pub address: String,
    /// Why not.
    pub source: io::Error,
    /// The flag that names another.
    flag: &'static str,
}

impl BindError {
    /// With the reason, and what may help.
    pub fn with_advice(&self) -> String {
        let Self { source, flag, .. } = self;
        let other = match self.is_taken() {
            true => "is another stepgate running? ",
            false => "",
        };
        format!("{self}: {source}; {other}choose another with {flag}")
    }

    /// Somebody else listens there.
    pub fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// A gateway at work: its listeners and their connections.
#[derive(Debug)]
pub struct Listeners {
    data: Vec<Address>,
    admin: SocketAddr,
    tls: Option<Arc<Tls>>,
    gateway: Arc<Gateway>,
    desk: Arc<AdminService>,
    drain: Drain,
    connections: TaskTracker,
    admin_tasks: TaskTracker,
    drain_timeout: std::time::Duration,
    lame_duck: std::time::Duration,
}

impl Listeners {
    /// Opens every listener and starts to accept: on the current runtime, as everything of the admin
    /// listener is, so that it never waits for callers; their connections are the crew's.
    ///
    /// # Errors
    /// [`BindError`] for the first listener that cannot be opened; none is left open then.
    pub fn open(
        config: &Config,
        gateway: &Arc<Gateway>,
        crew: &Workers,
    ) -> Result<Self, BindError> {
        let failed = |address: &dyn std::fmt::Display, flag| {
            let address = address.to_string();
            move |source| BindError {
                address,
                source,
                flag,
            }
        };
        let server = &config.server;
        let mut listeners = Vec::new();
        for address in &server.listen {
            listeners.push(Listener::bind(address).map_err(failed(address, "--listen"))?);
        }
        let admin_listener = Listener::bind(&Address::Tcp(config.admin.listen))
            .map_err(failed(&config.admin.listen, "--admin"))?;
        let Address::Tcp(admin) = admin_listener.address().clone() else {
            unreachable!("a TCP address was bound");
        };

        let (drain, watch) = drain::channel();
        let connections = TaskTracker::new();
        let admin_tasks = TaskTracker::new();
        let limits = Limits {
            header: server.header_timeout,
            idle: server.idle_timeout,
        };
        // One limit for all data listeners together; the admin listener has its own small one.
        let tls = server.tls.as_ref().map(|tls| Arc::new(Tls::new(tls)));
        let wanted = Shares {
            data: server.max_connections.min(Semaphore::MAX_PERMITS),
            admin: admin::MAX_CONNECTIONS,
        };
        let journeys = match server.forward {
            Forward::Rules => 0,
            Forward::All => MAX_FORWARDED,
        };
        let fetches = config.upstream.max_in_flight.saturating_add(journeys);
        let shares = Shares::within_the_limit(wanted, fetches);
        let slots = Arc::new(Semaphore::new(shares.data));
        let mut data = Vec::new();
        for listener in listeners {
            let address = listener.address().clone();
            tracing::info!(on = %"data", %address, "listening");
            data.push(address);
            let (gateway, watch, tls) = (Arc::clone(gateway), watch.clone(), tls.clone());
            connections.spawn(listener.accept(
                crew.clone(),
                Arc::clone(&slots),
                watch.clone(),
                connections.clone(),
                move |accepted| {
                    let open = GaugeGuard::new(&gateway.gauges().connections);
                    let (gateway, watch) = (Arc::clone(&gateway), watch.clone());
                    let tls = tls.clone();
                    async move {
                        let data = |door| Data {
                            gateway,
                            caller: ConnectionState::new(door),
                        };
                        connection::serve(accepted, tls, data, limits, watch).await;
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
        let desk = AdminService::new(&config.admin, Arc::clone(gateway), drain.watch());
        let desk = Arc::new(desk.beside(&data, tls.is_some()));
        // It goes on through the drain, so that `/ready` can say so and a last scrape succeed.
        let until_the_end = drain.end();
        let at_the_desk = Arc::clone(&desk);
        admin_tasks.spawn(admin_listener.accept(
            Workers::here(),
            Arc::new(Semaphore::new(shares.admin)),
            until_the_end.clone(),
            admin_tasks.clone(),
            move |accepted| {
                let desk = Arc::clone(&at_the_desk);
                let desk = |_| admin::service(desk);
                connection::serve(accepted, None, desk, limits, until_the_end.clone())
            },
        ));
        Ok(Self {
            gateway: Arc::clone(gateway),
            desk,
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

    /// Takes from another configuration what can change while it runs.
    pub(crate) fn take_up(&self, config: &Config) {
        self.desk.take_up(&config.admin);
        if let (Some(in_force), Some(tls)) = (&self.tls, &config.server.tls) {
            in_force.replace(tls);
        }
    }

    /// Where the data listeners listen; a port 0 is resolved.
    pub fn data(&self) -> &[Address] {
        &self.data
    }

    /// Where the admin listener listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Not ready from now on; after the lame-duck time no new connections; every accepted request
    /// is answered, with 503 `draining` if it still flies one second before the end. Returns by
    /// `server.drain_timeout`, whether everything was answered by then.
    pub async fn drain(self) -> bool {
        let end = Instant::now() + self.drain_timeout;
        if !self.lame_duck.is_zero() {
            self.drain.enter(Phase::LameDuck);
            tracing::info!("lame duck: not ready, and still accepting");
            tokio::time::sleep(self.lame_duck.min(self.drain_timeout)).await;
        }

        self.drain.enter(Phase::Draining);
        self.gateway.begin_drain();
        tracing::info!("draining");
        self.connections.close();
        let last_second = end.checked_sub(drain::LAST_SECOND).unwrap_or(end);
        let mut done = tokio::time::timeout_at(last_second, self.connections.wait())
            .await
            .is_ok();
        if !done {
            self.drain.enter(Phase::Closing);
            self.gateway.close();
            tracing::warn!(
                connections = self.connections.len(),
                "draining: what still flies is answered with 503"
            );
            done = tokio::time::timeout_at(end, self.connections.wait())
                .await
                .is_ok();
        }
        self.drain.finish();
        self.admin_tasks.close();
        // Its connections were told to end; a slow reader of /metrics does not hold us up.
        let _ = tokio::time::timeout(drain::ADMIN_GRACE, self.admin_tasks.wait()).await;
        done
    }
}
