//! The traffic: who asks, for what, how; and what is right for each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::chaos_schedule::Weather;
use super::clients::{CLIENTS, Client};
use super::errand::Errand;
use super::figures::Figures;
use crate::caller::{Answer, Got, H2, Line};
use crate::dice::Dice;
use crate::kind::{Expect, TROUBLE};
use crate::ledger::{Case, Verdict, shows_secret};
use crate::step::Step;
use crate::verdict::Asked;
use crate::world::{SLACK, TIMEOUT, World};

/// New steps a second, those that are polled, and those that are asked for afterwards.
const STEPS: u64 = 12;
const POLLED: u64 = 100;
const REMEMBERED: u64 = 500;

/// A connection that was idle for longer is left to the gateway to close.
const IDLE: Duration = Duration::from_secs(20);

/// The callers, with what they know.
pub(super) struct Traffic {
    world: Arc<World>,
    weather: Arc<Weather>,
    seed: u64,
    started: Instant,
    figures: Mutex<Figures>,
    /// ETags of final bodies that were right.
    etags: Mutex<HashMap<(&'static str, Step), String>>,
    lines: Mutex<Vec<(Line, Instant)>>,
    streams: Mutex<HashMap<&'static str, Arc<H2>>>,
    /// Steps below this number are forgotten.
    forgotten: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    pub(super) fn new(world: &Arc<World>, weather: &Arc<Weather>, seed: u64) -> Self {
        Self {
            world: Arc::clone(world),
            weather: Arc::clone(weather),
            seed,
            started: Instant::now(),
            figures: Mutex::default(),
            etags: Mutex::default(),
            lines: Mutex::default(),
            streams: Mutex::default(),
            forgotten: Mutex::default(),
        }
    }

    pub(super) fn figures(&self) -> Figures {
        *lock(&self.figures)
    }

    /// The step with this number.
    fn step(&self, number: u64) -> Step {
        Step::draw(&mut Dice::of(self.seed, &["step", &number.to_string()]))
    }

    fn choose(&self, errand: Errand, dice: &mut Dice) -> Step {
        let newest = u64::from(self.started.elapsed().subsec_millis()) * STEPS / 1000
            + self.started.elapsed().as_secs() * STEPS;
        let (span, back) = match errand {
            Errand::Again | Errand::IfNoneMatch => (REMEMBERED, POLLED),
            _ => (POLLED, 0),
        };
        let span = usize::try_from(span).unwrap_or(1);
        let ago = back + u64::try_from(dice.below(span)).unwrap_or(0);
        self.forget(newest.saturating_sub(POLLED + 2 * REMEMBERED));
        let step = self.step(newest.saturating_sub(ago));
        match errand {
            Errand::List => step.list(),
            Errand::Included => Step {
                query: "include%5B%5D=step_details".to_owned(),
                ..step
            },
            _ => step,
        }
    }

    fn forget(&self, below: u64) {
        let from = {
            let mut forgotten = lock(&self.forgotten);
            let from = *forgotten;
            *forgotten = below.max(from);
            from
        };
        for number in from..below {
            let step = self.step(number);
            lock(&self.etags).retain(|(_, known), _| *known != step);
            for step in [step.list(), step] {
                self.world.origin.forget(&step);
            }
        }
    }

    /// One request, from its draw to its verdict.
    pub(super) async fn one(&self, number: u64) {
        let mut dice = Dice::of(self.seed, &["request", &number.to_string()]);
        let errand = Errand::draw(&mut dice);
        let client = &CLIENTS[dice.below(CLIENTS.len())];
        let step = self.choose(errand, &mut dice);
        let bearer = format!("Bearer {}", client.token);
        let etag = lock(&self.etags)
            .get(&(client.account, step.clone()))
            .cloned();
        let mut headers = vec![
            ("authorization", bearer.as_str()),
            ("cookie", "session=canary-caller-cookie"),
            ("x-portkey-custom-host", "http://canary-caller-host"),
        ];
        headers.extend(match errand {
            Errand::NoCache => Some(("cache-control", "no-cache")),
            Errand::NoStore => Some(("cache-control", "no-store")),
            Errand::Wait => Some(("prefer", "wait=1")),
            Errand::IfNoneMatch => Some(("if-none-match", etag.as_deref().unwrap_or("\"none\""))),
            _ => None,
        });
        let asked = Asked::now(&self.world.origin, client.account, &step);
        let sent = Instant::now();
        let method = if errand == Errand::Head {
            "HEAD"
        } else {
            "GET"
        };
        let got = self.put(client, method, &step, &headers, &mut dice).await;
        let answered = Instant::now();

        let chance = self.world.origin.struck(&step, sent);
        let held = matches!(&got, Got::Whole(answer) if answer.is_held());
        let touched = chance.is_some() || held || self.weather.touched(sent, answered);
        let (expect, told) = chance.unwrap_or_default();
        // Well-formed errors are counted, not condemned: the share tells.
        let expect = Expect {
            right: true,
            codes: TROUBLE,
            holds: true,
            ..expect
        };
        let verdict = match &got {
            Got::Whole(answer) if shows_secret(&answer.raw) => asked.judge(&got, expect, &told),
            Got::Whole(_) if held && !self.was_told_to_wait(client) => {
                Verdict::Wrong("held, though nobody told its account to wait".to_owned())
            }
            Got::Whole(answer) if errand == Errand::Head => head(answer, touched),
            Got::Whole(answer) if answer.status == 304 && etag.is_some() => {
                not_modified(answer, etag.as_deref())
            }
            _ => asked.judge(&got, expect, &told),
        };
        let verdict = match verdict {
            Verdict::Right if errand == Errand::NoCache => self.is_fresh(&asked),
            other => other,
        };
        if verdict == Verdict::Right {
            self.remember(client, &step, &got);
        }
        let mut figures = lock(&self.figures);
        figures.requests += 1;
        figures.touched += u64::from(touched);
        figures.untouched_right += u64::from(!touched && verdict == Verdict::Right);
        drop(figures);
        let case = Case {
            seed: self.seed,
            number,
            kind: errand.as_str().to_owned(),
        };
        self.world.note(&case, &verdict, got.raw());
    }

    /// Whether a 429 said to this client's account may still be in force.
    fn was_told_to_wait(&self, client: &Client) -> bool {
        let within = TIMEOUT + SLACK;
        self.world
            .origin
            .shared
            .was_told_to_wait(client.account, within)
    }

    /// `no-cache` is answered by a fetch of its time, also where a final body is stored.
    fn is_fresh(&self, asked: &Asked<'_>) -> Verdict {
        let now = self
            .world
            .origin
            .shared
            .shelf
            .now(asked.account, asked.step);
        if now.fetches > asked.sent.fetches {
            Verdict::Right
        } else {
            Verdict::Wrong("no-cache was answered without a fetch".to_owned())
        }
    }

    /// The ETag of a final body, for a later condition.
    fn remember(&self, client: &Client, step: &Step, got: &Got) {
        let Got::Whole(answer) = got else {
            return;
        };
        if answer.status == 200
            && let Some(etag) = answer.header("etag")
            && step
                .edition_of(client.account, &answer.body)
                .is_ok_and(|e| e.is_final)
        {
            lock(&self.etags).insert((client.account, step.clone()), etag.to_owned());
        }
    }

    /// Puts the request in one of several ways.
    async fn put(
        &self,
        client: &Client,
        method: &str,
        step: &Step,
        headers: &[(&str, &str)],
        dice: &mut Dice,
    ) -> Got {
        let limit = TIMEOUT + SLACK;
        let at = self.world.gateway.data;
        let target = step.target();
        let bodiless = method == "HEAD";
        let way = dice.below(10);
        if way < 4 {
            let streams = match self.streams(client).await {
                Ok(streams) => streams,
                Err(why) => return Got::Closed(why),
            };
            return streams.ask(method, &target, headers, limit).await;
        }
        let kept = if way < 8 { self.kept() } else { None };
        let mut line = match kept {
            Some(line) => line,
            None => match Line::connect(at).await {
                Ok(line) => line,
                Err(error) => return Got::Closed(error.to_string()),
            },
        };
        let mut headers = headers.to_vec();
        if way >= 8 {
            headers.push(("connection", "close"));
        }
        if let Err(error) = line.send(method, &target, &headers).await {
            return Got::Closed(error.to_string());
        }
        let got = line.answer(bodiless, limit).await;
        if way < 8
            && let Got::Whole(answer) = &got
            && answer.header("connection") != Some("close")
        {
            lock(&self.lines).push((line, Instant::now()));
        }
        got
    }

    fn kept(&self) -> Option<Line> {
        let mut lines = lock(&self.lines);
        let (line, since) = lines.pop()?;
        // The others have been idle for longer.
        if since.elapsed() > IDLE {
            lines.clear();
            return None;
        }
        Some(line)
    }

    async fn streams(&self, client: &Client) -> Result<Arc<H2>, String> {
        let known = lock(&self.streams).get(client.name).cloned();
        if let Some(streams) = known.filter(|streams| streams.is_open()) {
            return Ok(streams);
        }
        let streams = Arc::new(H2::connect(self.world.gateway.data).await?);
        lock(&self.streams).insert(client.name, Arc::clone(&streams));
        Ok(streams)
    }
}

/// Of what is streamed because it is too large, nobody may know the length.
fn head(answer: &Answer, touched: bool) -> Verdict {
    let length = answer
        .header("content-length")
        .and_then(|length| length.parse::<u64>().ok());
    match answer.status {
        _ if !answer.body.is_empty() => Verdict::Wrong("HEAD with a body".to_owned()),
        200 if length > Some(0) || touched => Verdict::Right,
        200 => Verdict::Wrong("HEAD without a length".to_owned()),
        _ => Verdict::Error,
    }
}

fn not_modified(answer: &Answer, etag: Option<&str>) -> Verdict {
    if answer.body.is_empty() && answer.header("etag") == etag {
        Verdict::Right
    } else {
        Verdict::Wrong("304 of something else".to_owned())
    }
}
