//! What a service manager is told: `sd_notify(3)`, systemd's protocol, which other supervisors speak,
//! too. Without a `NOTIFY_SOCKET` in the environment all of it does nothing.
//!
//! A message is one datagram to a socket on this host, so none of it is awaited. The socket is a path;
//! a name in the abstract namespace is met with a warning.

use std::time::Duration;

use sd_notify::NotifyState;

use super::Workers;

/// Beyond the drain: to end the admin listener, the shared tier and the process.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// The listeners are open, and the secrets are loaded.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The configuration is about to be read anew, because that was asked for.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // `Type=notify-reload` wants both in one message, to know which reload it is told of.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "no time to tell the service manager"),
    }
}

/// That is over. The gateway serves on either way, so it is ready; the status says with what.
pub fn reloaded(taken: bool) {
    let status = if taken {
        "serving"
    } else {
        "serving; not reloaded: the old configuration stays, the log says why"
    };
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The end has begun, and takes up to `drain_timeout`: whoever has less patience (`TimeoutStopSec=`)
/// is asked for as much.
pub fn stopping(drain_timeout: Duration) {
    let patience = drain_timeout.saturating_add(AFTER_DRAIN).as_micros();
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("draining"),
        NotifyState::ExtendTimeoutUsec(u32::try_from(patience).unwrap_or(u32::MAX)),
    ]);
}

/// Says twice in each `WatchdogSec=` that this thread and all of `crew` are awake: a thread that hangs
/// keeps its callers waiting until somebody starts the process again. Never returns.
pub async fn keep_awake(crew: &Workers) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let mut beats = tokio::time::interval(limit / 2);
    loop {
        beats.tick().await;
        crew.answers().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(message: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(message) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
