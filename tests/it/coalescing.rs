//! Coalescing: one fetch for many pollers. Its hazards are in `hazards::sharing`.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::{Action, Clients, Gateway, LIST, Latch, Origin, STEP, step};

/// The default of `coalesce_window`.
const WINDOW: Duration = Duration::from_millis(100);

/// A window so wide that requests which a test sends together join one batch.
const WIDE: &str = "[upstream]\ncoalesce_window = \"1s\"\n";

#[tokio::test]
async fn a_lone_poller_is_fetched_at_once() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let toml = "[upstream]\ncoalesce_window = \"8s\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let start = Instant::now();
    for id in ["a", "b", "c", "d", "e"] {
        assert_eq!(gateway.get(&step(id)).await.status, 200);
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "five steps took {took:?}");
    assert_eq!(origin.count(), 5);
}

#[tokio::test]
async fn a_lone_poller_slower_than_the_window_never_waits_for_it() {
    let (window, latency) = (Duration::from_millis(400), Duration::from_millis(500));
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    origin.always(vec![Action::Pause(latency), Action::RespondNumbered]);
    let toml = format!(
        "[upstream]\ncoalesce_window = \"{}ms\"\n",
        window.as_millis()
    );
    let gateway = Gateway::start(&origin, &toml).await;
    let start = Instant::now();
    for polls in 1..=4 {
        assert_eq!(gateway.get(STEP).await.fetch(), polls);
    }
    let took = start.elapsed();
    assert!(took < latency * 4 + window * 2, "four polls took {took:?}");
    assert_eq!(origin.count(), 4);
}

#[tokio::test]
async fn at_most_four_fetches_of_a_key_are_in_flight() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gates: Vec<Latch> = (0..4).map(|_| Latch::closed()).collect();
    for gate in &gates {
        origin.next(vec![Action::Wait(gate.clone()), Action::RespondNumbered]);
    }
    origin.always(vec![Action::RespondNumbered]);
    let gateway = Gateway::start(&origin, "").await;
    let mut pollers = Vec::new();
    for fetch in 1..=4 {
        pollers.push(gateway.send_get(STEP, &[]).await);
        origin.wait_for_requests(fetch).await;
    }
    for _ in 0..46 {
        pollers.push(gateway.send_get(STEP, &[]).await);
        sleep(WINDOW / 10).await;
    }
    assert_eq!(origin.count(), 4, "more than four fetches in flight");
    assert_eq!(
        gateway.get(&step("other")).await.status,
        200,
        "another step waited for this one"
    );

    gates[2].open();
    assert_eq!(pollers.remove(2).response().await.fetch(), 3);
    origin.wait_for_requests(6).await;
    gates.iter().for_each(Latch::open);
    let mut fetches = Vec::new();
    for poller in &mut pollers {
        fetches.push(poller.response().await.fetch());
    }
    // Fetch 5 was for the other step.
    assert_eq!(fetches[..3], [1, 2, 4]);
    assert_eq!(fetches[3..], [6; 46]);
    assert_eq!(origin.count(), 6);
}

#[tokio::test]
async fn lists_coalesce_by_their_whole_query() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, WIDE).await;
    let (page, other) = (
        format!("{LIST}?limit=2&after=a"),
        format!("{LIST}?limit=2&after=b"),
    );
    origin.always(vec![Action::RespondNumbered]);
    assert_eq!(gateway.get(&page).await.fetch(), 1);
    let mut together = JoinSet::new();
    for _ in 0..5 {
        let mut client = gateway.send_get(&page, &[]).await;
        together.spawn(async move { client.response().await.fetch() });
    }
    assert_eq!(gateway.get(&other).await.fetch(), 2);
    assert_eq!(together.join_all().await, [3; 5]);
    assert_eq!(origin.requests()[1].target(), other);
    assert_eq!(origin.requests()[2].target(), page);
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn requests_with_different_keys_are_not_coalesced() {
    let origin = Origin::start().await;
    let gate = Latch::closed();
    origin.always(vec![Action::Wait(gate.clone()), Action::RespondNumbered]);
    let toml = "[upstream]\ncoalesce_window = \"8s\"\nvary_headers = [\"x-a\"]\n";
    let gateway = Gateway::start(&origin, toml).await;
    let mut clients = Vec::new();
    for (path, headers) in [
        (STEP, &[][..]),
        (&step("step_2"), &[]),
        (&format!("{STEP}?include[]=a"), &[]),
        (&format!("{STEP}?unknown=a"), &[]),
        (LIST, &[]),
        (STEP, &[("x-a", "b")]),
    ] {
        clients.push(gateway.send_get(path, headers).await);
    }
    origin.wait_for_requests(6).await;
    gate.open();
    let mut fetches = Vec::new();
    for client in &mut clients {
        fetches.push(client.response().await.fetch());
    }
    fetches.sort_unstable();
    assert_eq!(fetches, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn without_a_window_every_request_is_a_fetch_of_its_own() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gate = Latch::closed();
    origin.always(vec![Action::Wait(gate.clone()), Action::RespondNumbered]);
    let gateway = Gateway::start(&origin, "[upstream]\ncoalesce_window = \"0s\"\n").await;
    let clients = Clients::connect(&gateway, 10).await;
    let open = async {
        origin.wait_for_requests(10).await;
        gate.open();
    };
    let (served, ()) = tokio::join!(clients.get(STEP, &[]), open);
    let mut fetches: Vec<usize> = served.iter().map(|one| one.response.fetch()).collect();
    fetches.sort_unstable();
    assert_eq!(fetches, (1..=10).collect::<Vec<_>>());
    assert!(
        served
            .iter()
            .all(|one| !one.response.cache_status().contains("collapsed"))
    );
    assert_eq!(gateway.outcomes("coalesced").await, 0.0);
}

#[tokio::test]
async fn coalesced_requests_are_named_in_cache_status_and_metrics() {
    for (status, reason) in [
        ("in_progress", "; detail=not_final"),
        ("completed", "; stored"),
    ] {
        let origin = Origin::start().await;
        origin.next(vec![Action::RespondStatus("in_progress")]);
        origin.set_status(status);
        let gateway = Gateway::start(&origin, WIDE).await;
        let alone = gateway.get(STEP).await.cache_status();
        let expected = "stepgate; fwd=uri-miss; fwd-status=200; detail=not_final";
        assert_eq!(alone, expected);
        let clients = Clients::connect(&gateway, 5).await;
        let served = clients.get(STEP, &[]).await;
        let statuses: Vec<String> = served
            .iter()
            .map(|one| one.response.cache_status())
            .collect();
        let expected = "stepgate; fwd=uri-miss; fwd-status=200";
        assert!(
            statuses.iter().all(|s| s.starts_with(expected)),
            "{statuses:?}"
        );
        let (joined, own): (Vec<_>, Vec<_>) =
            statuses.iter().partition(|s| s.contains("; collapsed"));
        assert_eq!((joined.len(), own.len()), (4, 1), "{statuses:?}");
        assert_eq!(own[0], &format!("{expected}{reason}"));
        assert_eq!(gateway.outcomes("coalesced").await, 4.0, "{status}");
        assert_eq!(gateway.outcomes("miss").await, 2.0, "{status}");
        let avoided = "stepgate_polls_avoided_total{rule=\"run-step\"}";
        assert_eq!(gateway.metric(avoided).await, 4.0, "{status}");
        assert_eq!(origin.count(), 2, "{status}");
    }
}
