//! What callers do to the gateway, and what it must answer them.

use std::time::Duration;

use hyper::Request;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::caller::{Got, H2, Line, Manner, OWN};
use crate::dice::Dice;
use crate::kind::{Harm, INVALID, Prank, RIGHT};
use crate::ledger::{Case, Verdict};
use crate::origin::script::whole;
use crate::origin::{Material, Move};
use crate::refusals::{drip_a_head, is_refused};
use crate::step::Step;
use crate::verdict::Asked;
use crate::world::{ACCOUNT, LIMIT, SLACK, TIMEOUT, World};

/// Long enough for callers to come and go while a fetch is under way.
const UNDER_WAY: Duration = Duration::from_millis(150);

fn slow(m: &Material) -> Vec<Move> {
    vec![
        Move::Pause(UNDER_WAY),
        Move::Send(whole("200 OK", &[], &m.good)),
    ]
}

fn large(m: &Material) -> Vec<Move> {
    vec![Move::Send(whole("200 OK", &[], &m.lie.repeat(2000)))]
}

fn truncated(m: &Material) -> Vec<Move> {
    let mut answer = whole("200 OK", &[], &m.lie);
    answer.truncate(answer.len() - 5);
    vec![Move::Pause(UNDER_WAY), Move::Send(answer), Move::Close]
}

