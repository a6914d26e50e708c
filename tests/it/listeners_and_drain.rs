//! Listeners, the timeouts and limits of connections, overload, and the drain.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::H2Client;
use crate::support::client::head;
use crate::support::{Action, Gateway, Latch, Origin, RawClient, STEP, body, step, within};

#[tokio::test]
async fn idle_connection_outlives_the_header_timeout_and_ends_at_the_idle_timeout() {
    let origin = Origin::start().await;
    let toml = "[server]\nheader_timeout = \"150ms\"\nidle_timeout = \"900ms\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let mut raw = gateway.connect().await;
    for _ in 0..2 {
        raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
        assert_eq!(raw.response().await.status, 200);
        // This pause waits for nothing: the test needs an idle connection.
        tokio::time::sleep(Duration::from_millis(450)).await;
    }
    raw.rest().await;
}

#[tokio::test]
async fn slow_fetch_does_not_count_as_idle() {
    let origin = Origin::start().await;
    let toml = "[server]\nheader_timeout = \"100ms\"\nidle_timeout = \"100ms\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let slow = Action::Drip(
        b"HTTP/1.1 103 E\r\n\r\n".to_vec(),
        Duration::from_millis(25),
    );
    origin.next(vec![slow, Action::Respond]);
    assert_eq!(gateway.get(STEP).await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut raw = gateway.connect().await;
    let requests: String = ["a", "b", "c", "a"]
        .map(|id| head("GET", &step(id), "127.0.0.1", &[]))
        .concat();
    raw.send(requests).await;
    for id in ["a", "b", "c", "a"] {
        assert_eq!(raw.response().await.json()["id"], id);
    }
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_served() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let h2 = H2Client::connect(gateway.address()).await;
    for expected in ["stored", "hit"] {
        let response = h2.send(gateway.h2_request("GET", STEP)).await;
        assert_eq!((response.status, &response.body), (200, &body("completed")));
        let cache_status = response.cache_status();
        assert!(cache_status.contains(expected), "{cache_status}");
    }
    let rejected = h2.send(gateway.h2_request("POST", STEP)).await;
    assert_eq!(rejected.status, 405);
    let foreign = hyper::Request::get(format!("http://evil.example{STEP}"));
    assert_eq!(h2.send(foreign).await.status, 403);
}

#[tokio::test]
async fn unix_socket_is_served() {
    let origin = Origin::start().await;
    let gateway = Gateway::start_unix(&origin, "").await;
    let mut raw = RawClient::connect_unix(&gateway.socket()).await;
    raw.send(head("GET", STEP, "localhost", &[])).await;
    assert_eq!(raw.response().await.body, body("completed"));
}

#[tokio::test]
async fn fetch_beyond_max_in_flight_waits_at_most_for_the_queue_timeout() {
    let origin = Origin::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\nqueue_timeout = \"50ms\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    assert!(gateway.get(&step("stored")).await.is_stored());
    let latch = Latch::closed();
    origin.next(vec![Action::Wait(latch.clone()), Action::Respond]);
    let meanwhile = async {
        origin.wait_for_requests(2).await;
        let overloaded = gateway.get(&step("other")).await;
        let hit = gateway.get(&step("stored")).await;
        latch.open();
        (overloaded, hit)
    };
    let (fetched, (overloaded, hit)) = tokio::join!(gateway.get(STEP), meanwhile);
    assert_eq!(overloaded.status, 503);
    assert_eq!(overloaded.code().as_deref(), Some("overloaded"));
    let retry_after: u64 = overloaded.header("retry-after").unwrap().parse().unwrap();
    assert!(retry_after >= 1);
    assert!(hit.is_hit(), "a hit needs no permit");
    assert_eq!((fetched.status, origin.count()), (200, 2));
    assert_eq!(gateway.get(&step("other")).await.status, 200);
}

#[tokio::test]
async fn load_shedding_bounds_requests_on_few_http2_connections() {
    let origin = Origin::start().await;
    let toml = "[server]\nmax_connections = 6\n";
    let gateway = Gateway::start(&origin, toml).await;
    let latch = Latch::closed();
    for _ in 0..4 {
        origin.next(vec![Action::Wait(latch.clone()), Action::Respond]);
    }
    let mut responses = JoinSet::new();
    for _ in 0..5 {
        let h2 = H2Client::connect(gateway.address()).await;
        for _ in 0..250 {
            let stream = h2.clone();
            let request = gateway.h2_request("GET", STEP);
            responses.spawn(async move { stream.send(request).await });
        }
    }
    for _ in 0..250 {
        let shed = within("a response", responses.join_next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(shed.status, 503, "the others wait for the upstream");
        assert_eq!(shed.header("retry-after"), Some("1"));
    }
    latch.open();
    while let Some(response) = within("a response", responses.join_next()).await {
        assert_eq!(response.unwrap().status, 200);
    }
    assert_eq!(gateway.get(STEP).await.status, 200);
}

#[tokio::test]
async fn fetch_takes_a_permit_that_is_released_within_the_queue_timeout() {
    let origin = Origin::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\nqueue_timeout = \"9s\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let latch = Latch::closed();
    origin.next(vec![Action::Wait(latch.clone()), Action::Respond]);
    let other = step("other");
    let release = async {
        origin.wait_for_requests(1).await;
        latch.open();
    };
    let (one, two, ()) = tokio::join!(gateway.get(STEP), gateway.get(&other), release);
    assert_eq!((one.status, two.status), (200, 200));
}

#[tokio::test]
async fn drain_answers_accepted_requests_and_closes_the_listener() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let address = gateway.address();
    let latch = Latch::closed();
    origin.next(vec![Action::Wait(latch.clone()), Action::Respond]);
    let mut raw = gateway.connect().await;
    let mut idle = gateway.connect().await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    origin.wait_for_requests(1).await;
    let answered = async {
        // The drain closes the idle connection, which shows that it has begun.
        idle.rest().await;
        latch.open();
        let response = raw.response().await;
        raw.rest().await;
        response
    };
    let (response, ()) = tokio::join!(answered, gateway.drain());
    assert_eq!((response.status, response.body), (200, body("completed")));
    assert!(TcpStream::connect(address).await.is_err());
}
