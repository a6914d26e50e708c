//! The campaign: every kind so many times, in an order that the seed gives. Lanes work side by
//! side, each with an origin and a gateway of its own; within a lane one fault at a time.

use std::error::Error;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::caller::Manner;
use crate::dice::Dice;
use crate::kind::{Harm, Kind, Wire};
use crate::kinds::life::UNASKED;
use crate::ledger::{Case, Ledger, Verdict, say};
use crate::origin::{Authority, Door};
use crate::step::Step;
use crate::world::{LIMIT, World};
use crate::{client_faults, process_faults};

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    pub(crate) seed: u64,
    /// Injections of each kind.
    pub(crate) each: u64,
    /// Only this kind.
    pub(crate) only: Option<String>,
    /// Lanes for plain HTTP; half as many for each of the others.
    pub(crate) lanes: usize,
}

/// One fault to inject.
#[derive(Clone, Copy)]
struct Injection {
    kind: Kind,
    number: u64,
}

/// Runs it. The ledger tells how it went.
pub(crate) async fn run(orders: &Orders, ledger: &Ledger) -> Result<(), Box<dyn Error>> {
    let mut kinds = Kind::all();
    kinds.retain(|kind| orders.only.as_deref().is_none_or(|only| only == kind.word));
    if kinds.is_empty() {
        let words: Vec<&str> = Kind::all().iter().map(|kind| kind.word).collect();
        return Err(format!("no such kind; there are: {}", words.join(" ")).into());
    }
    let (seed, each) = (orders.seed, orders.each);
    say(&format!(
        "{} kinds of fault, {each} injections each, seed {seed}",
        kinds.len()
    ));
    let started = Instant::now();
    let authority = Arc::new(Authority::new()?);
    let mut lanes = JoinSet::new();
    for (wire, count) in [
        (Wire::Plain, orders.lanes),
        (Wire::Tls, orders.lanes.div_ceil(2)),
        (Wire::Http2, orders.lanes.div_ceil(2)),
    ] {
        for injections in deal(&kinds, wire, count, orders) {
            let world = World::new(wire, &authority, ledger).await?;
            lanes.spawn(lane(world, injections, seed));
        }
    }
    while let Some(done) = lanes.join_next().await {
        done?;
    }
    let seconds = started.elapsed().as_secs_f64();
    report(ledger, kinds.len(), each, seed, seconds);
    Ok(())
}

/// The injections over this wire, shuffled, dealt to at most `count` lanes.
fn deal(kinds: &[Kind], wire: Wire, count: usize, orders: &Orders) -> Vec<Vec<Injection>> {
    let of_wire = kinds.iter().filter(|kind| kind.wire == wire);
    let mut all: Vec<Injection> = of_wire
        .flat_map(|&kind| (0..orders.each).map(move |number| Injection { kind, number }))
        .collect();
    Dice::of(orders.seed, &["order"]).shuffle(&mut all);
    let share = all.len().div_ceil(count).max(1);
    all.chunks(share).map(<[Injection]>::to_vec).collect()
}

async fn lane(world: World, injections: Vec<Injection>, seed: u64) {
    for Injection { kind, number } in injections {
        let case = Case {
            seed,
            number,
            kind: kind.word.to_owned(),
        };
        world.origin.set_case(&case);
        inject(&world, &kind, &case).await;
    }
    let case = Case {
        seed,
        number: 0,
        kind: "end".to_owned(),
    };
    world.end(&case).await;
}

/// Injects one fault, judges what came of it, and looks for traces that it left.
async fn inject(world: &World, kind: &Kind, case: &Case) {
    let number = case.number.to_string();
    let mut dice = Dice::of(case.seed, &[kind.word, &number]);
    let (step, other) = (Step::draw(&mut dice), Step::draw(&mut dice));
    let warm = match kind.harm {
        // These strike a connection that was used before.
        Harm::Reused(_) | Harm::Stream(_) => true,
        Harm::Door(_) | Harm::Answer(_) | Harm::Caller(_) | Harm::Deed(_) => dice.one_in(2),
    };
    if warm {
        world.warm(case, &Step::draw(&mut dice)).await;
    }
    let manner = if dice.one_in(4) {
        Manner::Http2
    } else {
        Manner::Http1
    };
    match kind.harm {
        Harm::Door(door) => meet_door(world, kind, door, case, manner, &step).await,
        Harm::Answer(_) | Harm::Reused(_) | Harm::Stream(_) => {
            meet_answer(world, kind, case, manner, (&step, &other)).await;
        }
        Harm::Caller(prank) => {
            client_faults::play(prank, world, case, &mut dice, (&step, &other)).await
        }
        Harm::Deed(deed) => {
            process_faults::befall(deed, world, case, &mut dice, (&step, &other)).await
        }
    }
    world.settle(case).await;
    world
        .probe(case, &step, "the same step after the fault", kind.expect)
        .await;
    world
        .probe(case, &other, "another step after the fault", kind.expect)
        .await;
    for step in [&step, &other] {
        world.origin.forget(step);
    }
}

async fn meet_door(
    world: &World,
    kind: &Kind,
    door: Door,
    case: &Case,
    manner: Manner,
    step: &Step,
) {
    if let Err(error) = world.origin.set_door(door).await {
        say(&format!("the rig cannot set {door:?}: {error}"));
    }
    let asked = world.asked(step);
    let got = world.ask(manner, step).await;
    let verdict = asked.judge(&got, kind.expect, &[]);
    if let Err(error) = world.origin.set_door(Door::Open).await {
        say(&format!("the rig cannot open its door: {error}"));
    }
    world.note(case, &verdict, got.raw());
}

/// The harm strikes `step`; a request for `other` flies beside it and must be right.
async fn meet_answer(
    world: &World,
    kind: &Kind,
    case: &Case,
    manner: Manner,
    (step, other): (&Step, &Step),
) {
    world.origin.plan(step, kind.harm);
    // A harm to a connection is not for others to meet.
    let alone = !matches!(kind.harm, Harm::Answer(_)) || UNASKED.contains(&kind.word);
    let beside = case.number.is_multiple_of(2) && !alone;
    let asked = world.asked(step);
    let bystander = async {
        if beside {
            world
                .probe(case, other, "another step beside the fault", kind.expect)
                .await;
        }
    };
    let (got, ()) = tokio::join!(world.ask(manner, step), bystander);
    // What is said unasked must be said before the next question, or nobody can tell it from an
    // answer. Over HTTP/2 nothing is.
    let done = kind.wire == Wire::Http2 || world.origin.is_done(step, LIMIT).await;
    let plan = world.origin.unplan(step);
    let verdict = if !done {
        Verdict::Lost("the gateway kept the fetch's connection".to_owned())
    } else if plan.struck == 0 {
        Verdict::Wrong("the rig did not get to inject it".to_owned())
    } else {
        asked.judge(&got, kind.expect, &plan.told)
    };
    world.note(case, &verdict, got.raw());
}

/// A line a kind, and the sum.
fn report(ledger: &Ledger, kinds: usize, each: u64, seed: u64, seconds: f64) {
    for (kind, counts) in ledger.by_kind() {
        if counts.bad() > 0 {
            say(&format!("{kind}: {counts:?}"));
        }
    }
    let total = ledger.total();
    say(&format!(
        "{kinds} kinds × {each}, seed {seed}, {seconds:.0} s: {} requests; {} right, {} errors as \
         they should be, {} cut as they should be; {} lost, {} wrong, {} leaked",
        total.all(),
        total.right,
        total.error,
        total.cut,
        total.lost,
        total.wrong,
        total.leaked
    ));
}
