//! The upstream: it answers each step by its ids, account and version, does harm on command, and
//! checks every request that reaches it.
//!
//! Each injected header must come exactly once, nothing of the client's may come, and no key may
//! come to a host that it is not for.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::fault::{Effect, Expected, Fault};
use crate::fixtures::certificates::{Authority, Flaw};
use crate::fixtures::origin::{
    Action, Connections, Protocol, Request, Server, Service, StreamFault,
};
use crate::fixtures::random::seeded;
use crate::ledger::{Case, Ledger, Verdict, shows_secret};
use crate::step::{Edition, Step};
use crate::upstream_faults::{chunked, whole};

/// The headers that a fetch may have.
const ALLOWED: [&str; 12] = [
    "host",
    "accept",
    "accept-encoding",
    "openai-beta",
    "x-portkey-api-key",
    "x-portkey-virtual-key",
    "x-portkey-cache-force-refresh",
    "user-agent",
    "traceparent",
    "tracestate",
    "x-request-id",
    "x-portkey-trace-id",
];

/// The headers that a fetch must have once, with their values where these are fixed.
const INJECTED: [(&str, Option<&str>); 6] = [
    ("accept", Some("application/json")),
    ("accept-encoding", Some("identity")),
    ("openai-beta", Some("assistants=v2")),
    ("x-portkey-cache-force-refresh", Some("true")),
    ("x-portkey-api-key", None),
    ("x-portkey-virtual-key", None),
];

/// A part of everything that a client sends of its own.
const OF_CLIENTS: &str = "canary-client";

/// When steps become final.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lifetime {
    /// With one of the first fetches, or never.
    Fetches,
    /// After a time of up to so long.
    UpTo(Duration),
}

/// Chooses a fault for a fetch that none was planned for, given the fetch's number.
pub(crate) type Chance = Box<dyn Fn(&Step, u64) -> Option<Fault> + Send + Sync>;

/// What an upstream is made with.
pub(crate) struct Settings<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) authority: &'a Authority,
    pub(crate) lifetime: Lifetime,
    /// The API key that may come.
    pub(crate) key: &'a str,
    /// The virtual keys that may come, each with the name of its account.
    pub(crate) accounts: &'a [(&'a str, &'a str)],
    pub(crate) chance: Option<Chance>,
    pub(crate) ledger: &'a Ledger,
}

/// What a response of a fault is made from.
pub(crate) struct Material {
    /// The right body.
    pub(crate) good: Vec<u8>,
    /// A body that claims to be final and is not. It must never be stored.
    pub(crate) false_final: Vec<u8>,
    /// The injected secret, as it came.
    pub(crate) secret: String,
    /// The target of redirects, where no connection may ever come.
    pub(crate) elsewhere: SocketAddr,
}

/// The fetches of a step for one account, at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fetches {
    pub(crate) count: u64,
    /// The version from which the step is final.
    pub(crate) final_from: Option<u64>,
}

/// The fault that is planned for a step, or has struck it.
#[derive(Default)]
pub(crate) struct Plan {
    effect: Option<Effect>,
    /// What clients may see of it.
    pub(crate) expected: Expected,
    /// When it struck first.
    since: Option<Instant>,
    /// The number of times that it struck.
    pub(crate) struck: u64,
    /// The number of times that its actions are over.
    done: u64,
    /// The bytes of its responses, to compare.
    pub(crate) sent: Vec<Vec<u8>>,
}

pub(crate) struct Upstream {
    server: Server,
    state: Arc<State>,
    _trap: JoinSet<()>,
}

