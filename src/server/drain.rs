//! The phases from serving to the end, and how tasks learn of them.

use std::time::Duration;

use tokio::sync::watch;

/// The time before the end at which unanswered requests get 503, so that there is time to send it.
pub(super) const LAST_SECOND: Duration = Duration::from_secs(1);

/// Limits how long admin connections may take once everything else has ended.
pub(super) const ADMIN_GRACE: Duration = Duration::from_millis(200);

/// The phases in the life of a gateway, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The gateway serves requests.
    Serving,
    /// The gateway is not ready but still accepts connections, so that load balancers can notice.
    LameDuck,
    /// The gateway accepts no connection, ends keep-alive and answers accepted requests.
    Draining,
    /// The gateway answers the remaining requests with 503.
    Closing,
}

impl Phase {
    /// Returns the word for it in `/status` and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::LameDuck => "lame_duck",
            Self::Draining => "draining",
            Self::Closing => "closing",
        }
    }
}

/// Sets the phase.
#[derive(Debug)]
pub(super) struct Drain {
    phase: watch::Sender<Phase>,
    /// The phase for what outlives the drain: `Serving`, then `Closing`.
    end: watch::Sender<Phase>,
}

/// Reads the phase, and waits for it.
#[derive(Debug, Clone)]
pub(super) struct PhaseReceiver(watch::Receiver<Phase>);

impl Drain {
    pub(super) fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            end: watch::Sender::new(Phase::Serving),
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(super) fn subscribe(&self) -> PhaseReceiver {
        PhaseReceiver(self.phase.subscribe())
    }

    /// Returns a receiver that sees no other phase until [`Drain::finish`].
    pub(super) fn subscribe_end(&self) -> PhaseReceiver {
        PhaseReceiver(self.end.subscribe())
    }

    pub(super) fn finish(&self) {
        self.end.send_replace(Phase::Closing);
    }
}

impl PhaseReceiver {
    pub(super) fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Returns once the phase is `phase` or a later one, or the gateway was dropped.
    pub(super) async fn reached(&self, phase: Phase) {
        let mut receiver = self.0.clone();
        // An error means that the gateway was dropped, which counts as the last phase.
        let _ = receiver.wait_for(|now| *now >= phase).await;
    }
}
