//! The phases of an ending, and how everything learns of them.

use std::time::Duration;

use tokio::sync::watch;

/// What still flies this long before the end is answered with 503, so that there is time to send it.
pub(super) const LAST_SECOND: Duration = Duration::from_secs(1);

/// How long admin connections have to finish once everything else has.
pub(super) const ADMIN_GRACE: Duration = Duration::from_millis(200);

/// Where a gateway is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// At work.
    Serving,
    /// Not ready any more, but still accepting: whoever asks `/ready` has time to notice.
    LameDuck,
    /// No new connections, no keep-alive; what was accepted is answered.
    Draining,
    /// What still flies is answered with 503.
    Closing,
}

impl Phase {
    /// The word for it in `/status` and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::LameDuck => "lame_duck",
            Self::Draining => "draining",
            Self::Closing => "closing",
        }
    }
}

/// The hand on the lever.
#[derive(Debug)]
pub(super) struct Drain {
    phase: watch::Sender<Phase>,
    end: watch::Sender<Phase>,
}

/// Sees the phases.
#[derive(Debug, Clone)]
pub(super) struct Watch(watch::Receiver<Phase>);

pub(super) fn channel() -> (Drain, Watch) {
    let (phase, seen) = watch::channel(Phase::Serving);
    let (end, _) = watch::channel(Phase::Serving);
    (Drain { phase, end }, Watch(seen))
}

impl Drain {
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(super) fn watch(&self) -> Watch {
        Watch(self.phase.subscribe())
    }

    /// A watch that sees no phase until [`Drain::finish`]: for what outlives the drain.
    pub(super) fn end(&self) -> Watch {
        Watch(self.end.subscribe())
    }

    pub(super) fn finish(&self) {
        self.end.send_replace(Phase::Closing);
    }
}

impl Watch {
    pub(super) fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Returns once the phase is `phase` or a later one; also when the gateway is gone.
    pub(super) async fn reached(&self, phase: Phase) {
        let mut seen = self.0.clone();
        // An error means that nobody can enter a phase any more: as good as the last one.
        let _ = seen.wait_for(|now| *now >= phase).await;
    }
}
