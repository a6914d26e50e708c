//! Runs a schedule on paused time, and checks that nothing is left behind.

use std::sync::Arc;
use std::time::Duration;

use stepgate::coalesce::{Coalescer, Completion, Fetch, FetchOptions, JoinResult};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout, timeout_at};

use super::log::{Answer, Entry, Event, Id};
use super::schedule::{Kind, Reply, Schedule};
use super::upstream::{SimulatedFetch, Stream};
use super::world::World;

/// The same as the coalescer's own: how long requests fetch alone after an unshareable response.
pub(super) const UNSHAREABLE_TTL: Duration = Duration::from_secs(60);

/// Longer than any schedule takes.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

type SimulatedCoalescer = Coalescer<usize, SimulatedFetch>;

/// Runs a schedule. Returns what happened, with the error if something was left behind.
pub(super) fn play(schedule: &Schedule) -> Result<Vec<Entry>, (String, Vec<Entry>)> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs nothing");
    runtime.block_on(async {
        let world = Arc::new(World::new(schedule));
        let finished = run(&world).await;
        let log = world.log_entries();
        finished.map(|()| log.clone()).map_err(|left| (left, log))
    })
}

async fn run(world: &Arc<World>) -> Result<(), String> {
    let schedule = &world.schedule;
    let coalescer = Coalescer::new(Duration::from_millis(schedule.window));
    let mut tasks = JoinSet::new();
    for id in 0..schedule.requests.len() {
        tasks.spawn(request(Arc::clone(world), coalescer.clone(), id));
    }
    for purge in schedule.purges.clone() {
        let world = Arc::clone(world);
        tasks.spawn(async move {
            world.until(purge.at, purge.turn).await;
            world.purge(purge.scope);
        });
    }
    while let Some(task) = timeout(FOREVER, tasks.join_next())
        .await
        .map_err(|_| "a request never ends")?
    {
        task.map_err(|error| format!("a request ended in {error}"))?;
    }
    left_behind(world, &coalescer).await
}

async fn left_behind(world: &World, coalescer: &SimulatedCoalescer) -> Result<(), String> {
    let none = |count: usize, content: &str| match count {
        0 => Ok(()),
        _ => Err(format!("left behind: {count} {content}")),
    };
    for _ in 0..10 {
        yield_now().await;
    }
    none(coalescer.tasks(), "tasks")?;
    none(world.limit.in_flight(), "permits taken")?;
    let barriers = world.keys.iter().map(|key| world.cache.min_valid_seq(key));
    none(
        barriers.filter(|seq| *seq > 0).count(),
        "resources behind a purge barrier",
    )?;
    sleep(Duration::from_millis(world.schedule.window)).await;
    let never_alone = |reply: &Reply| !matches!(reply.kind, Kind::TooLarge(_));
    if world.schedule.replies.iter().all(never_alone) {
        none(coalescer.active_keys(), "active keys after a window")?;
    }
    sleep(UNSHAREABLE_TTL).await;
    none(coalescer.active_keys(), "active keys")
}

/// Does what the gateway does for one request.
async fn request(world: Arc<World>, coalescer: SimulatedCoalescer, id: Id) {
    let request = world.schedule.requests[id];
    world.until(request.at, request.turn).await;
    world.note(Event::Arrived(id));
    if !request.force_fresh
        && let Some(hit) = world.hit(request.target)
    {
        return world.note(Event::Answered(id, hit));
    }
    let key = &world.keys[request.target];
    let options = FetchOptions {
        deadline: world.instant(request.deadline()),
        min_seq: if request.force_fresh {
            world.cache.next_seq()
        } else {
            world.cache.min_valid_seq(key)
        },
        may_store: request.may_store,
        force_fresh: request.force_fresh,
    };
    let disconnects_after = async {
        match request.disconnects_after {
            Some(after) => world.until(request.at + after, 0).await,
            None => std::future::pending().await,
        }
        // Noted before the request drops what it waits for.
        world.note(Event::Disconnected(id));
    };
    let answered = async {
        let (answer, stream) = fetch(&world, &coalescer, id, options).await;
        world.note(Event::Answered(id, answer));
        stream
    };
    let stream = if request.disconnects_first {
        tokio::select! {
            biased;
            () = disconnects_after => None,
            stream = answered => Some(stream),
        }
    } else {
        tokio::select! {
            biased;
            stream = answered => Some(stream),
            () = disconnects_after => None,
        }
    };
    if let Some((stream, streams)) = stream.flatten() {
        sleep(streams).await;
        drop(stream);
    }
}

type FetchResult = (Answer, Option<(Stream, Duration)>);

async fn fetch(
    world: &Arc<World>,
    coalescer: &SimulatedCoalescer,
    id: Id,
    options: FetchOptions,
) -> FetchResult {
    let target = world.schedule.requests[id].target;
    if let Some(blocked) = world.blocked(target) {
        return (blocked, None);
    }
    world.note(Event::Joins(id));
    let answer = match coalescer
        .fetch(target, options, || SimulatedFetch::shared(world, id))
        .await
    {
        JoinResult::Led(output) => Answer::Led(output),
        JoinResult::Joined(output) => Answer::Joined(output),
        JoinResult::Unshareable(stream) => return unshareable(stream),
        JoinResult::FetchAlone => return alone(SimulatedFetch::alone(world, id), options).await,
        JoinResult::TimedOut => Answer::TimedOut,
        JoinResult::Abandoned => Answer::Abandoned,
    };
    (answer, None)
}

async fn alone(mut fetch: SimulatedFetch, options: FetchOptions) -> FetchResult {
    let run = async {
        if let Err(output) = fetch.admit().await {
            return Completion::Live(output);
        }
        fetch.start(options).await.1
    };
    match timeout_at(options.deadline, run).await {
        Ok(Completion::Final(output) | Completion::Live(output)) => (Answer::Led(output), None),
        Ok(Completion::Unshareable(stream)) => unshareable(stream),
        Err(_) => (Answer::TimedOut, None),
    }
}

fn unshareable(stream: Stream) -> FetchResult {
    let answer = Answer::Unshareable(stream.seq);
    let streams = Duration::from_millis(stream.streams);
    (answer, Some((stream, streams)))
}
