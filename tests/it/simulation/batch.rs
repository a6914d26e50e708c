//! When fetches start and whom they answer, one behaviour a test. The window is 100 ms, the first request
//! has the id 0, and the first fetch has the sequence number 1.

use super::log::Content::{Failed, Final, Live};
use super::log::{Answer, Event};
use super::schedule::{Kind, Ms, Purge, Reply, Request, Scope};
use super::trace::{after, at, force_fresh_at, joined, led, reply, schedule, trace};

#[test]
fn a_lone_poller_never_waits() {
    let trace = trace(&schedule([at(0), at(250), at(350)], [after(40)]));
    assert_eq!(trace.starts(), [0, 250, 350]);
}

#[test]
fn a_key_is_fetched_at_most_once_a_window() {
    let trace = trace(&schedule(
        std::array::from_fn::<_, 30, _>(|n| at(10 * n as Ms)),
        [after(5)],
    ));
    assert_eq!(trace.starts(), [0, 100, 200, 300]);
}

#[test]
fn requests_join_a_batch_until_its_fetch_starts() {
    let trace = trace(&schedule([at(0), at(1), at(50), at(99)], [after(30)]));
    assert_eq!(trace.starts(), [0, 100]);
    let second = [
        led(30, 1, Live),
        led(130, 2, Live),
        joined(130, 2, Live),
        joined(130, 2, Live),
    ];
    assert_eq!(trace.answers(), second);
}

#[test]
fn no_request_joins_a_fetch_that_has_started() {
    let trace = trace(&schedule([at(0), at(1)], [after(90)]));
    assert_eq!(trace.completions(), [90, 190]);
    assert_eq!(trace.answer(1), led(190, 2, Live));
}

#[test]
fn at_most_four_fetches_are_in_flight_and_the_rest_is_pending() {
    let requests = std::array::from_fn::<_, 10, _>(|n| at(100 * n as Ms));
    let trace = trace(&schedule(requests, [after(1000)]));
    assert_eq!(trace.starts(), [0, 100, 200, 300, 1000]);
    assert_eq!(trace.answer(9), joined(2000, 5, Live));
}

#[test]
fn keys_do_not_wait_for_each_other() {
    let elsewhere = Request { target: 2, ..at(1) };
    let trace = trace(&schedule([at(0), elsewhere], [after(50)]));
    assert_eq!(trace.starts(), [0, 1]);
}

#[test]
fn a_final_result_answers_every_waiter() {
    let mut schedule = schedule([at(0), at(110), at(210), at(215)], [after(200), after(500)]);
    schedule.turns[0] = vec![0];
    let trace = trace(&schedule);
    assert_eq!(trace.starts(), [0, 110]);
    let of_another_batch = joined(200, 1, Final);
    assert_eq!(trace.answer(0), led(200, 1, Final));
    assert_eq!(trace.answer(1), of_another_batch);
    assert_eq!(trace.answer(2), Some((210, Answer::Hit(1))));
}

#[test]
fn a_final_result_answers_the_pending_batch() {
    let mut schedule = schedule([at(0), at(10), at(60)], [after(70)]);
    schedule.turns[0] = vec![0];
    let trace = trace(&schedule);
    assert_eq!(trace.starts(), [0]);
    assert_eq!(trace.answer(1), joined(70, 1, Final));
    assert_eq!(trace.answer(2), joined(70, 1, Final));
}

#[test]
fn a_no_cache_request_takes_only_a_fetch_that_started_after_it_even_a_final_one() {
    let mut schedule = schedule([at(0), force_fresh_at(10)], [after(50)]);
    schedule.turns[0] = vec![0];
    let trace = trace(&schedule);
    assert_eq!(trace.starts(), [0, 100]);
    assert_eq!(trace.answer(1), led(150, 2, Final));
}

#[test]
fn a_request_after_a_purge_takes_only_a_fetch_that_started_after_the_purge() {
    let mut schedule = schedule([at(0), at(10), at(30)], [after(50)]);
    schedule.turns[0] = vec![0];
    schedule.purges = vec![Purge {
        at: 20,
        turn: 0,
        scope: Scope::Resource(0),
    }];
    let trace = trace(&schedule);
    assert_eq!(trace.answer(1), joined(50, 1, Final));
    assert_eq!(trace.answer(2).map(|(moment, _)| moment), Some(150));
    // The purge takes two sequence numbers, one on either side of its barrier.
    assert_eq!(trace.stored(), [(1, false), (4, true)]);
}

#[test]
fn a_reload_is_a_barrier_for_all_resources() {
    let other = Request { target: 2, ..at(0) };
    let mut schedule = schedule([at(0), other], [after(50)]);
    schedule.turns = [vec![0], vec![0]];
    schedule.purges = vec![Purge {
        at: 20,
        turn: 0,
        scope: Scope::All,
    }];
    assert_eq!(trace(&schedule).stored(), [(1, false), (2, false)]);
}

#[test]
fn an_older_fetch_never_overwrites_what_a_newer_one_stored() {
    let mut schedule = schedule([at(0), at(100), at(350)], [after(300), after(100)]);
    (schedule.window, schedule.turns[0]) = (0, vec![0]);
    let trace = trace(&schedule);
    assert_eq!(trace.stored(), [(2, true), (1, false)]);
    assert_eq!(trace.answer(2), Some((350, Answer::Hit(2))));
}

