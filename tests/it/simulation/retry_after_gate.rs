//! ConcurrencyLimit and holds, one sentence a test, told like the shuttle's.

use super::log::What::{Live, Refused};
use super::log::{Answer, News};
use super::schedule::{Kind, Ms, Request};
use super::story::{after, at, day, opened, reply, story};

/// Another variant of the step, of the same partition: it departs on its own.
fn variant(moment: Ms) -> Request {
    Request {
        place: 1,
        ..at(moment)
    }
}

#[test]
fn a_fetch_waits_for_a_berth_as_long_as_its_patience() {
    let elsewhere = |moment| Request {
        place: 2,
        ..at(moment)
    };
    let mut day = day([at(0), elsewhere(10), elsewhere(900)], [after(1200)]);
    (day.berths, day.patience) = (1, 1000);
    let story = story(&day);
    assert_eq!(story.answer(1), Some((1010, Answer::Opened(News::NoBerth))));
    assert_eq!(story.answer(2), Some((1010, Answer::Joined(News::NoBerth))));
}

#[test]
fn after_a_refusal_there_is_silence_and_then_one_goes_first() {
    let variant = |moment| Request {
        place: 1,
        ..at(moment)
    };
    let elsewhere = Request { place: 2, ..at(20) };
    let refusal = reply(10, Kind::Refusal(990));
    let askers = [at(0), at(20), elsewhere, at(1000), variant(1010), at(1020)];
    let story = story(&day(askers, [refusal, after(5), after(200), after(5)]));
    assert_eq!(story.answer(1), Some((20, Answer::AtTheDoor(1, 1000))));
    assert_eq!(story.answer(2), opened(25, 2, Live), "another partition");
    assert_eq!(story.departures(), [0, 20, 1000, 1200, 1200]);
}

#[test]
fn what_gathers_during_a_refusal_hears_of_it() {
    let refusal = reply(50, Kind::Refusal(500));
    let story = story(&day([at(0), at(10)], [refusal, after(5)]));
    assert_eq!(story.departures(), [0]);
    let held = Answer::Opened(News::Held(1, 550));
    assert_eq!(story.answer(1), Some((100, held)));
}

#[test]
fn who_waits_for_a_berth_hears_of_a_refusal() {
    let refusal = reply(50, Kind::Refusal(500));
    let mut day = day([at(0), variant(10)], [refusal, after(5)]);
    day.berths = 1;
    let story = story(&day);
    assert_eq!(story.departures(), [0]);
    let held = Answer::Opened(News::Held(1, 550));
    assert_eq!(story.answer(1), Some((50, held)));
}

#[test]
fn a_probe_that_is_refused_holds_again() {
    let refusal = reply(10, Kind::Refusal(90));
    let story = story(&day([at(0), at(100), at(150), at(210)], [refusal]));
    assert_eq!(story.departures(), [0, 100, 210]);
    assert_eq!(story.answer(1), opened(110, 2, Refused));
    assert_eq!(story.answer(2), Some((150, Answer::AtTheDoor(2, 200))));
}

#[test]
fn a_probe_ends_its_own_hold_only() {
    let askers = [at(0), variant(0), at(100), variant(450), at(700)];
    let replies = [
        reply(10, Kind::Refusal(50)),
        reply(300, Kind::Refusal(100)),
        after(500),
        after(1000),
        after(5),
    ];
    let story = story(&day(askers, replies));
    // The first probe is back at 600, the second, of the hold until 400, at 1450.
    assert_eq!(story.departures(), [0, 0, 100, 450, 1450]);
    assert_eq!(story.answer(4), opened(1455, 5, Live));
}
