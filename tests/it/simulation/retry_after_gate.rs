//! The concurrency limit and the Retry-After gate, one behaviour a test.

use super::log::Content::{Live, RateLimited};
use super::log::{Answer, Output};
use super::schedule::{Kind, Ms, Request};
use super::trace::{after, at, led, reply, schedule, trace};

/// Returns a request for another variant of the resource. It has the same partition and a fetch of its own.
fn variant(moment: Ms) -> Request {
    Request {
        target: 1,
        ..at(moment)
    }
}

#[test]
fn a_fetch_waits_for_a_permit_as_long_as_the_queue_timeout() {
    let elsewhere = |moment| Request {
        target: 2,
        ..at(moment)
    };
    let mut schedule = schedule([at(0), elsewhere(10), elsewhere(900)], [after(1200)]);
    (schedule.permits, schedule.queue_timeout) = (1, 1000);
    let trace = trace(&schedule);
    assert_eq!(
        trace.answer(1),
        Some((1010, Answer::Led(Output::Overloaded)))
    );
    assert_eq!(
        trace.answer(2),
        Some((1010, Answer::Joined(Output::Overloaded)))
    );
}

#[test]
fn after_a_429_no_fetch_starts_until_one_goes_first_as_a_probe() {
    let variant = |moment| Request {
        target: 1,
        ..at(moment)
    };
    let elsewhere = Request {
        target: 2,
        ..at(20)
    };
    let rate_limit = reply(10, Kind::RateLimit(990));
    let requests = [at(0), at(20), elsewhere, at(1000), variant(1010), at(1020)];
    let trace = trace(&schedule(
        requests,
        [rate_limit, after(5), after(200), after(5)],
    ));
    assert_eq!(trace.answer(1), Some((20, Answer::Blocked(1, 1000))));
    assert_eq!(trace.answer(2), led(25, 2, Live), "another partition");
    assert_eq!(trace.starts(), [0, 20, 1000, 1200, 1200]);
}

#[test]
fn a_batch_that_is_pending_at_a_429_gets_that_429() {
    let rate_limit = reply(50, Kind::RateLimit(500));
    let trace = trace(&schedule([at(0), at(10)], [rate_limit, after(5)]));
    assert_eq!(trace.starts(), [0]);
    let blocked = Answer::Led(Output::RateLimited(1, 550));
    assert_eq!(trace.answer(1), Some((100, blocked)));
}

#[test]
fn a_fetch_that_waits_for_a_permit_at_a_429_gets_that_429() {
    let rate_limit = reply(50, Kind::RateLimit(500));
    let mut schedule = schedule([at(0), variant(10)], [rate_limit, after(5)]);
    schedule.permits = 1;
    let trace = trace(&schedule);
    assert_eq!(trace.starts(), [0]);
    let blocked = Answer::Led(Output::RateLimited(1, 550));
    assert_eq!(trace.answer(1), Some((50, blocked)));
}

#[test]
fn a_probe_that_gets_a_429_blocks_again() {
    let rate_limit = reply(10, Kind::RateLimit(90));
    let trace = trace(&schedule([at(0), at(100), at(150), at(210)], [rate_limit]));
    assert_eq!(trace.starts(), [0, 100, 210]);
    assert_eq!(trace.answer(1), led(110, 2, RateLimited));
    assert_eq!(trace.answer(2), Some((150, Answer::Blocked(2, 200))));
}

#[test]
fn a_probe_ends_only_its_own_block() {
    let requests = [at(0), variant(0), at(100), variant(450), at(700)];
    let replies = [
        reply(10, Kind::RateLimit(50)),
        reply(300, Kind::RateLimit(100)),
        after(500),
        after(1000),
        after(5),
    ];
    let trace = trace(&schedule(requests, replies));
    // The first probe completes at 600, the second, of the block until 400, at 1450.
    assert_eq!(trace.starts(), [0, 0, 100, 450, 1450]);
    assert_eq!(trace.answer(4), led(1455, 5, Live));
}
