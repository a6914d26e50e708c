//! How long hits take at a pace that everybody can hold.

use std::io::{self, Write};

use super::comparison::CONNECTIONS;
use crate::Fallible;
use crate::contender::{Contender, Files, Kind, Stage};
use crate::open_loop::pace;
use crate::report::{Reach, Section, Series, Table, Unit, as_figure};
use crate::steps::{SMALL, done, keep};
use crate::suite::Effort;
use crate::upstream::Upstream;

/// Requests a second.
const RATE: u32 = 2000;

const KINDS: [Kind; 5] = [
    Kind::Stepgate(1),
    Kind::Bare(SMALL),
    Kind::Haproxy,
    Kind::Nginx(Files::Read),
    Kind::Varnish,
];

/// What is known of one contender.
#[derive(Default)]
struct Known {
    p50: Series,
    p99: Series,
    p999: Series,
    cpu: Series,
}

pub(super) fn run(stage: &Stage, effort: Effort) -> Fallible<Section> {
    let upstream = Upstream::plain()?;
    let path = done(SMALL, "1");
    let contenders = KINDS
        .into_iter()
        .map(|kind| Contender::start(kind, stage, &upstream))
        .collect::<Fallible<Vec<_>>>()?;
    let measure = |contender: &Contender, seconds| {
        let before = contender.used();
        let latencies = pace(contender.address, &path, RATE, seconds, CONNECTIONS, 1)?;
        let used = contender.used().since(&before);
        Fallible::Ok((latencies, used))
    };
    for contender in &contenders {
        keep(contender, &upstream, &path)?;
        measure(contender, 1)?;
    }
    let mut known: Vec<_> = contenders.iter().map(|_| Known::default()).collect();
    for (round, turn) in (1..=effort.rounds).zip(0..) {
        for place in 0..contenders.len() {
            let one = (place + turn) % contenders.len();
            let (latencies, used) = measure(&contenders[one], effort.seconds)?;
            known[one].p50.push(latencies.p50);
            known[one].p99.push(latencies.p99);
            known[one].p999.push(latencies.p999);
            let requests = as_figure(latencies.requests);
            known[one].cpu.push(used.as_secs_f64() * 1e6 / requests);
        }
        writeln!(io::stderr(), "    round {round} of {}", effort.rounds)?;
    }
    let kinds: Vec<_> = contenders.iter().map(|contender| contender.kind).collect();
    Ok(section(&kinds, &known))
}

fn section(kinds: &[Kind], known: &[Known]) -> Section {
    let mut table = Table::new([
        "contender",
        "p50 µs",
        "p99 µs",
        "least to most",
        "p99.9 µs",
        "CPU µs per request",
    ]);
    let ours = &known[0].p99;
    let mut reaches = Vec::new();
    for (kind, known) in kinds.iter().zip(known) {
        table.row([
            kind.name().to_owned(),
            Unit::Micros.show(known.p50.median()),
            Unit::Micros.show(known.p99.median()),
            known.p99.spread(Unit::Micros),
            Unit::Micros.show(known.p999.median()),
            Unit::Micros.show(known.cpu.median()),
        ]);
        if *kind != kinds[0] {
            reaches.push(Reach {
                work: "p99 of hits at 2,000/s".to_owned(),
                against: kind.name().to_owned(),
                unit: Unit::Ratio,
                figure: ours.median() / known.p99.median(),
                spread: ours.over(&known.p99).spread(Unit::Ratio),
                at_most: None,
            });
        }
    }
    Section {
        title: "Latency of hits at 2,000/s".to_owned(),
        how: "An open loop: every request goes out at its time, whatever is outstanding, and its \
              latency counts from that time (coordinated omission is accounted for)."
            .to_owned(),
        table,
        reaches,
    }
}
