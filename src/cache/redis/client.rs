//! The connection to one Redis server or to a cluster. The main runtime makes it, all runtimes use it.
//!
//! Commands are not retried here. A caller waits at most the command timeout. The server may still carry
//! out a command after that, so every write must be safe if it is late.

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

use super::error::RedisFailure;
use crate::config;

/// The time to connect, in command timeouts, because connecting takes several round trips.
const CONNECT_FACTOR: u32 = 5;

/// Makes connections.
pub(super) struct Connector {
    server: Server,
    /// Host and port of the server, for the operator. Contains no secret.
    name: String,
    has_tls: bool,
    command_timeout: Duration,
}

enum Server {
    Single(Box<Client>, AsyncConnectionConfig),
    Cluster(Box<ClusterClient>),
}

impl Connector {
    /// Prepares connections without making one. TLS trusts `ca_file`, which is read here, or the system's
    /// roots, which are read at every connect.
    pub(super) fn new(config: &config::Redis) -> Result<Self, RedisError> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let connect_timeout = config.command_timeout * CONNECT_FACTOR;
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
            let timeouts = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(connect_timeout))
                .set_response_timeout(None);
            Server::Single(Box::new(client), timeouts)
        } else {
            let nodes = config.nodes.iter().map(|node| node.expose());
            let builder = match certificates {
                None => ClusterClient::builder(nodes),
                Some(certificates) => ClusterClient::builder(nodes).certs(certificates),
            };
            let client = builder
                .tcp_settings(tcp)
                .retries(1)
                .connection_timeout(connect_timeout)
                .response_timeout(config.command_timeout)
                .overall_response_timeout(Some(config.command_timeout))
                .build()?;
            Server::Cluster(Box::new(client))
        };
        Ok(Self {
            server,
            name: server_name(config),
            has_tls: config.nodes.iter().any(config::RedisUrl::has_tls),
            command_timeout: config.command_timeout,
        })
    }

    /// Returns a message for the operator: which server failed, how, and what to change.
    pub(super) fn describe(&self, failure: &RedisFailure) -> String {
        format!("{} {}", self.name, failure.describe(self.has_tls))
    }

    /// Connects. The connection's task runs on the current runtime.
    pub(super) async fn connect(&self) -> Result<Connection, RedisFailure> {
        // The client of a cluster asks several of its nodes.
        let limit = self.command_timeout * CONNECT_FACTOR * 4;
        let transport = timeout(limit, async {
            Ok::<_, RedisError>(match &self.server {
                Server::Single(client, timeouts) => {
                    let connection = client.get_multiplexed_async_connection_with_config(timeouts);
                    Transport::Single(connection.await?)
                }
                Server::Cluster(client) => Transport::Cluster(client.get_async_connection().await?),
            })
        });
        Ok(Connection {
            transport: transport.await.map_err(|_| RedisFailure::TimedOut)??,
            command_timeout: self.command_timeout,
        })
    }
}

/// Returns the name of the server, or of the first node of a cluster.
fn server_name(config: &config::Redis) -> String {
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
pub(super) struct Connection {
    transport: Transport,
    command_timeout: Duration,
}

#[derive(Clone)]
enum Transport {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Sends one command and waits for its reply, at most the command timeout.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisFailure> {
        let reply = async {
            match self.transport.clone() {
                Transport::Single(mut single) => command.query_async(&mut single).await,
                Transport::Cluster(mut cluster) => command.query_async(&mut cluster).await,
            }
        };
        let reply = timeout(self.command_timeout, reply).await;
        Ok(reply.map_err(|_| RedisFailure::TimedOut)??)
    }
}
