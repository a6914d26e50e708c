//! The traffic: which client requests which step, how, and what is correct for each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::chaos_schedule::ChaosSchedule;
use crate::fault::{Expected, UPSTREAM_CODES};
use crate::fixtures::client::{
    ClientError, H2Client, RawClient, Response, Version, h2_request, head, try_send,
};
use crate::fixtures::random::seeded;
use crate::judge::{Outcome, Sent, is_rate_limited, raw};
use crate::ledger::{Case, Verdict, shows_secret};
use crate::step::Step;
use crate::testbed::{DEADLINE, Testbed};

/// New steps a second, the number of steps that are polled, and of those that are requested later.
const STEPS: u64 = 12;
const POLLED: u64 = 100;
const REMEMBERED: u64 = 500;

/// A connection that was idle for longer is left to the gateway to close.
const IDLE: Duration = Duration::from_secs(20);

/// A client of the gateway.
#[derive(Debug)]
pub(super) struct Client {
    name: &'static str,
    /// The account whose bodies it gets.
    pub(super) account: &'static str,
    /// The variable with its token, and the token.
    pub(super) token: (&'static str, &'static str),
    /// The variable with a virtual key of its own, and the key.
    pub(super) own_key: Option<(&'static str, &'static str)>,
}

pub(super) const COMMON_KEY: &str = "canary-virtual-common";

/// Two clients have an account of their own, and two share the common one.
pub(super) const CLIENTS: [Client; 4] = [
    Client {
        name: "alpha",
        account: "account-alpha",
        token: ("FAULTS_TOKEN_ALPHA", "canary-client-token-alpha"),
        own_key: Some(("FAULTS_KEY_ALPHA", "canary-virtual-alpha")),
    },
    Client {
        name: "beta",
        account: "account-beta",
        token: ("FAULTS_TOKEN_BETA", "canary-client-token-beta"),
        own_key: Some(("FAULTS_KEY_BETA", "canary-virtual-beta")),
    },
    Client {
        name: "gamma",
        account: "account-common",
        token: ("FAULTS_TOKEN_GAMMA", "canary-client-token-gamma"),
        own_key: None,
    },
    Client {
        name: "delta",
        account: "account-common",
        token: ("FAULTS_TOKEN_DELTA", "canary-client-token-delta"),
        own_key: None,
    },
];

impl Client {
    pub(super) fn virtual_key(&self) -> &'static str {
        self.own_key.map_or(COMMON_KEY, |(_, key)| key)
    }

    /// Returns the client's part of the configuration.
    pub(super) fn toml(&self) -> String {
        let (name, (token, _)) = (self.name, self.token);
        let client = format!("\n[[client]]\nname = \"{name}\"\ntoken = {{ env = \"{token}\" }}\n");
        let headers = self.own_key.map_or_else(String::new, |(variable, _)| {
            format!("[client.headers]\nx-portkey-virtual-key = {{ env = \"{variable}\" }}\n")
        });
        client + &headers
    }
}

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Poll,
    /// A poll of a step that was final some time ago.
    Later,
    List,
    Head,
    IfNoneMatch,
    NoCache,
    NoStore,
    LongPoll,
    /// A poll with a query that divides the cache.
    Include,
}

impl Kind {
    fn draw(rng: &mut fastrand::Rng) -> Self {
        match rng.u32(..100) {
            0..50 => Self::Poll,
            50..74 => Self::Later,
            74..79 => Self::List,
            79..83 => Self::Head,
            83..88 => Self::IfNoneMatch,
            88..91 => Self::NoCache,
            91..93 => Self::NoStore,
            93..96 => Self::LongPoll,
            _ => Self::Include,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Later => "later",
            Self::List => "list",
            Self::Head => "head",
            Self::IfNoneMatch => "if_none_match",
            Self::NoCache => "no_cache",
            Self::NoStore => "no_store",
            Self::LongPoll => "long_poll",
            Self::Include => "include",
        }
    }
}

/// The number of requests, and how it went for those that nothing touched.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) requests: u64,
    pub(super) touched: u64,
    untouched_correct: u64,
}

impl Totals {
    pub(super) fn untouched(&self) -> u64 {
        self.requests - self.touched
    }

    /// Returns the share of the untouched requests that were answered correctly.
    pub(super) fn correct_share(&self) -> f64 {
        let count = |n: u64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        count(self.untouched_correct) / count(self.untouched().max(1))
    }
}