struct State {
    address: OnceLock<SocketAddr>,
    protocol: Protocol,
    elsewhere: SocketAddr,
    lifetime: Lifetime,
    fetches: AtomicU64,
    steps: Mutex<HashMap<(String, Step), (Fetches, Instant)>>,
    plans: Mutex<HashMap<Step, Plan>>,
    /// The requests whose fault is under way, by connection and number.
    striking: Mutex<HashMap<(usize, usize), Step>>,
    chance: Option<Chance>,
    /// The names of accounts by virtual key.
    accounts: BTreeMap<String, String>,
    /// The API keys that may come: the current one, and the one before it during a rotation.
    keys: Mutex<Vec<String>>,
    /// When an account was last sent a 429.
    rate_limited: Mutex<HashMap<String, Instant>>,
    ledger: Ledger,
    case: Mutex<Case>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    pub(crate) fn start(settings: Settings<'_>) -> io::Result<Self> {
        let trap = std::net::TcpListener::bind("127.0.0.1:0")?;
        trap.set_nonblocking(true)?;
        let accounts = settings.accounts.iter();
        let state = Arc::new(State {
            address: OnceLock::new(),
            protocol: settings.protocol,
            elsewhere: trap.local_addr()?,
            lifetime: settings.lifetime,
            fetches: AtomicU64::new(0),
            steps: Mutex::default(),
            plans: Mutex::default(),
            striking: Mutex::default(),
            chance: settings.chance,
            accounts: accounts
                .map(|(key, name)| ((*key).to_owned(), (*name).to_owned()))
                .collect(),
            keys: Mutex::new(vec![settings.key.to_owned()]),
            rate_limited: Mutex::default(),
            ledger: settings.ledger.clone(),
            case: Mutex::new(Case::new(0, 0, "start")),
        });
        let tls = match settings.protocol {
            Protocol::Http1 => None,
            Protocol::Http1Tls | Protocol::Http2 => Some((settings.authority.clone(), Flaw::None)),
        };
        let service: Arc<dyn Service> = state.clone();
        let server = Server::start(settings.protocol, tls, service)?;
        state.address.get_or_init(|| server.address);
        let (trap, watching) = (TcpListener::from_std(trap)?, Arc::clone(&state));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while trap.accept().await.is_ok() {
                watching.note(&Verdict::Wrong("a redirect was followed".to_owned()), b"");
            }
        });
        Ok(Self {
            server,
            state,
            _trap: tasks,
        })
    }

    pub(crate) fn base_url(&self) -> String {
        self.server.url()
    }

    pub(crate) async fn set_connections(&self, connections: Connections) -> io::Result<()> {
        self.server.set_connections(connections).await
    }

    /// Ends every open connection.
    pub(crate) fn cut(&self) {
        self.server.cut();
    }

    /// Attributes verdicts to this case from now on.
    pub(crate) fn set_case(&self, case: &Case) {
        lock(&self.state.case).clone_from(case);
    }

    /// Returns the number of all fetches.
    pub(crate) fn all_fetches(&self) -> u64 {
        self.state.fetches.load(Ordering::Relaxed)
    }

    /// Returns the fetches of a step for this account, as they are now.
    pub(crate) fn fetches(&self, account: &str, step: &Step) -> Fetches {
        let steps = lock(&self.state.steps);
        let known = steps.get(&(account.to_owned(), step.clone()));
        known.map_or_else(Fetches::default, |(fetches, _)| *fetches)
    }

    /// Accepts a further API key. Only the newest two stay valid.
    pub(crate) fn rotate_key(&self, key: &str) {
        let mut keys = lock(&self.state.keys);
        keys.push(key.to_owned());
        let old = keys.len().saturating_sub(2);
        keys.drain(..old);
    }

    /// Accepts only the newest API key from now on.
    pub(crate) fn expect_newest_key(&self) {
        let mut keys = lock(&self.state.keys);
        let old = keys.len().saturating_sub(1);
        keys.drain(..old);
    }

    /// Returns whether `account` was sent a 429 within this time.
    pub(crate) fn was_rate_limited(&self, account: &str, within: Duration) -> bool {
        let limited = lock(&self.state.rate_limited);
        limited.get(account).is_some_and(|at| at.elapsed() < within)
    }

    /// Lets a fault strike the fetches of a step.
    pub(crate) fn plan(&self, step: &Step, effect: Effect) {
        let plan = Plan {
            effect: Some(effect),
            ..Plan::default()
        };
        lock(&self.state.plans).insert(step.clone(), plan);
    }

    /// Ends the fault, and returns what it did.
    pub(crate) fn unplan(&self, step: &Step) -> Plan {
        lock(&self.state.plans).remove(step).unwrap_or_default()
    }

    /// Returns whether the fault's actions are over within `limit`, wherever it struck.
    pub(crate) async fn is_done(&self, step: &Step, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let done = |plan: &Plan| plan.done == plan.struck;
            if lock(&self.state.plans).get(step).is_none_or(done) {
                return true;
            }
            sleep(Duration::from_millis(3)).await;
        }
        false
    }

    /// Returns what clients may see of the fault that has struck `step` by chance since this
    /// moment, and its responses.
    pub(crate) fn struck(&self, step: &Step, from: Instant) -> Option<(Expected, Vec<Vec<u8>>)> {
        let plans = lock(&self.state.plans);
        let plan = plans.get(step)?;
        let since = plan.since.filter(|since| *since >= from);
        since.map(|_| (plan.expected, plan.sent.clone()))
    }

    /// Forgets a step that no client requests any more.
    pub(crate) fn forget(&self, step: &Step) {
        lock(&self.state.steps).retain(|(_, known), _| known != step);
        lock(&self.state.plans).remove(step);
    }
}

