//! Notifies a service manager by `sd_notify(3)`, systemd's protocol, which other supervisors also support.
//!
//! Without `NOTIFY_SOCKET` in the environment, nothing is sent. A message is one datagram to a local socket, so
//! sending does not wait. `NOTIFY_SOCKET` must be a path: a name in the abstract namespace causes a warning.

use std::time::Duration;

use sd_notify::NotifyState;

use super::workers::Workers;

/// The time after the drain in which the admin listener, the shared tier and the process end.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// Notifies that the listeners are open and the secrets are loaded.
pub fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Notifies that a requested reload begins.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // `Type=notify-reload` requires both in one message, so that it can match the reload.
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the clock to notify the service manager"),
    }
}

/// Notifies that a reload has ended. The gateway is ready in both cases. The status says which configuration
/// it uses.
pub fn reloaded(succeeded: bool) {
    let status = if succeeded {
        "serving"
    } else {
        "serving; not reloaded: the old configuration stays, the log says why"
    };
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Notifies that the drain begins, and extends `TimeoutStopSec=` by the time that it may take.
pub fn stopping(drain_timeout: Duration) {
    let needed = drain_timeout.saturating_add(AFTER_DRAIN).as_micros();
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("draining"),
        NotifyState::ExtendTimeoutUsec(u32::try_from(needed).unwrap_or(u32::MAX)),
    ]);
}

/// Notifies the watchdog twice in each `WatchdogSec=` while this thread and all workers run. If one of them
/// hangs, the notification stops and the service manager restarts the process. Never returns.
pub async fn run_watchdog(workers: &Workers) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let mut interval = tokio::time::interval(limit / 2);
    loop {
        interval.tick().await;
        workers.ping().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(message: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(message) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
