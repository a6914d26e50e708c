//! The same work done by all: processor time per request, contender after contender, round after
//! round.

use std::io::{self, Write};

use crate::Fallible;
use crate::contender::{Contender, Files, Kind, Stage};
use crate::process::{LOAD, Place, SERVED};
use crate::report::{Reach, Section, Series, Table, Unit, as_figure};
use crate::steps::{SMALL, done, forward, keep, live};
use crate::suite::Effort;
use crate::upstream::Upstream;
use crate::wrk::{Others, Wrk};

/// As many callers as a sidecar has, kept busy.
pub(crate) const CONNECTIONS: u32 = 64;

/// What the callers ask for.
#[derive(Clone, Copy)]
enum Work {
    /// One final step of so many bytes.
    Hit(usize),
    /// A step in progress with every request, each its own.
    Forward(usize),
}

pub(super) struct Comparison {
    title: &'static str,
    how: &'static str,
    work: Work,
    tls: bool,
    /// Where contenders and load run.
    places: [Place; 2],
    /// The first is measured against the others, each with the most that the ratio may be.
    ours: Kind,
    others: Vec<(Kind, Option<f64>)>,
}

/// What one measurement says.
pub(crate) struct Sample {
    /// Processor time per request, in microseconds.
    pub(crate) cpu: f64,
    pub(crate) per_second: f64,
}

impl Comparison {
    pub(super) fn hit_small() -> Self {
        Self {
            title: "Hit, 790 B",
            others: vec![
                (Kind::Bare(SMALL), Some(1.10)),
                (Kind::Haproxy, Some(0.80)),
                (Kind::HaproxyStatus, None),
                (Kind::Nginx(Files::Read), Some(0.58)),
                (Kind::Nginx(Files::ReadOpen), None),
                (Kind::Varnish, Some(0.37)),
            ],
            ..Self::of(Work::Hit(SMALL))
        }
    }

    /// HAProxy's body rule holds no more than one buffer: it stays away.
    pub(super) fn hit(kilobytes: usize) -> Self {
        let size = kilobytes * 1024;
        Self {
            title: if kilobytes == 72 {
                "Hit, 72 KB"
            } else {
                "Hit, 840 KB"
            },
            others: vec![
                (Kind::Bare(size), Some(1.10)),
                (Kind::Haproxy, None),
                (Kind::Nginx(Files::Sent), None),
                (Kind::Nginx(Files::SentOpen), None),
                (Kind::Varnish, None),
            ],
            ..Self::of(Work::Hit(size))
        }
    }

    pub(super) fn forward() -> Self {
        Self {
            title: "Forward of a live step",
            others: vec![
                (Kind::Relay, None),
                (Kind::Haproxy, Some(1.0)),
                (Kind::HaproxyStatus, None),
                (Kind::Nginx(Files::Read), Some(0.9)),
                (Kind::Varnish, None),
            ],
            ..Self::of(Work::Forward(SMALL))
        }
    }

    /// Varnish speaks no TLS upwards.
    pub(super) fn forward_tls() -> Self {
        Self {
            title: "Forward of a live step, TLS upstream",
            tls: true,
            others: vec![
                (Kind::Haproxy, Some(1.0)),
                (Kind::Nginx(Files::Read), Some(0.9)),
            ],
            ..Self::of(Work::Forward(SMALL))
        }
    }

    pub(super) fn workers() -> Self {
        Self {
            title: "Hit, two worker threads against one",
            how: "As the hits of 790 B, but neither the gateway nor wrk is tied to a core.",
            places: [Place::Anywhere, Place::Anywhere],
            ours: Kind::Stepgate(2),
            others: vec![(Kind::Stepgate(1), Some(1.10))],
            ..Self::of(Work::Hit(SMALL))
        }
    }

    fn of(work: Work) -> Self {
        let how = match work {
            Work::Hit(_) => {
                "64 callers ask for one stored step as fast as they are answered (wrk, closed loop). \
                 CPU is the server's processor time per request, in user space and in the kernel."
            }
            Work::Forward(_) => {
                "64 callers, every request for another live step of 790 B; connections to the upstream \
                 are kept alive. What comes back is read for its status by stepgate and by HAProxy \
                 with its body rule, by nobody else."
            }
        };
        Self {
            title: "",
            how,
            work,
            tls: false,
            places: [SERVED, LOAD],
            ours: Kind::Stepgate(1),
            others: Vec::new(),
        }
    }

