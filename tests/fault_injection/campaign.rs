//! The campaign: every fault so many times, in an order that the seed gives. Lanes work side by side,
//! each with a testbed of its own. Within a lane there is one fault at a time.

use std::error::Error;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fault::{self, Effect, Fault, Injection};
use crate::fixtures::certificates::Authority;
use crate::fixtures::client::Version;
use crate::fixtures::origin::{Connections, Protocol};
use crate::fixtures::random::seeded;
use crate::judge::raw;
use crate::ledger::{Case, Ledger, Verdict, print};
use crate::step::Step;
use crate::testbed::{LIMIT, Testbed};
use crate::upstream_faults::UNSOLICITED;

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    /// The number of injections of each fault.
    pub(crate) each: u64,
    /// The only fault to inject; `None` for all.
    pub(crate) only: Option<String>,
    /// The number of lanes for HTTP/1.1 without TLS. Each other protocol has half as many.
    pub(crate) lanes: usize,
}

/// Runs the campaign. The ledger says how it went.
pub(crate) async fn run(options: &Options, ledger: &Ledger) -> Result<(), Box<dyn Error>> {
    let Options {
        seed,
        each,
        only,
        lanes,
    } = options;
    let mut faults = fault::all();
    faults.retain(|fault| only.as_deref().is_none_or(|only| only == fault.name));
    if faults.is_empty() {
        let names: Vec<&str> = fault::all().iter().map(|fault| fault.name).collect();
        return Err(format!("no such fault; there are: {}", names.join(" ")).into());
    }
    let count = faults.len();
    print(&format!(
        "{count} faults, {each} injections each, seed {seed}"
    ));
    let started = Instant::now();
    let authority = Authority::new();
    let mut tasks = JoinSet::new();
    for (protocol, lanes) in [
        (Protocol::Http1, *lanes),
        (Protocol::Http1Tls, lanes.div_ceil(2)),
        (Protocol::Http2, lanes.div_ceil(2)),
    ] {
        let mut injections: Vec<(Fault, u64)> = faults
            .iter()
            .filter(|fault| fault.protocol == protocol)
            .flat_map(|&fault| (0..*each).map(move |number| (fault, number)))
            .collect();
        seeded(*seed, &["order"]).shuffle(&mut injections);
        for share in injections.chunks(injections.len().div_ceil(lanes).max(1)) {
            let testbed = Testbed::start(protocol, &authority, ledger).await?;
            tasks.spawn(lane(testbed, share.to_vec(), *seed));
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            let lost = Verdict::Lost(format!("a lane ended: {error}"));
            ledger.note(&Case::new(*seed, 0, "lane"), &lost, b"");
        }
    }
    for (name, counts) in ledger.by_name() {
        if counts.bad() > 0 {
            print(&format!("{name}: {counts:?}"));
        }
    }
    let total = ledger.total();
    print(&format!(
        "{count} faults × {each}, seed {seed}, {:.0} s: {} requests; {} correct, {} errors as \
         expected, {} truncated as expected; {} lost, {} wrong, {} leaked",
        started.elapsed().as_secs_f64(),
        total.all(),
        total.correct,
        total.error,
        total.truncated,
        total.lost,
        total.wrong,
        total.leaked
    ));
    Ok(())
}

async fn lane(testbed: Testbed, injections: Vec<(Fault, u64)>, seed: u64) {
    for (fault, number) in injections {
        let case = Case::new(seed, number, fault.name);
        testbed.upstream.set_case(&case);
        inject(&testbed, &fault, &case).await;
    }
    testbed.end(&Case::new(seed, 0, "end")).await;
}

/// Injects one fault, judges what came of it, and looks for traces that it left.
async fn inject(testbed: &Testbed, fault: &Fault, case: &Case) {
    let mut rng = seeded(case.seed, &[fault.name, &case.number.to_string()]);
    let (step, other) = (Step::draw(&mut rng), Step::draw(&mut rng));
    let needs_reuse = match fault.effect {
        // These strike a connection that was used before.
        Effect::Reused(_) | Effect::Stream(_) | Effect::ReusedStream(_) => true,
        Effect::Connections(_) | Effect::Response(_) | Effect::Run(_) => false,
    };
    if rng.bool() || needs_reuse {
        let expected = fault::Expected {
            rate_limited: true,
            ..fault::CORRECT
        };
        let first = Step::draw(&mut rng);
        let what = "a request before the fault";
        testbed.probe(case, &first, what, expected).await;
    }
    let injection = Injection {
        testbed,
        case,
        step: &step,
        other: &other,
        version: match rng.u32(..4) {
            0 => Version::Http2,
            _ => Version::Http1,
        },
    };
    match fault.effect {
        Effect::Connections(connections) => {
            strike_connections(&injection, fault, connections).await
        }
        Effect::Response(_) | Effect::Reused(_) | Effect::Stream(_) | Effect::ReusedStream(_) => {
            strike_fetches(&injection, fault).await;
        }
        Effect::Run(run) => run(&injection).await,
    }
    testbed.settle(case).await;
    for (step, what) in [
        (&step, "the same step after the fault"),
        (&other, "another step after the fault"),
    ] {
        testbed.probe(case, step, what, fault.expected).await;
    }
    for step in [&step, &other] {
        testbed.upstream.forget(step);
    }
}

async fn strike_connections(injection: &Injection<'_>, fault: &Fault, connections: Connections) {
    let Injection {
        testbed,
        case,
        step,
        version,
        ..
    } = *injection;
    testbed.set_connections(connections).await;
    let sent = testbed.sent(step);
    let outcome = testbed.get(version, step).await;
    let verdict = sent.judge(&outcome, fault.expected, &[]).await;
    testbed.set_connections(Connections::Serve).await;
    testbed.note(case, &verdict, raw(&outcome));
}

/// Lets the fault strike the step's fetches. A request for another step beside it must be correct.
async fn strike_fetches(injection: &Injection<'_>, fault: &Fault) {
    let Injection {
        testbed,
        case,
        step,
        other,
        version,
    } = *injection;
    testbed.upstream.plan(step, fault.effect);
    // A fault of a connection may strike any request on it.
    let strikes_alone =
        !matches!(fault.effect, Effect::Response(_)) || UNSOLICITED.contains(&fault.name);
    let sent = testbed.sent(step);
    let bystander = async {
        if case.number.is_multiple_of(2) && !strikes_alone {
            let what = "another step beside the fault";
            testbed.probe(case, other, what, fault.expected).await;
        }
    };
    let (outcome, ()) = tokio::join!(testbed.get(version, step), bystander);
    // What the upstream sends unasked has to come before the next request, or nothing could tell it
    // from a response. Over HTTP/2 it sends nothing unasked.
    let is_done = fault.protocol == Protocol::Http2 || testbed.upstream.is_done(step, LIMIT).await;
    let plan = testbed.upstream.unplan(step);
    let verdict = if !is_done {
        Verdict::Lost("the gateway kept the fetch's connection".to_owned())
    } else if plan.struck == 0 {
        Verdict::Wrong("the fault did not strike".to_owned())
    } else {
        sent.judge(&outcome, fault.expected, &plan.sent).await
    };
    testbed.note(case, &verdict, raw(&outcome));
}
