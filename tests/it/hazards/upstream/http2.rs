//! An HTTP/2 upstream: fetches share one connection, which may end under them (item 34).

use tokio::task::JoinSet;

use crate::support::certificates::Authority;
use crate::support::gateway::{API_KEY, VIRTUAL_KEY};
use crate::support::origin::{Origin, StreamFault};
use crate::support::{Gateway, client, step};

async fn start() -> (Authority, Origin, Gateway) {
    let authority = Authority::new();
    let origin = Origin::start_http2(&authority).await;
    let gateway = Gateway::start_with_upstream(&origin.url(), &authority.toml()).await;
    (authority, origin, gateway)
}

#[tokio::test]
async fn twenty_concurrent_fetches_share_one_http2_connection() {
    let (_authority, origin, gateway) = start().await;
    let mut asks = JoinSet::new();
    for n in 0..20 {
        let (address, path) = (gateway.address(), step(&format!("step_{n}")));
        asks.spawn(async move {
            client::send(address, "GET", &path, &[])
                .await
                .unwrap()
                .status
        });
    }
    while let Some(status) = asks.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(origin.connections(), 1);
    let requests = origin.requests();
    assert_eq!(requests.len(), 20);
    for request in requests {
        assert_eq!(request.all("host"), [origin.address.to_string()]);
        for (name, value) in [
            ("x-portkey-api-key", API_KEY),
            ("x-portkey-virtual-key", VIRTUAL_KEY),
            ("openai-beta", "assistants=v2"),
        ] {
            assert_eq!(request.all(name), [value], "{name}");
        }
    }
}

#[tokio::test]
async fn c34_goaway_moves_the_next_fetch_to_a_new_connection() {
    let (_authority, origin, gateway) = start().await;
    origin.next_fault(StreamFault::GoAwayAfterResponse);
    for n in 0..3 {
        assert_eq!(gateway.get(&step(&format!("step_{n}"))).await.status, 200);
    }
    assert_eq!((origin.connections(), origin.requests().len()), (2, 3));
}

#[tokio::test]
async fn c34_lost_http2_connection_is_retried_once_on_a_new_one() {
    let (_authority, origin, gateway) = start().await;
    assert_eq!(gateway.get(&step("step_1")).await.status, 200);
    origin.next_fault(StreamFault::Cut);
    assert_eq!(gateway.get(&step("step_2")).await.status, 200);
    assert_eq!((origin.connections(), origin.requests().len()), (2, 3));
    // A fetch on a new connection is not retried.
    let (_authority, origin, gateway) = start().await;
    origin.next_fault(StreamFault::Cut);
    let response = gateway.get(&step("step_1")).await;
    assert_eq!(
        (response.status, response.code().as_deref()),
        (502, Some("upstream_unreachable"))
    );
    assert_eq!(origin.requests().len(), 1);
}