/// The clients, with what they know.
pub(super) struct Traffic {
    testbed: Arc<Testbed>,
    schedule: Arc<ChaosSchedule>,
    seed: u64,
    started: Instant,
    totals: Mutex<Totals>,
    /// The ETags of final bodies that were correct.
    etags: Mutex<HashMap<(&'static str, Step), String>>,
    /// Idle HTTP/1.1 connections, with the time since which they are.
    idle: Mutex<Vec<(RawClient, Instant)>>,
    /// The HTTP/2 connection of each client.
    h2: Mutex<HashMap<&'static str, H2Client>>,
    /// Steps below this number are forgotten.
    forgotten: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    pub(super) fn new(testbed: &Arc<Testbed>, schedule: &Arc<ChaosSchedule>, seed: u64) -> Self {
        Self {
            testbed: Arc::clone(testbed),
            schedule: Arc::clone(schedule),
            seed,
            started: Instant::now(),
            totals: Mutex::default(),
            etags: Mutex::default(),
            idle: Mutex::default(),
            h2: Mutex::default(),
            forgotten: Mutex::default(),
        }
    }

    pub(super) fn totals(&self) -> Totals {
        *lock(&self.totals)
    }

    /// Returns the step with this number.
    fn step(&self, number: u64) -> Step {
        Step::draw(&mut seeded(self.seed, &["step", &number.to_string()]))
    }

    fn draw_step(&self, kind: Kind, rng: &mut fastrand::Rng) -> Step {
        let elapsed = self.started.elapsed();
        let newest = elapsed.as_secs() * STEPS + u64::from(elapsed.subsec_millis()) * STEPS / 1000;
        let ago = if matches!(kind, Kind::Later | Kind::IfNoneMatch) {
            POLLED + rng.u64(..REMEMBERED)
        } else {
            rng.u64(..POLLED)
        };
        self.forget_below(newest.saturating_sub(POLLED + 2 * REMEMBERED));
        let mut step = self.step(newest.saturating_sub(ago));
        if kind == Kind::List {
            return step.list();
        }
        if kind == Kind::Include {
            step.query = "include%5B%5D=step_details".to_owned();
        }
        step
    }

    fn forget_below(&self, number: u64) {
        let range = {
            let mut forgotten = lock(&self.forgotten);
            let from = *forgotten;
            *forgotten = number.max(from);
            from..number
        };
        for step in range.map(|number| self.step(number)) {
            lock(&self.etags).retain(|(_, known), _| *known != step);
            for step in [step.list(), step] {
                self.testbed.upstream.forget(&step);
            }
        }
    }

    /// Draws the request with this number, sends it, and notes the verdict on its response.
    pub(super) async fn send(&self, number: u64) {
        let upstream = &self.testbed.upstream;
        let mut rng = seeded(self.seed, &["request", &number.to_string()]);
        let kind = Kind::draw(&mut rng);
        let client = &CLIENTS[rng.usize(..CLIENTS.len())];
        let step = self.draw_step(kind, &mut rng);
        let bearer = format!("Bearer {}", client.token.1);
        let etag = lock(&self.etags)
            .get(&(client.account, step.clone()))
            .cloned();
        let mut headers = vec![
            ("authorization", bearer.as_str()),
            ("cookie", "session=canary-client-cookie"),
            ("x-portkey-custom-host", "http://canary-client-host"),
        ];
        let etag_or_none = etag.as_deref().unwrap_or("\"none\"");
        let own = [
            (Kind::NoCache, ("cache-control", "no-cache")),
            (Kind::NoStore, ("cache-control", "no-store")),
            (Kind::LongPoll, ("prefer", "wait=1")),
            (Kind::IfNoneMatch, ("if-none-match", etag_or_none)),
        ];
        let own = own.into_iter().filter(|(of, _)| *of == kind);
        headers.extend(own.map(|(_, header)| header));
        let method = if kind == Kind::Head { "HEAD" } else { "GET" };
        let before = Sent::now(upstream, client.account, &step);
        let sent = Instant::now();
        let outcome = self
            .exchange(client, method, &step, &headers, &mut rng)
            .await;
        let answered = Instant::now();

        let struck = upstream.struck(&step, sent);
        let is_rate_limited = is_rate_limited(&outcome);
        let touched = struck.is_some() || is_rate_limited || self.schedule.touched(sent, answered);
        let (expected, responses) = struck.unwrap_or_default();
        // The share of correct responses bounds the errors, so each error by itself is allowed.
        let expected = Expected {
            correct: true,
            codes: UPSTREAM_CODES,
            rate_limited: true,
            ..expected
        };
        let judged = before.judge(&outcome, expected, &responses).await;
        let verdict = match &outcome {
            Ok(response) if shows_secret(&response.raw) => judged,
            Ok(_) if is_rate_limited && !upstream.was_rate_limited(client.account, DEADLINE) => {
                Verdict::Wrong("a 429, though the account was sent none".to_owned())
            }
            Ok(response) if kind == Kind::Head => judge_head(response, touched),
            Ok(response) if response.status == 304 && etag.is_some() => {
                judge_not_modified(response, etag.as_deref())
            }
            _ => judged,
        };
        let fetched = upstream.fetches(client.account, &step).count > before.fetches.count;
        let verdict = if verdict == Verdict::Correct && kind == Kind::NoCache && !fetched {
            Verdict::Wrong("no-cache was answered without a fetch".to_owned())
        } else {
            verdict
        };
        if let (Verdict::Correct, Ok(response)) = (&verdict, &outcome) {
            self.remember(client, &step, response);
        }
        {
            let mut totals = lock(&self.totals);
            totals.requests += 1;
            totals.touched += u64::from(touched);
            totals.untouched_correct += u64::from(!touched && verdict == Verdict::Correct);
        }
        let case = Case::new(self.seed, number, kind.as_str());
        self.testbed.note(&case, &verdict, raw(&outcome));
    }

    /// Remembers the ETag of a final body, for a later condition.
    fn remember(&self, client: &Client, step: &Step, response: &Response) {
        if response.status == 200
            && let [etag] = response.all("etag")[..]
            && step
                .edition_of(client.account, &response.body)
                .is_ok_and(|edition| edition.is_final)
        {
            lock(&self.etags).insert((client.account, step.clone()), etag.to_owned());
        }
    }

    /// Sends a request in one of several ways: over the client's HTTP/2 connection, over an idle
    /// connection, or over one of its own.
    async fn exchange(
        &self,
        client: &Client,
        method: &str,
        step: &Step,
        headers: &[(&str, &str)],
        rng: &mut fastrand::Rng,
    ) -> Outcome {
        let data = self.testbed.gateway.data;
        let target = step.target();
        match rng.u32(..10) {
            0..4 => {
                let h2 = self.h2(client).await?;
                let request = h2_request(method, &target, headers);
                h2.try_send(request, DEADLINE).await
            }
            4..8 => {
                let mut connection = match self.take_idle() {
                    Some(idle) => idle,
                    None => RawClient::try_connect(data).await?,
                };
                let head = head(method, &target, "localhost", headers);
                connection.try_send(head).await?;
                let response = connection.response_within(method, DEADLINE).await?;
                if response.all("connection") != ["close"] {
                    lock(&self.idle).push((connection, Instant::now()));
                }
                Ok(response)
            }
            _ => {
                let headers = [headers, &[("connection", "close")]].concat();
                try_send(data, Version::Http1, method, &target, &headers, DEADLINE).await
            }
        }
    }

    fn take_idle(&self) -> Option<RawClient> {
        let mut idle = lock(&self.idle);
        let (client, since) = idle.pop()?;
        // The others have been idle for longer.
        if since.elapsed() > IDLE {
            idle.clear();
            return None;
        }
        Some(client)
    }

    async fn h2(&self, client: &Client) -> Result<H2Client, ClientError> {
        let known = lock(&self.h2).get(client.name).cloned();
        if let Some(h2) = known.filter(H2Client::is_open) {
            return Ok(h2);
        }
        let h2 = H2Client::try_connect(self.testbed.gateway.data).await?;
        lock(&self.h2).insert(client.name, h2.clone());
        Ok(h2)
    }
}

/// Judges the response to a HEAD. A body that is streamed because it is large may have no length.
fn judge_head(response: &Response, touched: bool) -> Verdict {
    let length = match response.all("content-length")[..] {
        [length] => length.parse::<u64>().ok(),
        _ => None,
    };
    match response.status {
        _ if !response.body.is_empty() => Verdict::Wrong("HEAD with a body".to_owned()),
        200 if length > Some(0) || touched => Verdict::Correct,
        200 => Verdict::Wrong("HEAD without a length".to_owned()),
        _ => Verdict::Error,
    }
}

fn judge_not_modified(response: &Response, etag: Option<&str>) -> Verdict {
    if response.body.is_empty() && response.all("etag").first().copied() == etag {
        Verdict::Correct
    } else {
        Verdict::Wrong("a 304 of something else".to_owned())
    }
}
