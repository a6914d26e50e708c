//! What holds where neither flag, environment nor file says anything.
//!
//! `config/stepgate.toml` spells the same values out, with the reason for each; a test compares.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Access, Address, Admin, BaseUrl, Cache, Forward, Log, LogFormat, Server, Upstream};

/// A header that is injected without being asked for.
pub(super) struct BuiltIn {
    pub(super) name: &'static str,
    pub(super) value: BuiltInValue,
}

/// Its value.
pub(super) enum BuiltInValue {
    Literal(&'static str),
    /// A credential, from the environment variable of this name.
    Env(&'static str),
}

/// The headers that stand unless `[upstream.headers]` says otherwise.
pub(super) const HEADERS: [BuiltIn; 4] = [
    BuiltIn {
        name: "openai-beta",
        value: BuiltInValue::Literal("assistants=v2"),
    },
    BuiltIn {
        name: "x-portkey-api-key",
        value: BuiltInValue::Env("PORTKEY_API_KEY"),
    },
    BuiltIn {
        name: "x-portkey-cache-force-refresh",
        value: BuiltInValue::Literal("true"),
    },
    BuiltIn {
        name: "x-portkey-virtual-key",
        value: BuiltInValue::Env("PORTKEY_PROVIDER_VIRTUAL_KEY"),
    },
];

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![Address::Tcp(loopback(8180))],
            allowed_hosts: Vec::new(),
            allow_unauthenticated: false,
            forward: Forward::Rules,
            max_connections: 10_000,
            max_long_polls: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            drain_timeout: Duration::from_secs(30),
            lame_duck: Duration::ZERO,
            tls: None,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: loopback(8181),
            token: None,
        }
    }
}

impl Default for Upstream {
    /// Portkey, without any header: the built-in ones need the environment.
    fn default() -> Self {
        Self {
            base_url: BaseUrl {
                https: true,
                host: "api.portkey.ai".to_owned(),
                port: 443,
                path: "/v1".to_owned(),
            },
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
            stream_idle_timeout: Duration::from_secs(300),
            max_in_flight: 256,
            queue_timeout: Duration::from_secs(1),
            coalesce_window: Duration::from_millis(100),
            max_retry_after: Duration::from_secs(30),
            vary_headers: Vec::new(),
            ca_file: None,
            proxy: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }
}

/// The longest that a command of the shared tier may take: a hundred times what one needs in the same
/// network, and less than most fetches.
pub(super) const REDIS_COMMAND_TIMEOUT: Duration = Duration::from_millis(50);

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_bytes: 256 * bytesize::MIB,
            max_entry_bytes: bytesize::MIB,
            ttl: Duration::from_secs(24 * 60 * 60),
            honor_no_store: true,
            redis: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            access: Access::Upstream,
            ids: false,
            filter: "info".to_owned(),
        }
    }
}