#[test]
fn a_forced_fetch_that_finds_the_resource_live_removes_what_is_stored() {
    let mut schedule = schedule([at(0), force_fresh_at(200), at(300)], [after(10)]);
    schedule.turns[0] = vec![0, 200];
    let trace = trace(&schedule);
    assert_eq!(trace.stored(), [(1, true)]);
    assert_eq!(trace.answer(2), led(310, 3, Live));
}

#[test]
fn a_fetch_outlives_the_request_that_started_it() {
    let ends = Request {
        disconnects_after: Some(120),
        ..at(10)
    };
    let trace = trace(&schedule([at(0), ends, at(20)], [after(50)]));
    assert_eq!(trace.starts(), [0, 100]);
    assert_eq!(trace.answer(1), None);
    assert_eq!(trace.answer(2), joined(150, 2, Live));
}

#[test]
fn a_batch_is_fetched_without_the_request_that_created_it() {
    let ends = Request {
        disconnects_after: Some(40),
        ..at(10)
    };
    let trace = trace(&schedule([at(0), ends, at(20)], [after(50)]));
    assert_eq!(trace.starts(), [0, 100]);
    assert_eq!(trace.answer(2), joined(150, 2, Live));
}

#[test]
fn a_fetch_is_dropped_with_its_last_waiter() {
    let ends = Request {
        disconnects_after: Some(50),
        ..at(0)
    };
    let trace = trace(&schedule([ends], [after(100)]));
    assert_eq!(trace.starts(), [0]);
    assert!(trace.completions().is_empty());
    assert_eq!(
        trace.moments(|event| matches!(event, Event::PermitReleased)),
        [50]
    );
}

#[test]
fn no_fetch_starts_for_a_request_that_is_gone() {
    let ends = Request {
        disconnects_after: Some(50),
        ..at(10)
    };
    assert_eq!(trace(&schedule([at(0), ends], [after(5)])).starts(), [0]);
}

#[test]
fn every_waiter_keeps_its_own_deadline() {
    let until = |deadline: Ms| Request {
        patience: deadline - 10,
        ..at(10)
    };
    let never = Reply {
        latency: None,
        ..after(0)
    };
    let trace = trace(&schedule(
        [at(0), until(150), until(300)],
        [after(5), never],
    ));
    assert_eq!(trace.answer(1), Some((150, Answer::TimedOut)));
    assert_eq!(trace.answer(2), Some((300, Answer::TimedOut)));
}

#[test]
fn a_failure_answers_its_own_batch_and_the_next_fetch_starts_clean() {
    let failure = reply(150, Kind::Failure);
    let trace = trace(&schedule(
        [at(0), at(10), at(110)],
        [after(5), failure, after(5)],
    ));
    assert_eq!(trace.answer(1), led(250, 2, Failed));
    assert_eq!(trace.answer(2), led(205, 3, Live));
}

#[test]
fn c36_a_panic_in_a_fetch_abandons_its_waiters_and_the_next_fetch_starts_clean() {
    for kind in [Kind::Panic, Kind::PanicAtOnce] {
        let schedule = schedule(
            [at(0), at(10), at(20), at(300)],
            [after(5), reply(0, kind), after(5)],
        );
        let trace = trace(&schedule);
        let lost = Some((100, Answer::Abandoned));
        assert_eq!(trace.answers()[1..], [lost, lost, led(305, 3, Live)]);
    }
}

#[test]
fn an_unshareable_response_streams_to_the_earliest_waiter() {
    let ends = Request {
        disconnects_after: Some(110),
        ..at(10)
    };
    let stream = reply(50, Kind::TooLarge(500));
    let schedule = schedule(
        [at(0), ends, at(20), at(30), at(140)],
        [after(5), stream, after(5)],
    );
    let trace = trace(&schedule);
    assert_eq!(trace.answer(2), Some((150, Answer::Unshareable(2))));
    assert_eq!(trace.starts(), [0, 100, 150, 150], "the others fetch alone");
    assert_eq!(trace.answer(3).map(|(moment, _)| moment), Some(155));
    assert_eq!(trace.answer(4).map(|(moment, _)| moment), Some(155));
}

#[test]
fn an_unshareable_response_answers_no_request_that_came_after_its_start() {
    let ends = Request {
        disconnects_after: Some(50),
        ..at(0)
    };
    let stream = reply(50, Kind::TooLarge(0));
    let trace = trace(&schedule([ends, at(10)], [stream, after(5)]));
    assert_eq!(trace.answer(1), led(55, 2, Live));
}

#[test]
fn after_an_unshareable_response_every_request_fetches_alone_for_a_minute() {
    let stream = reply(0, Kind::TooLarge(0));
    let requests = [
        at(0),
        at(59_999),
        at(59_999),
        at(60_000),
        at(60_001),
        at(60_002),
    ];
    let trace = trace(&schedule(
        requests,
        [stream, after(5), after(5), after(5), after(5)],
    ));
    assert_eq!(trace.starts(), [0, 59_999, 59_999, 60_000, 60_100]);
}

#[test]
fn with_a_window_of_zero_every_request_fetches_alone() {
    let mut schedule = schedule([at(0), at(0), at(1)], [after(20)]);
    schedule.window = 0;
    assert_eq!(trace(&schedule).starts(), [0, 0, 1]);
}
