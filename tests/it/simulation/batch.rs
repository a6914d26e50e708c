//! Departures, one sentence a test: think of a shuttle, nobody boards one that has left. The window
//! is 100 ms, the first asker is number 0, the first departure number 1.

use super::log::What::{Failed, Final, Live};
use super::log::{Answer, Event};
use super::schedule::{Kind, Ms, Purge, Reach, Reply, Request};
use super::story::{after, at, day, fresh_at, joined, opened, reply, story};

#[test]
fn a_lone_poller_never_waits() {
    let story = story(&day([at(0), at(250), at(350)], [after(40)]));
    assert_eq!(story.departures(), [0, 250, 350]);
}

#[test]
fn a_step_departs_at_most_once_a_window() {
    let story = story(&day(
        std::array::from_fn::<_, 30, _>(|n| at(10 * n as Ms)),
        [after(5)],
    ));
    assert_eq!(story.departures(), [0, 100, 200, 300]);
}

#[test]
fn newcomers_board_until_the_departure() {
    let story = story(&day([at(0), at(1), at(50), at(99)], [after(30)]));
    assert_eq!(story.departures(), [0, 100]);
    let second = [
        opened(30, 1, Live),
        opened(130, 2, Live),
        joined(130, 2, Live),
        joined(130, 2, Live),
    ];
    assert_eq!(story.answers(), second);
}

#[test]
fn nobody_boards_one_that_has_left() {
    let story = story(&day([at(0), at(1)], [after(90)]));
    assert_eq!(story.landings(), [90, 190]);
    assert_eq!(story.answer(1), opened(190, 2, Live));
}

#[test]
fn at_most_four_are_in_the_air_and_the_rest_gathers() {
    let askers = std::array::from_fn::<_, 10, _>(|n| at(100 * n as Ms));
    let story = story(&day(askers, [after(1000)]));
    assert_eq!(story.departures(), [0, 100, 200, 300, 1000]);
    assert_eq!(story.answer(9), joined(2000, 5, Live));
}

#[test]
fn steps_do_not_wait_for_each_other() {
    let elsewhere = Request { place: 2, ..at(1) };
    let story = story(&day([at(0), elsewhere], [after(50)]));
    assert_eq!(story.departures(), [0, 1]);
}

#[test]
fn what_lands_final_answers_everybody() {
    let mut day = day([at(0), at(110), at(210), at(215)], [after(200), after(500)]);
    day.turns[0] = vec![0];
    let story = story(&day);
    assert_eq!(story.departures(), [0, 110]);
    let aboard_another = joined(200, 1, Final);
    assert_eq!(story.answer(0), opened(200, 1, Final));
    assert_eq!(story.answer(1), aboard_another);
    assert_eq!(story.answer(2), Some((210, Answer::Hit(1))));
}

#[test]
fn what_lands_final_answers_those_at_the_gate() {
    let mut day = day([at(0), at(10), at(60)], [after(70)]);
    day.turns[0] = vec![0];
    let story = story(&day);
    assert_eq!(story.departures(), [0]);
    assert_eq!(story.answer(1), joined(70, 1, Final));
    assert_eq!(story.answer(2), joined(70, 1, Final));
}

#[test]
fn final_or_not_who_wants_it_fresh_takes_only_what_departed_after() {
    let mut day = day([at(0), fresh_at(10)], [after(50)]);
    day.turns[0] = vec![0];
    let story = story(&day);
    assert_eq!(story.departures(), [0, 100]);
    assert_eq!(story.answer(1), opened(150, 2, Final));
}

#[test]
fn final_or_not_who_came_after_a_purge_takes_only_what_departed_after() {
    let mut day = day([at(0), at(10), at(30)], [after(50)]);
    day.turns[0] = vec![0];
    day.purges = vec![Purge {
        at: 20,
        turn: 0,
        reach: Reach::Step(0),
    }];
    let story = story(&day);
    assert_eq!(story.answer(1), joined(50, 1, Final));
    assert_eq!(story.answer(2).map(|(moment, _)| moment), Some(150));
    // The purge takes two numbers, one on either side of its wall.
    assert_eq!(story.stored(), [(1, false), (4, true)]);
}

#[test]
fn a_reload_is_a_wall_for_all_steps() {
    let other = Request { place: 2, ..at(0) };
    let mut day = day([at(0), other], [after(50)]);
    day.turns = [vec![0], vec![0]];
    day.purges = vec![Purge {
        at: 20,
        turn: 0,
        reach: Reach::Everything,
    }];
    assert_eq!(story(&day).stored(), [(1, false), (2, false)]);
}

#[test]
fn an_older_departure_never_overwrites_a_newer_ones_store() {
    let mut day = day([at(0), at(100), at(350)], [after(300), after(100)]);
    (day.window, day.turns[0]) = (0, vec![0]);
    let story = story(&day);
    assert_eq!(story.stored(), [(2, true), (1, false)]);
    assert_eq!(story.answer(2), Some((350, Answer::Hit(2))));
}

