//! A crowd of pollers on one live step: how few fetches they cost, and what a poll costs beside a hit.

use super::comparison::{CONNECTIONS, Sample, time};
use crate::Fallible;
use crate::contender::{Contender, Kind, Stage};
use crate::open_loop::pace;
use crate::process::LOAD;
use crate::report::{Reach, Section, Series, Table, Unit, as_figure};
use crate::steps::{SMALL, done, forward, keep, live};
use crate::suite::Effort;
use crate::upstream::Upstream;
use crate::wrk::Wrk;

/// As far away as an upstream in the same region.
const AWAY: u32 = 20;

const WORK: &str = "64 pollers on one live step";

pub(super) fn run(stage: &Stage, effort: Effort) -> Fallible<Section> {
    let upstream = Upstream::plain()?;
    let stepgate = Contender::start(Kind::Stepgate(1), stage, &upstream)?;
    keep(&stepgate, &upstream, &done(SMALL, "1"))?;
    forward(&stepgate, &upstream, &live(SMALL, AWAY, "1"))?;
    let measure = |path: &str, seconds: u32| {
        let wrk = Wrk {
            connections: CONNECTIONS,
            seconds,
            place: LOAD,
            url: stepgate.url(path),
            others: None,
        };
        time(&stepgate, &wrk)
    };
    // Who is asked seldom sleeps in between, and pays more for each request. So hits are asked for as
    // the polls are: by all at once, and as seldom.
    let at_pace = |rate: f64, seconds: u32| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some hundreds a second"
        )]
        let rate = rate.round() as u32;
        let before = stepgate.used();
        let path = done(SMALL, "1");
        let hits = pace(
            stepgate.address,
            &path,
            rate,
            seconds,
            CONNECTIONS,
            CONNECTIONS,
        )?;
        let used = stepgate.used().since(&before);
        Fallible::Ok(used.as_secs_f64() * 1e6 / as_figure(hits.requests))
    };
    measure(&done(SMALL, "1"), 1)?;
    let [mut hits, mut seldom, mut polls, mut rate, mut fetches] = [const { Vec::new() }; 5];
    for round in 1..=effort.rounds {
        let (Sample { cpu, .. }, _) = measure(&done(SMALL, "1"), effort.seconds)?;
        hits.push(cpu);
        let before = upstream.asked_in_all()?;
        // They wait for departures, so there are few of them: twice as long.
        let path = live(SMALL, AWAY, &round.to_string());
        let (Sample { cpu, per_second }, answered) = measure(&path, 2 * effort.seconds)?;
        polls.push(cpu);
        seldom.push(at_pace(per_second, 2 * effort.seconds)?);
        rate.push(per_second);
        fetches.push(as_figure(upstream.asked()? - before) / as_figure(answered));
    }
    let [hits, seldom, polls, rate, fetches] =
        [hits, seldom, polls, rate, fetches].map(|figures| figures.into_iter().collect::<Series>());
    let mut table = Table::new(["figure", "median", "least to most"]);
    for (name, series, unit) in [
        ("CPU µs per poll", &polls, Unit::Micros),
        ("CPU µs per hit at that pace", &seldom, Unit::Micros),
        ("CPU µs per hit, as many as it can", &hits, Unit::Micros),
        ("polls/s", &rate, Unit::Count),
        ("fetches per poll", &fetches, Unit::Share),
    ] {
        let (median, spread) = (unit.show(series.median()), series.spread(unit));
        table.row([name.to_owned(), median, spread]);
    }
    let reach = |against: &str, unit, figure, spread, at_most| Reach {
        work: WORK.to_owned(),
        against: against.to_owned(),
        unit,
        figure,
        spread,
        at_most: Some(at_most),
    };
    let share = fetches.median();
    let ratio = |to: &Series| polls.median() / to.median();
    let spread = |to: &Series| polls.over(to).spread(Unit::Ratio);
    Ok(Section {
        title: WORK.to_owned(),
        how: format!(
            "A closed loop: each asks again as soon as it is answered. The upstream is {AWAY} ms away."
        ),
        table,
        reaches: vec![
            reach(
                "fetches per poll",
                Unit::Share,
                share,
                fetches.spread(Unit::Share),
                0.02,
            ),
            reach(
                "CPU of a hit at that pace",
                Unit::Ratio,
                ratio(&seldom),
                spread(&seldom),
                1.5,
            ),
            reach(
                "CPU of a hit, as many as it can",
                Unit::Ratio,
                ratio(&hits),
                spread(&hits),
                1.5,
            ),
        ],
    })
}
