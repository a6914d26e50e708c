//! The upstream: it answers each step by its ids, account and version, harms on command, and
//! checks every request that reaches it.

mod connection;
mod door;
mod inspect;
mod plan;
pub(crate) mod script;
mod shelf;
mod streams;
mod tls;

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

pub(crate) use door::Door;
pub(crate) use inspect::Accounts;
pub(crate) use plan::Plan;
pub(crate) use script::{Material, Move};
pub(crate) use shelf::{Lives, Shelf, Snapshot};
pub(crate) use streams::Stream;
pub(crate) use tls::{Authority, Flaw};

use crate::kind::{Kind, Wire};
use crate::ledger::{Case, Ledger, Verdict};
use crate::step::Step;

/// Chooses a harm for a fetch that none was planned for.
pub(crate) type Chance = Box<dyn Fn(&Step, u64) -> Option<Kind> + Send + Sync>;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Shared {
    pub(crate) address: SocketAddr,
    wire: Wire,
    authority: Arc<Authority>,
    pub(crate) shelf: Shelf,
    accounts: Accounts,
    plans: Mutex<HashMap<Step, Plan>>,
    chance: Option<Chance>,
    elsewhere: SocketAddr,
    ledger: Ledger,
    case: Mutex<Case>,
    /// Counts up to make every connection end.
    cuts: watch::Sender<u64>,
    /// Connections that are served.
    open: watch::Sender<usize>,
    /// When an account was last told to wait.
    told_to_wait: Mutex<HashMap<String, Instant>>,
    pub(crate) fetches: AtomicU64,
}

pub(crate) struct Origin {
    pub(crate) shared: Arc<Shared>,
    /// Bound and not listening: keeps the port while nobody listens on it.
    _anchor: TcpSocket,
    listening: Mutex<Option<Listening>>,
    /// What fills the queue of a full listener.
    fillers: Mutex<Vec<TcpStream>>,
    tasks: TaskTracker,
}

/// A listener, and what accepts from it.
struct Listening {
    listener: Arc<TcpListener>,
    accepting: JoinHandle<()>,
}

impl Listening {
    async fn end(self) {
        // To close it would not be enough: a gateway that is just being started holds a copy until it
        // has become its own program, and half of the connections would still come here.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        self.accepting.abort();
        // Cancelled, as it should be.
        let _ = self.accepting.await;
    }
}

/// What an origin is made with.
pub(crate) struct Setting {
    pub(crate) wire: Wire,
    pub(crate) authority: Arc<Authority>,
    pub(crate) lives: Lives,
    pub(crate) accounts: Accounts,
    pub(crate) chance: Option<Chance>,
    pub(crate) ledger: Ledger,
}

impl Origin {
    pub(crate) fn start(setting: Setting) -> io::Result<Self> {
        let anchor = socket("127.0.0.1:0".parse().map_err(io::Error::other)?)?;
        let address = anchor.local_addr()?;
        let trap = std::net::TcpListener::bind("127.0.0.1:0")?;
        trap.set_nonblocking(true)?;
        let case = Case {
            seed: 0,
            number: 0,
            kind: "start".to_owned(),
        };
        let shared = Arc::new(Shared {
            address,
            wire: setting.wire,
            authority: setting.authority,
            shelf: Shelf::new(setting.lives),
            accounts: setting.accounts,
            plans: Mutex::default(),
            chance: setting.chance,
            elsewhere: trap.local_addr()?,
            ledger: setting.ledger,
            case: Mutex::new(case),
            cuts: watch::Sender::new(0),
            open: watch::Sender::new(0),
            told_to_wait: Mutex::default(),
            fetches: AtomicU64::new(0),
        });
        let tasks = TaskTracker::new();
        let watching = Arc::clone(&shared);
        let trap = TcpListener::from_std(trap)?;
        tasks.spawn(async move {
            while trap.accept().await.is_ok() {
                watching.complain(&Verdict::Wrong("a redirect was followed".to_owned()), b"");
            }
        });
        let origin = Self {
            shared,
            _anchor: anchor,
            listening: Mutex::default(),
            fillers: Mutex::default(),
            tasks,
        };
        origin.listen(Door::Open)?;
        Ok(origin)
    }

    pub(crate) fn base_url(&self) -> String {
        let scheme = match self.shared.wire {
            Wire::Plain => "http",
            Wire::Tls | Wire::Http2 => "https",
        };
        format!("{scheme}://{}/v1", self.shared.address)
    }

    /// From now on, whoever connects meets this door; what was connected is cut.
    pub(crate) async fn set_door(&self, door: Door) -> io::Result<()> {
        let old = lock(&self.listening).take();
        if let Some(old) = old {
            old.end().await;
        }
        lock(&self.fillers).clear();
        self.cut();
        // Until they are gone, a request may still find one of them in the gateway's pool.
        let mut open = self.shared.open.subscribe();
        let gone = open.wait_for(|open| *open == 0);
        if timeout(PATIENCE, gone).await.is_err() {
            return Err(io::Error::other("connections that do not end"));
        }
        if matches!(door, Door::Refused) {
            Ok(())
        } else if matches!(door, Door::Full) {
            self.fill().await
        } else {
            self.listen(door)
        }
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    fn listen(&self, door: Door) -> io::Result<()> {
        let listener = Arc::new(socket(self.shared.address)?.listen(1024)?);
        let (shared, tasks) = (Arc::clone(&self.shared), self.tasks.clone());
        let from = Arc::clone(&listener);
        let accept = async move {
            loop {
                if let Ok((stream, _)) = from.accept().await {
                    shared.open.send_modify(|open| *open += 1);
                    // From here on, so that no cut is missed.
                    let cuts = shared.cuts.subscribe();
                    tasks.spawn(door::meet(stream, door, cuts, Arc::clone(&shared)));
                }
            }
        };
        *lock(&self.listening) = Some(Listening {
            listener,
            accepting: self.tasks.spawn(accept),
        });
        Ok(())
    }

    /// Listens with a queue that is full: a connection attempt hears nothing.
    async fn fill(&self) -> io::Result<()> {
        let listener = Arc::new(socket(self.shared.address)?.listen(0)?);
        let patience = Duration::from_millis(30);
        for _ in 0..8 {
            let attempt = TcpStream::connect(self.shared.address);
            match timeout(patience, attempt).await {
                Ok(Ok(stream)) => lock(&self.fillers).push(stream),
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        *lock(&self.listening) = Some(Listening {
            listener,
            accepting: self.tasks.spawn(std::future::pending()),
        });
        Ok(())
    }

    /// Complaints from now on belong to this case.
    pub(crate) fn set_case(&self, case: &Case) {
        lock(&self.shared.case).clone_from(case);
    }
}

impl Shared {
    /// An account was told to wait.
    fn note_wait(&self, account: &str) {
        lock(&self.told_to_wait).insert(account.to_owned(), Instant::now());
    }

    /// Whether `account` was told to wait within so long.
    pub(crate) fn was_told_to_wait(&self, account: &str, within: Duration) -> bool {
        let told = lock(&self.told_to_wait);
        told.get(account).is_some_and(|at| at.elapsed() < within)
    }

    pub(crate) fn complain(&self, verdict: &Verdict, bytes: &[u8]) {
        let case = lock(&self.case).clone();
        self.ledger.note(&case, verdict, bytes);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}