#[test]
fn a_fresh_answer_that_is_live_removes_what_is_stored() {
    let mut day = day([at(0), fresh_at(200), at(300)], [after(10)]);
    day.turns[0] = vec![0, 200];
    let story = story(&day);
    assert_eq!(story.stored(), [(1, true)]);
    assert_eq!(story.answer(2), opened(310, 3, Live));
}

#[test]
fn a_flight_outlives_the_caller_that_caused_it() {
    let leaves = Request {
        hangs_up: Some(120),
        ..at(10)
    };
    let story = story(&day([at(0), leaves, at(20)], [after(50)]));
    assert_eq!(story.departures(), [0, 100]);
    assert_eq!(story.answer(1), None);
    assert_eq!(story.answer(2), joined(150, 2, Live));
}

#[test]
fn what_gathers_departs_without_the_caller_that_opened_it() {
    let leaves = Request {
        hangs_up: Some(40),
        ..at(10)
    };
    let story = story(&day([at(0), leaves, at(20)], [after(50)]));
    assert_eq!(story.departures(), [0, 100]);
    assert_eq!(story.answer(2), joined(150, 2, Live));
}

#[test]
fn dies_with_its_last_passenger() {
    let leaves = Request {
        hangs_up: Some(50),
        ..at(0)
    };
    let story = story(&day([leaves], [after(100)]));
    assert_eq!(story.departures(), [0]);
    assert!(story.landings().is_empty());
    assert_eq!(story.moments(|event| matches!(event, Event::Freed)), [50]);
}

#[test]
fn nothing_departs_for_who_has_left() {
    let leaves = Request {
        hangs_up: Some(50),
        ..at(10)
    };
    assert_eq!(story(&day([at(0), leaves], [after(5)])).departures(), [0]);
}

#[test]
fn every_passenger_keeps_its_own_deadline() {
    let until = |deadline: Ms| Request {
        patience: deadline - 10,
        ..at(10)
    };
    let never = Reply {
        takes: None,
        ..after(0)
    };
    let story = story(&day([at(0), until(150), until(300)], [after(5), never]));
    assert_eq!(story.answer(1), Some((150, Answer::Late)));
    assert_eq!(story.answer(2), Some((300, Answer::Late)));
}

#[test]
fn a_failure_is_its_passengers_and_the_next_departure_starts_clean() {
    let failure = reply(150, Kind::Failure);
    let story = story(&day(
        [at(0), at(10), at(110)],
        [after(5), failure, after(5)],
    ));
    assert_eq!(story.answer(1), opened(250, 2, Failed));
    assert_eq!(story.answer(2), opened(205, 3, Live));
}

#[test]
fn c36_a_flight_that_panics_is_lost_and_the_next_departure_starts_clean() {
    for kind in [Kind::Panic, Kind::PanicAtOnce] {
        let day = day(
            [at(0), at(10), at(20), at(300)],
            [after(5), reply(0, kind), after(5)],
        );
        let story = story(&day);
        let lost = Some((100, Answer::Lost));
        assert_eq!(story.answers()[1..], [lost, lost, opened(305, 3, Live)]);
    }
}

#[test]
fn a_body_too_large_to_share_streams_to_the_earliest() {
    let leaves = Request {
        hangs_up: Some(110),
        ..at(10)
    };
    let larger = reply(50, Kind::TooLarge(500));
    let day = day(
        [at(0), leaves, at(20), at(30), at(140)],
        [after(5), larger, after(5)],
    );
    let story = story(&day);
    assert_eq!(story.answer(2), Some((150, Answer::Own(2))));
    assert_eq!(
        story.departures(),
        [0, 100, 150, 150],
        "the others each alone"
    );
    assert_eq!(story.answer(3).map(|(moment, _)| moment), Some(155));
    assert_eq!(story.answer(4).map(|(moment, _)| moment), Some(155));
}

#[test]
fn a_body_too_large_to_share_is_for_nobody_who_came_after_its_departure() {
    let leaves = Request {
        hangs_up: Some(50),
        ..at(0)
    };
    let larger = reply(50, Kind::TooLarge(0));
    let story = story(&day([leaves, at(10)], [larger, after(5)]));
    assert_eq!(story.answer(1), opened(55, 2, Live));
}

#[test]
fn for_a_minute_after_it_each_fetches_alone() {
    let larger = reply(0, Kind::TooLarge(0));
    let askers = [
        at(0),
        at(59_999),
        at(59_999),
        at(60_000),
        at(60_001),
        at(60_002),
    ];
    let story = story(&day(
        askers,
        [larger, after(5), after(5), after(5), after(5)],
    ));
    assert_eq!(story.departures(), [0, 59_999, 59_999, 60_000, 60_100]);
}

#[test]
fn without_a_window_every_request_is_its_own_fetch() {
    let mut day = day([at(0), at(0), at(1)], [after(20)]);
    day.window = 0;
    assert_eq!(story(&day).departures(), [0, 0, 1]);
}
