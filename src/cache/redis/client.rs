//! The connection to Redis: one server, or a cluster. Made on one runtime, used from all.
//!
//! Nothing is retried and nothing queues without a bound: a command has its command_timeout, and whoever waits
//! for it goes on without it when that is over. What was sent may still be carried out later, so every
//! write must be safe when it is late.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, RedisError,
    TlsCertificates,
};
use tokio::time::timeout;

use super::error::Trouble;
use crate::config;

/// A connection may take so many budgets: it is more than one round trip.
const TO_CONNECT: u32 = 5;

/// How a connection is made.
pub(super) struct Dialer {
    server: Server,
    /// For an operator: host and port, nothing that is secret.
    name: String,
    has_tls: bool,
    command_timeout: Duration,
}

enum Server {
    One(Box<Client>, AsyncConnectionConfig),
    Cluster(Box<ClusterClient>),
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl Dialer {
    /// Connects to nothing. TLS trusts `ca_file`, read here, or the system's roots, read at every connect.
    pub(super) fn new(config: &config::Redis) -> Result<Self, RedisError> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let to_connect = config.command_timeout * TO_CONNECT;
        let certificates = match &config.ca_file {
            None => None,
            Some(path) => Some(TlsCertificates {
                client_tls: None,
                root_cert: Some(std::fs::read(path)?),
            }),
        };
        let server = if let ([node], false) = (&config.nodes[..], config.is_cluster) {
            let info = node.expose().into_connection_info()?;
            let info = info.set_tcp_settings(tcp);
            let client = match certificates {
                None => Client::open(info)?,
                Some(certificates) => Client::build_with_tls(info, certificates)?,
            };
            let terms = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(to_connect))
                .set_response_timeout(None);
            Server::One(Box::new(client), terms)
        } else {
            let nodes = config.nodes.iter().map(|node| node.expose());
            let builder = match certificates {
                None => ClusterClient::builder(nodes),
                Some(certificates) => ClusterClient::builder(nodes).certs(certificates),
            };
            let client = builder
                .tcp_settings(tcp)
                .retries(1)
                .connection_timeout(to_connect)
                .response_timeout(config.command_timeout)
                .overall_response_timeout(Some(config.command_timeout))
                .build()?;
            Server::Cluster(Box::new(client))
        };
        Ok(Self {
            server,
            name: name(config),
            has_tls: config.nodes.iter().any(config::RedisUrl::has_tls),
            command_timeout: config.command_timeout,
        })
    }

    /// What an operator is told of it: which server, what it does, what would be right.
    pub(super) fn explain(&self, trouble: &Trouble) -> String {
        format!("{} {}", self.name, trouble.of_server(self.has_tls))
    }

    /// Its driver runs on the current runtime.
    pub(super) async fn dial(&self) -> Result<Link, Trouble> {
        // A cluster asks several of its nodes.
        let patience = self.command_timeout * TO_CONNECT * 4;
        let wire = timeout(patience, async {
            Ok::<_, RedisError>(match &self.server {
                Server::One(client, terms) => {
                    let terms = terms.clone();
                    Wire::One(
                        client
                            .get_multiplexed_async_connection_with_config(&terms)
                            .await?,
                    )
                }
                Server::Cluster(client) => Wire::Cluster(client.get_async_connection().await?),
            })
        });
        Ok(Link {
            wire: wire.await.map_err(|_| Trouble::Late)??,
            command_timeout: self.command_timeout,
        })
    }
}

/// One server, or the first of those that lead to a cluster.
fn name(config: &config::Redis) -> String {
    let first = config.nodes.first().map(config::RedisUrl::address);
    let first = first.unwrap_or_default();
    match (config.is_cluster, config.nodes.len()) {
        (false, _) => first,
        (true, 0 | 1) => format!("the cluster at {first}"),
        (true, nodes) => format!("the cluster at {first} (and {} more)", nodes - 1),
    }
}

/// A connection. Clones share it.
#[derive(Clone)]
pub(super) struct Link {
    wire: Wire,
    command_timeout: Duration,
}

#[derive(Clone)]
enum Wire {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// One command, within the command_timeout.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
        let answer = async {
            match self.wire.clone() {
                Wire::One(mut one) => command.query_async(&mut one).await,
                Wire::Cluster(mut cluster) => command.query_async(&mut cluster).await,
            }
        };
        let answer = timeout(self.command_timeout, answer).await;
        Ok(answer.map_err(|_| Trouble::Late)??)
    }
}