    pub(super) fn run(&self, stage: &Stage, effort: Effort) -> Fallible<Section> {
        let upstream = if self.tls {
            Upstream::with_tls(&stage.authority)?
        } else {
            Upstream::plain()?
        };
        let kinds = std::iter::once(self.ours).chain(self.others.iter().map(|(kind, _)| *kind));
        let contenders = kinds
            .map(|kind| Contender::start_at(self.places[0], kind, stage, &upstream))
            .collect::<Fallible<Vec<_>>>()?;
        for contender in &contenders {
            match self.work {
                Work::Hit(size) => keep(contender, &upstream, &done(size, "1"))?,
                Work::Forward(size) => forward(contender, &upstream, &live(size, 0, "1"))?,
            }
        }
        // Heaps and upstream connections as they are after a while.
        for contender in &contenders {
            self.measure(contender, &upstream, 0, 1)?;
        }
        let mut cpu = vec![Series::default(); contenders.len()];
        let mut pace = cpu.clone();
        for (round, turn) in (1..=effort.rounds).zip(0..) {
            for place in 0..contenders.len() {
                let one = (place + turn) % contenders.len();
                let sample = self.measure(&contenders[one], &upstream, round, effort.seconds)?;
                cpu[one].push(sample.cpu);
                pace[one].push(sample.per_second);
            }
            writeln!(io::stderr(), "    round {round} of {}", effort.rounds)?;
        }
        let kinds: Vec<_> = contenders.iter().map(|contender| contender.kind).collect();
        Ok(self.section(&kinds, &cpu, &pace))
    }

    fn measure(
        &self,
        contender: &Contender,
        upstream: &Upstream,
        round: u32,
        seconds: u32,
    ) -> Fallible<Sample> {
        let mut wrk = Wrk {
            connections: CONNECTIONS,
            seconds,
            place: self.places[1],
            url: contender.url(""),
            others: None,
        };
        match self.work {
            Work::Hit(size) => wrk.url = contender.url(&done(size, "1")),
            Work::Forward(size) => {
                let prefix = live(size, 0, &format!("{round}x"));
                wrk.others = Some(Others {
                    prefix,
                    drawn: None,
                });
            }
        }
        let asked = upstream.asked_in_all()?;
        let (sample, requests) = time(contender, &wrk)?;
        let fetches = upstream.asked()? - asked;
        let right = match self.work {
            Work::Hit(_) => fetches == 0,
            Work::Forward(_) => fetches >= requests,
        };
        if !right {
            let name = contender.kind.name();
            let why = format!("{name}: {fetches} fetches for {requests} requests");
            return Err(why.into());
        }
        Ok(sample)
    }

    fn section(&self, kinds: &[Kind], cpu: &[Series], pace: &[Series]) -> Section {
        let ours = &cpu[0];
        let mut table = Table::new([
            "contender",
            "CPU µs per request",
            "least to most",
            "requests/s",
            "stepgate against it",
        ]);
        let mut reaches = Vec::new();
        for (place, kind) in kinds.iter().enumerate() {
            let theirs = &cpu[place];
            let ratio = ours.median() / theirs.median();
            table.row([
                kind.name().to_owned(),
                Unit::Micros.show(theirs.median()),
                theirs.spread(Unit::Micros),
                Unit::Count.show(pace[place].median()),
                if place == 0 {
                    String::new()
                } else {
                    Unit::Ratio.show(ratio)
                },
            ]);
            if let Some((kind, at_most)) = place.checked_sub(1).map(|other| self.others[other]) {
                reaches.push(Reach {
                    work: self.title.to_owned(),
                    against: kind.name().to_owned(),
                    unit: Unit::Ratio,
                    figure: ratio,
                    spread: ours.over(theirs).spread(Unit::Ratio),
                    at_most,
                });
            }
        }
        Section {
            title: self.title.to_owned(),
            how: self.how.to_owned(),
            table,
            reaches,
        }
    }
}

/// One run of wrk against it, and how many requests that were.
pub(crate) fn time(contender: &Contender, wrk: &Wrk) -> Fallible<(Sample, u64)> {
    let before = contender.used();
    let tally = wrk.run()?;
    let used = contender.used().since(&before);
    let sample = Sample {
        cpu: used.as_secs_f64() * 1e6 / as_figure(tally.requests),
        per_second: tally.per_second,
    };
    Ok((sample, tally.requests))
}