/// A request that passed the checks.
struct Checked {
    step: Step,
    account: String,
    /// The injected API key.
    key: String,
    edition: Edition,
    effect: Option<Effect>,
}

impl State {
    fn note(&self, verdict: &Verdict, bytes: &[u8]) {
        let case = lock(&self.case).clone();
        self.ledger.note(&case, verdict, bytes);
    }

    /// Checks a request, and counts it as a fetch. A request that must not come is noted.
    fn check(&self, request: &Request) -> Option<Checked> {
        match self.try_check(request) {
            Ok(checked) => Some(checked),
            Err(why) => {
                let leaked = Verdict::Leaked(format!("the upstream got {why}"));
                self.note(&leaked, &request.head);
                None
            }
        }
    }

    fn try_check(&self, request: &Request) -> Result<Checked, String> {
        let line = request.line();
        let target = line
            .strip_prefix("GET ")
            .ok_or_else(|| format!("{line:?}"))?;
        let step = Step::of_target(target).ok_or_else(|| format!("a target {target:?}"))?;
        for (name, value) in request.headers() {
            if !ALLOWED.contains(&name.as_str()) {
                return Err(format!("a header {name:?}"));
            }
            if value.contains(OF_CLIENTS) {
                return Err(format!("a client's own {name:?}"));
            }
        }
        let once = |name: &str| match request.all(name).as_slice() {
            [value] => Ok(value.clone()),
            [] => Err(format!("no {name:?}")),
            [..] => Err(format!("{name:?} twice")),
        };
        let host = once("host")?;
        if self.address.get().map(ToString::to_string) != Some(host.clone()) {
            return Err(format!("a host {host:?}"));
        }
        for (name, due) in INJECTED {
            let value = once(name)?;
            if due.is_some_and(|due| due != value) {
                return Err(format!("{name:?} of another value"));
            }
        }
        let key = once("x-portkey-api-key")?;
        if !lock(&self.keys).contains(&key) {
            return Err("a key that is not for this host, or was replaced".to_owned());
        }
        let account = self.accounts.get(&once("x-portkey-virtual-key")?);
        let account = account.ok_or("a virtual key that is not for this host")?;
        let edition = self.fetch(account, &step);
        let effect = self.effect(&step, request.nth > 0);
        Ok(Checked {
            step,
            account: account.clone(),
            key,
            edition,
            effect,
        })
    }

    /// Counts a fetch. Each fetch sees a version of its own, until the step is final.
    fn fetch(&self, account: &str, step: &Step) -> Edition {
        let now = Instant::now();
        let mut steps = lock(&self.steps);
        let (fetches, first) = steps
            .entry((account.to_owned(), step.clone()))
            .or_insert((Fetches::default(), now));
        fetches.count += 1;
        if fetches.final_from.is_none() && self.is_over(step, fetches.count, now - *first) {
            fetches.final_from = Some(fetches.count);
        }
        Edition {
            version: fetches.final_from.unwrap_or(fetches.count),
            is_final: fetches.final_from.is_some(),
        }
    }