pub(crate) async fn play(
    prank: Prank,
    world: &World,
    case: &Case,
    dice: &mut Dice,
    (step, other): (&Step, &Step),
) {
    let bare = &["400 ", "408 ", "413 ", "414 ", "431 "][..];
    match prank {
        Prank::LeavesUnanswered | Prank::ResetsUnanswered => {
            leave(world, step, prank == Prank::ResetsUnanswered).await;
        }
        Prank::LeavesHalfAnswered => leave_half_answered(world, step).await,
        Prank::HalfAHead => {
            let half = format!("GET {} HTTP/1.1\r\nhost: loc", step.target());
            is_refused(world, case, half.as_bytes(), bare).await;
        }
        Prank::DripsAHead => drip_a_head(world, case, &head_of(step, "")).await,
        Prank::Silence => is_refused(world, case, b"", &[]).await,
        Prank::HalfAPreface => is_refused(world, case, b"PRI * HTTP/2.0\r\n\r\nSM", bare).await,
        Prank::ReadsSlowly => read_slowly(world, case, step).await,
        Prank::Pipelines => pipeline(world, case, step, other).await,
        Prank::Junk => {
            let mut junk: Vec<u8> = (0..60).flat_map(|_| dice.next().to_le_bytes()).collect();
            junk.extend_from_slice(b"\r\n\r\n");
            is_refused(world, case, &junk, bare).await;
        }
        Prank::TlsHello => {
            let mut hello = vec![22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
            hello.extend_from_slice(&[7; 194]);
            is_refused(world, case, &hello, bare).await;
        }
        Prank::TwoLengths => {
            let head = head_of(step, "content-length: 5\r\ncontent-length: 6\r\n");
            is_refused(world, case, &head, bare).await;
        }
        Prank::HidesARequest => hide_a_request(world, case, step, other).await,
        Prank::LargeHead => {
            let head = head_of(step, &format!("x-note: {}\r\n", "a".repeat(600_000)));
            is_refused(world, case, &head, bare).await;
        }
        Prank::LongTarget => {
            let mut long = step.clone();
            long.query = format!("include[]={}", "a".repeat(80_000));
            is_refused(world, case, &head_of(&long, "connection: close\r\n"), bare).await;
        }
        Prank::BadId => {
            let bad = ["..", "%2e%2e", "a%00b", "a;b", "", "a/", "a b", "é"];
            let mut step = step.clone();
            step.id = Some(bad[dice.below(bad.len())].to_owned());
            is_refused(
                world,
                case,
                &head_of(&step, "connection: close\r\n"),
                &["400 "],
            )
            .await;
        }
        Prank::ForeignHost => {
            let head = format!(
                "GET {} HTTP/1.1\r\nhost: rebound.example\r\nconnection: close\r\n\r\n",
                step.target()
            );
            is_refused(world, case, head.as_bytes(), &["403 "]).await;
        }
        Prank::WebPage => {
            let lines = "origin: https://evil.example\r\nconnection: close\r\n";
            is_refused(world, case, &head_of(step, lines), &["403 "]).await;
        }
        Prank::WrongMethod => {
            let target = step.target();
            let head =
                format!("DELETE {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            is_refused(world, case, head.as_bytes(), &["405 "]).await;
        }
        Prank::ResetsStreams => reset_streams(world, case, step).await,
        Prank::Crowd => crowd(world, case, step).await,
        Prank::CrowdMeetsFailure => {
            world.origin.plan(step, Harm::Answer(truncated));
            crowd(world, case, step).await;
            world.origin.unplan(step);
        }
        Prank::CrowdLosesItsFirst => {
            world.origin.plan(step, Harm::Answer(slow));
            let first = Line::connect(world.gateway.data).await;
            if let Ok(mut first) = first {
                // Its answer is not waited for.
                let _ = first.send("GET", &step.target(), &OWN).await;
                is_under_way(world, step).await;
                let leaves = async {
                    sleep(UNDER_WAY / 3).await;
                    drop(first);
                };
                tokio::join!(crowd(world, case, step), leaves);
            }
            world.origin.unplan(step);
        }
    }
}

fn head_of(step: &Step, lines: &str) -> Vec<u8> {
    let target = step.target();
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n").into_bytes()
}

/// Waits until the upstream has been asked for `step`.
async fn is_under_way(world: &World, step: &Step) {
    let patience = Instant::now() + LIMIT;
    let fetches = || world.origin.shared.shelf.now(ACCOUNT, step).fetches;
    while fetches() == 0 && Instant::now() < patience {
        sleep(Duration::from_millis(2)).await;
    }
}

async fn leave(world: &World, step: &Step, by_reset: bool) {
    world.origin.plan(step, Harm::Answer(slow));
    if let Ok(mut line) = Line::connect(world.gateway.data).await {
        // Nobody reads what comes of it.
        let _ = line.send("GET", &step.target(), &OWN).await;
        is_under_way(world, step).await;
        if by_reset {
            line.reset();
        }
    }
    world.origin.unplan(step);
}

async fn leave_half_answered(world: &World, step: &Step) {
    world.origin.plan(step, Harm::Answer(large));
    if let Ok(mut line) = Line::connect(world.gateway.data).await {
        let _ = line.send("GET", &step.target(), &OWN).await;
        // A few bytes of it, slowly; then no more.
        let some = Duration::from_millis(50);
        let _ = line
            .paced(false, some, 1024, Duration::from_millis(5))
            .await;
    }
    world.origin.unplan(step);
}

async fn read_slowly(world: &World, case: &Case, step: &Step) {
    let asked = world.asked(step);
    let Ok(mut line) = Line::connect(world.gateway.data).await else {
        return;
    };
    let _ = line.send("GET", &step.target(), &OWN).await;
    let pause = Duration::from_millis(4);
    let got = line.paced(false, LIMIT, 700, pause).await;
    let verdict = asked.judge(&got, RIGHT, &[]);
    world.note(case, &verdict, got.raw());
}

async fn pipeline(world: &World, case: &Case, step: &Step, other: &Step) {
    let steps = [step, other, step, other, step];
    let asked: Vec<Asked<'_>> = steps.iter().map(|step| world.asked(step)).collect();
    let Ok(mut line) = Line::connect(world.gateway.data).await else {
        return;
    };
    let all: Vec<u8> = steps.iter().flat_map(|step| head_of(step, "")).collect();
    let _ = line.write(&all).await;
    for asked in asked {
        let got = line.answer(false, LIMIT).await;
        let verdict = asked.judge(&got, RIGHT, &[]);
        world.note(case, &verdict, got.raw());
    }
}

async fn hide_a_request(world: &World, case: &Case, step: &Step, other: &Step) {
    let hidden = head_of(other, "");
    let length = format!("content-length: {}\r\n", hidden.len());
    let asked = world.asked(step);
    let Ok(mut line) = Line::connect(world.gateway.data).await else {
        return;
    };
    let _ = line.write(&[head_of(step, &length), hidden].concat()).await;
    let got = line.answer(false, LIMIT).await;
    let verdict = asked.judge(&got, RIGHT, &[]);
    world.note(case, &verdict, got.raw());
    // The connection may stay open; what it says next must be nothing.
    let quiet = line.answer(false, Duration::from_millis(30)).await;
    let fetches = world.origin.shared.shelf.now(ACCOUNT, other).fetches;
    if matches!(quiet, Got::Whole(_)) || fetches > 0 {
        let why = "a body was taken for a request".to_owned();
        world.note(case, &Verdict::Wrong(why), quiet.raw());
    }
}

async fn reset_streams(world: &World, case: &Case, step: &Step) {
    let Ok(caller) = H2::connect(world.gateway.data).await else {
        return;
    };
    for _ in 0..40 {
        let Ok(mut requests) = caller.requests().ready().await else {
            break;
        };
        let request = Request::get(format!("http://localhost{}", step.target())).body(());
        let Ok(request) = request else {
            break;
        };
        let Ok((_, mut stream)) = requests.send_request(request, true) else {
            break;
        };
        stream.send_reset(h2::Reason::CANCEL);
    }
    let asked = world.asked(step);
    let got = world.ask(Manner::Http2, step).await;
    let verdict = asked.judge(&got, RIGHT, &[]);
    world.note(case, &verdict, got.raw());
}

/// Many at once for one step: right, or, where that is planned, failed together.
async fn crowd(world: &World, case: &Case, step: &Step) {
    let mut callers = JoinSet::new();
    let sent = world.asked(step).sent;
    for number in 0..24 {
        let (data, step) = (world.gateway.data, step.clone());
        let manner = if number % 6 == 0 {
            Manner::Http2
        } else {
            Manner::Http1
        };
        callers.spawn(async move {
            crate::caller::ask(data, manner, "GET", &step, &OWN, TIMEOUT + SLACK).await
        });
    }
    let expect = if case.kind == "crowd_meets_failure" {
        INVALID
    } else {
        RIGHT
    };
    while let Some(Ok(got)) = callers.join_next().await {
        let asked = Asked {
            sent,
            ..world.asked(step)
        };
        let verdict = asked.judge(&got, expect, &[]);
        world.note(case, &verdict, got.raw());
    }
}
