//! Load and life (items 42 to 51).

mod admin_isolation;
mod connection_exhaustion;
mod fd_exhaustion;
mod graceful_shutdown;
mod http2_floods;
mod rejected_configuration;
mod slowloris;
mod stop_and_restart;
