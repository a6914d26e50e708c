//! One row: a fleet of so many gateways, with the shared tier or without, and its pollers' time.

use std::time::Duration;

use super::caller::p50_and_p99;
use super::crowd::{Crowd, STEPS, poll_all};
use super::redis::Redis;
use crate::Fallible;
use crate::ask::ask;
use crate::clock::{now, pause};
use crate::contender::{Contender, Stage};
use crate::origin::FINALS;
use crate::report::{Series, as_figure};
use crate::upstream::Upstream;

/// What is written behind is written sooner.
const WRITTEN: Duration = Duration::from_millis(100);

pub(super) struct Row {
    pub(super) gateways: u32,
    pub(super) has_tier: bool,
}

/// One of each in every round; latencies in microseconds.
#[derive(Default)]
pub(super) struct Figures {
    /// A step.
    pub(super) fetches: Series,
    /// A step: those whose answer was final.
    pub(super) finals: Series,
    pub(super) polls: Series,
    pub(super) shared_hits: Series,
    /// In all rounds.
    pub(super) wrong: u64,
    /// Processor time of all gateways per poll, in microseconds.
    pub(super) cpu: Series,
    pub(super) memory: [Series; 2],
    pub(super) shared: [Series; 2],
    /// A second.
    pub(super) commands: Series,
    /// A second, there and back.
    pub(super) bytes: [Series; 2],
}

impl Row {
    /// Starts the fleet anew: none inherits another's memory.
    pub(super) fn take(
        &self,
        crowd: Crowd,
        word: &str,
        span: Duration,
        stage: &Stage,
        upstream: &Upstream,
        figures: &mut Figures,
    ) -> Fallible<()> {
        let redis = self.has_tier.then(Redis::start).transpose()?;
        let address = redis.as_ref().map(|redis| redis.address);
        let gateways = (0..self.gateways)
            .map(|_| Contender::start_in_fleet(stage, upstream, address))
            .collect::<Fallible<Vec<_>>>()?;
        let (fetches, finals) = (upstream.asked()?, finals(upstream)?);
        let used: Vec<_> = gateways.iter().map(Contender::used).collect();
        let counted = redis.as_ref().map(Redis::counted).transpose()?;
        let begun = now();
        let tally = poll_all(&gateways, crowd, word, span)?;
        pause(WRITTEN);
        let seconds = begun.elapsed().as_secs_f64();
        if let (Some(redis), Some(before)) = (&redis, &counted) {
            let moved = redis.counted()?.since(before);
            let a_second = |count: u64| as_figure(count) / seconds;
            figures.commands.push(a_second(moved.commands));
            let [there, back] = &mut figures.bytes;
            there.push(a_second(moved.bytes_in));
            back.push(a_second(moved.bytes_out));
        }
        let used = gateways.iter().zip(&used);
        let used: Duration = used.map(|(g, before)| g.used().since(before)).sum();
        let polls = as_figure(tally.answers() as u64);
        let a_step = |count: u64| as_figure(count) / f64::from(STEPS);
        figures.fetches.push(a_step(upstream.asked()? - fetches));
        let finals = self::finals(upstream)? - finals;
        figures.finals.push(a_step(finals));
        figures.polls.push(polls);
        figures
            .shared_hits
            .push(as_figure(tally.shared.len() as u64));
        figures.wrong += tally.wrong;
        figures.cpu.push(used.as_secs_f64() * 1e6 / polls);
        for (series, latencies) in [
            (&mut figures.memory, &tally.memory),
            (&mut figures.shared, &tally.shared),
        ] {
            if let Some((p50, p99)) = p50_and_p99(latencies) {
                let [half, most] = series;
                half.push(p50);
                most.push(p99);
            }
        }
        Ok(())
    }
}

fn finals(upstream: &Upstream) -> Fallible<u64> {
    Ok(ask(upstream.address, FINALS)?.text().parse()?)
}
