//! Listeners, connections and their limits, overload and drain.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::H2Client;
use crate::support::client::head;
use crate::support::{Action, Gateway, Latch, Origin, RawClient, STEP, body, step, within};

#[tokio::test]
async fn an_idle_connection_outlives_the_header_timeout_and_ends_at_the_idle_timeout() {
    let origin = Origin::start().await;
    let toml = "[server]\nheader_timeout = \"150ms\"\nidle_timeout = \"900ms\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let mut raw = gateway.connect().await;
    for _ in 0..2 {
        raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
        assert_eq!(raw.response().await.status, 200);
        // Not to wait for something: this silence is what is tested.
        tokio::time::sleep(Duration::from_millis(450)).await;
    }
    raw.rest().await;
}

#[tokio::test]
async fn a_slow_fetch_is_not_an_idle_connection() {
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
async fn several_requests_on_one_connection_are_answered_in_order() {
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
async fn http_2_with_prior_knowledge_is_spoken() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let h2 = H2Client::connect(gateway.address()).await;
    for expected in ["stored", "hit"] {
        let answer = h2.send(gateway.h2_request("GET", STEP)).await;
        assert_eq!((answer.status, &answer.body), (200, &body("completed")));
        let cache_status = answer.cache_status();
        assert!(cache_status.contains(expected), "{cache_status}");
    }
    let refused = h2.send(gateway.h2_request("POST", STEP)).await;
    assert_eq!(refused.status, 405);
    let foreign = hyper::Request::get(format!("http://evil.example{STEP}"));
    assert_eq!(h2.send(foreign).await.status, 403);
}

#[tokio::test]
async fn a_unix_socket_is_served() {
    let origin = Origin::start().await;
    let gateway = Gateway::start_unix(&origin, "").await;
    let mut raw = RawClient::connect_unix(&gateway.socket()).await;
    raw.send(head("GET", STEP, "localhost", &[])).await;
    assert_eq!(raw.response().await.body, body("completed"));
}

#[tokio::test]
async fn beyond_max_in_flight_a_fetch_waits_no_longer_than_the_queue_timeout() {
    let origin = Origin::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\nqueue_timeout = \"50ms\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    assert!(gateway.get(&step("stored")).await.is_stored());
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let meanwhile = async {
        origin.wait_for_requests(2).await;
        let refused = gateway.get(&step("other")).await;
        let hit = gateway.get(&step("stored")).await;
        gate.open();
        (refused, hit)
    };
    let (held, (refused, hit)) = tokio::join!(gateway.get(STEP), meanwhile);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.code().as_deref(), Some("overloaded"));
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(retry_after >= 1);
    assert!(hit.is_hit(), "memory needs no place in flight");
    assert_eq!((held.status, origin.count()), (200, 2));
    assert_eq!(gateway.get(&step("other")).await.status, 200);
}

#[tokio::test]
async fn a_crowd_on_few_http2_connections_is_shed_before_it_fills_the_memory() {
    let origin = Origin::start().await;
    let toml = "[server]\nmax_connections = 6\n";
    let gateway = Gateway::start(&origin, toml).await;
    let gate = Latch::closed();
    for _ in 0..4 {
        origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    }
    let mut asked = JoinSet::new();
    for _ in 0..5 {
        let h2 = H2Client::connect(gateway.address()).await;
        for _ in 0..250 {
            let stream = h2.clone();
            let request = gateway.h2_request("GET", STEP);
            asked.spawn(async move { stream.send(request).await });
        }
    }
    for _ in 0..250 {
        let shed = within("an answer", asked.join_next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(shed.status, 503, "the others wait for the upstream");
        assert_eq!(shed.header("retry-after"), Some("1"));
    }
    gate.open();
    while let Some(answer) = within("an answer", asked.join_next()).await {
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!(gateway.get(STEP).await.status, 200);
}

#[tokio::test]
async fn within_the_queue_timeout_a_fetch_gets_the_place_that_becomes_free() {
    let origin = Origin::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\nqueue_timeout = \"9s\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let other = step("other");
    let release = async {
        origin.wait_for_requests(1).await;
        gate.open();
    };
    let (one, two, ()) = tokio::join!(gateway.get(STEP), gateway.get(&other), release);
    assert_eq!((one.status, two.status), (200, 200));
}

#[tokio::test]
async fn a_drain_answers_what_was_accepted_and_then_nobody_listens() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let address = gateway.address();
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut raw = gateway.connect().await;
    let mut idle = gateway.connect().await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    origin.wait_for_requests(1).await;
    let answered = async {
        // An idle connection is closed by the drain; then it has begun.
        idle.rest().await;
        gate.open();
        let answer = raw.response().await;
        raw.rest().await;
        answer
    };
    let (answer, ()) = tokio::join!(answered, gateway.drain());
    assert_eq!((answer.status, answer.body), (200, body("completed")));
    assert!(TcpStream::connect(address).await.is_err());
}
