//! Plays a schedule on paused time, and looks whether anything is left behind.

use std::sync::Arc;
use std::time::Duration;

use stepgate::coalesce::{Coalescer, Completion, Fetch, FetchOptions, JoinResult};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout, timeout_at};

use super::log::{Answer, Entry, Event, Id};
use super::schedule::{Kind, Reply, Schedule};
use super::upstream::{Larger, Trip};
use super::world::World;

/// How long a step's requests fetch each on their own after a body that could not be shared.
pub(super) const UNSHAREABLE_TTL: Duration = Duration::from_secs(60);

/// Longer than any schedule.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

type Shuttles = Coalescer<usize, Trip>;

/// What happened; or what was left behind, and what happened until then.
pub(super) fn play(schedule: &Schedule) -> Result<Vec<Entry>, (String, Vec<Entry>)> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs nothing");
    runtime.block_on(async {
        let world = Arc::new(World::new(schedule));
        let clean = through(&world).await;
        let log = world.told();
        clean.map(|()| log.clone()).map_err(|left| (left, log))
    })
}

async fn through(world: &Arc<World>) -> Result<(), String> {
    let schedule = &world.schedule;
    let book = Coalescer::new(Duration::from_millis(schedule.window));
    let mut tasks = JoinSet::new();
    for id in 0..schedule.requests.len() {
        tasks.spawn(request(Arc::clone(world), book.clone(), id));
    }
    for purge in schedule.purges.clone() {
        let world = Arc::clone(world);
        tasks.spawn(async move {
            world.until(purge.at, purge.turn).await;
            world.purge(purge.reach);
        });
    }
    while let Some(task) = timeout(FOREVER, tasks.join_next())
        .await
        .map_err(|_| "a request that never ends")?
    {
        task.map_err(|error| format!("a request that ended in {error}"))?;
    }
    left_behind(world, &book).await
}

async fn left_behind(world: &World, book: &Shuttles) -> Result<(), String> {
    let none = |count: usize, what: &str| match count {
        0 => Ok(()),
        _ => Err(format!("left behind: {count} {what}")),
    };
    for _ in 0..10 {
        yield_now().await;
    }
    none(book.tasks(), "tasks")?;
    none(world.limit.in_flight(), "permits taken")?;
    let walls = world.keys.iter().map(|key| world.cache.min_valid_seq(key));
    none(
        walls.filter(|number| *number > 0).count(),
        "steps behind a wall",
    )?;
    sleep(Duration::from_millis(world.schedule.window)).await;
    let never_alone = |reply: &Reply| !matches!(reply.kind, Kind::TooLarge(_));
    if world.schedule.replies.iter().all(never_alone) {
        none(book.active_keys(), "steps after a window")?;
    }
    sleep(UNSHAREABLE_TTL).await;
    none(book.active_keys(), "steps")
}

/// A request's story, as `gateway.rs` tells it.
async fn request(world: Arc<World>, book: Shuttles, id: Id) {
    let request = world.schedule.requests[id];
    world.until(request.at, request.turn).await;
    world.note(Event::Asked(id));
    if !request.fresh
        && let Some(hit) = world.hit(request.place)
    {
        return world.note(Event::Answered(id, hit));
    }
    let key = &world.keys[request.place];
    let seat = FetchOptions {
        deadline: world.instant(request.deadline()),
        min_seq: if request.fresh {
            world.cache.next_seq()
        } else {
            world.cache.min_valid_seq(key)
        },
        may_store: request.store,
        force_fresh: request.fresh,
    };
    let hangs_up = async {
        match request.hangs_up {
            Some(after) => world.until(request.at + after, 0).await,
            None => std::future::pending().await,
        }
        // Before it lets go of what it waits for.
        world.note(Event::HungUp(id));
    };
    let answered = async {
        let (answer, larger) = ride(&world, &book, id, seat).await;
        world.note(Event::Answered(id, answer));
        larger
    };
    let larger = if request.hasty {
        tokio::select! {
            biased;
            () = hangs_up => None,
            larger = answered => Some(larger),
        }
    } else {
        tokio::select! {
            biased;
            larger = answered => Some(larger),
            () = hangs_up => None,
        }
    };
    if let Some((larger, streams)) = larger.flatten() {
        sleep(streams).await;
        drop(larger);
    }
}

type Got = (Answer, Option<(Larger, Duration)>);

async fn ride(world: &Arc<World>, book: &Shuttles, id: Id, seat: FetchOptions) -> Got {
    let place = world.schedule.requests[id].place;
    if let Some(held) = world.held(place) {
        return (held, None);
    }
    world.note(Event::Boards(id));
    let answer = match book.fetch(place, seat, || Trip::shared(world, id)).await {
        JoinResult::Led(news) => Answer::Opened(news),
        JoinResult::Joined(news) => Answer::Joined(news),
        JoinResult::Unshareable(larger) => return own(larger),
        JoinResult::FetchAlone => return alone(Trip::alone(world, id), seat).await,
        JoinResult::TimedOut => Answer::Late,
        JoinResult::Abandoned => Answer::Lost,
    };
    (answer, None)
}

async fn alone(mut trip: Trip, seat: FetchOptions) -> Got {
    let fly = async {
        if let Err(news) = trip.admit().await {
            return Completion::Live(news);
        }
        trip.start(seat).await.1
    };
    match timeout_at(seat.deadline, fly).await {
        Ok(Completion::Final(news) | Completion::Live(news)) => (Answer::Opened(news), None),
        Ok(Completion::Unshareable(larger)) => own(larger),
        Err(_) => (Answer::Late, None),
    }
}

fn own(larger: Larger) -> Got {
    let answer = Answer::Own(larger.number);
    let streams = Duration::from_millis(larger.streams);
    (answer, Some((larger, streams)))
}