    /// Returns whether a step is final with this fetch, so long after its first one.
    fn is_over(&self, step: &Step, fetches: u64, age: Duration) -> bool {
        let Some(id) = &step.id else {
            return false;
        };
        let mut rng = seeded(0, &[id, "lifetime"]);
        match self.lifetime {
            Lifetime::Fetches => match rng.u64(..5) {
                0 => false,
                count => fetches >= count,
            },
            Lifetime::UpTo(longest) => age >= longest * rng.u32(..1000) / 1000,
        }
    }

    /// Returns what the planned fault does to this fetch, or else a fault by chance.
    fn effect(&self, step: &Step, is_reused: bool) -> Option<Effect> {
        let fetch = self.fetches.fetch_add(1, Ordering::Relaxed);
        let mut plans = lock(&self.plans);
        let Some(plan) = plans.get_mut(step) else {
            let fault = self.chance.as_ref()?(step, fetch)?;
            let plan = Plan {
                expected: fault.expected,
                since: Some(Instant::now()),
                struck: 1,
                ..Plan::default()
            };
            plans.insert(step.clone(), plan);
            return Some(fault.effect);
        };
        let is_once = match plan.effect? {
            Effect::Reused(_) | Effect::ReusedStream(_) => true,
            Effect::Connections(_) | Effect::Response(_) | Effect::Stream(_) | Effect::Run(_) => {
                false
            }
        };
        if is_once && !is_reused {
            return None;
        }
        plan.struck += 1;
        plan.since.get_or_insert_with(Instant::now);
        if is_once {
            plan.effect.take()
        } else {
            plan.effect
        }
    }
}

impl Service for State {
    fn respond(&self, request: &Request) -> Option<Vec<Action>> {
        let Checked {
            step,
            account,
            key,
            edition,
            effect,
        } = self.check(request)?;
        let good = step.body(&account, edition);
        let Some(Effect::Response(make) | Effect::Reused(make)) = effect else {
            let id = format!("x-request-id: req_{}", edition.version);
            let lines = [id.as_str(), "openai-processing-ms: 12"];
            let is_chunked = seeded(edition.version, &[&step.thread, "framing"]).u32(..3) == 0;
            return Some(vec![Action::Send(if is_chunked {
                chunked(&lines, &good)
            } else {
                whole("200 OK", &lines, &good)
            })]);
        };
        let actions = make(&Material {
            false_final: step.false_final(),
            good,
            secret: key,
            elsewhere: self.elsewhere,
        });
        let sent: Vec<u8> = actions.iter().flat_map(bytes_of).copied().collect();
        if sent.starts_with(b"HTTP/1.1 429") {
            lock(&self.rate_limited).insert(account, Instant::now());
        }
        if let Some(plan) = lock(&self.plans).get_mut(&step) {
            plan.sent.push(sent);
        }
        lock(&self.striking).insert((request.connection, request.nth), step);
        Some(actions)
    }

    fn respond_http2(&self, request: &Request) -> Option<(Vec<u8>, Option<StreamFault>)> {
        let checked = self.check(request)?;
        let body = checked.step.body(&checked.account, checked.edition);
        let fault = match checked.effect {
            Some(Effect::Stream(fault) | Effect::ReusedStream(fault)) => Some(fault),
            _ => None,
        };
        Some((body, fault))
    }

    fn healthy(&self, _: &Request) -> Vec<u8> {
        unreachable!("no fault uses Action::Respond")
    }

    fn finished(&self, request: &Request) {
        let step = lock(&self.striking).remove(&(request.connection, request.nth));
        if let Some(step) = step
            && let Some(plan) = lock(&self.plans).get_mut(&step)
        {
            plan.done += 1;
        }
    }

    fn receive_unserved(&self, connections: Connections, bytes: &[u8]) {
        let is_encrypted = self.protocol != Protocol::Http1;
        if let Connections::Certificate(_) = connections {
            let why = "a request was sent in spite of the certificate".to_owned();
            self.note(&Verdict::Leaked(why), bytes);
        } else if is_encrypted && shows_secret(bytes) {
            self.note(&Verdict::Leaked("a secret in the clear".to_owned()), bytes);
        }
    }
}

/// Returns the bytes that an action sends, if they are a response's.
fn bytes_of(action: &Action) -> &[u8] {
    if let Action::Send(bytes) | Action::Drip(bytes, _) = action {
        bytes
    } else {
        &[]
    }
}
