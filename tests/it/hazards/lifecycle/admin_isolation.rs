//! The admin listener and the data listener serve nothing of each other (item 51).

use crate::support::client::head;
use crate::support::{Gateway, Origin, RawClient, STEP};

#[tokio::test]
async fn c51_admin_exposure_admin_paths_on_the_data_listener_are_404() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway.get(STEP).await;
    for (method, path) in [
        ("GET", "/live"),
        ("GET", "/ready"),
        ("GET", "/metrics"),
        ("GET", "/status"),
        ("GET", "/"),
        ("DELETE", "/cache/run-step"),
        ("DELETE", "/cache/run-step/thread_1"),
        ("GET", "/v1/metrics"),
    ] {
        assert_eq!(
            gateway.request(method, path, &[]).await.status,
            404,
            "{method} {path}"
        );
    }
    assert!(gateway.get(STEP).await.is_hit());
}

#[tokio::test]
async fn c51_data_paths_on_the_admin_listener_are_404() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    assert_eq!(gateway.admin("GET", STEP).await.status, 404);
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c51_slow_admin_clients_do_not_slow_the_data_listener() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut slow = Vec::new();
    // More than the admin listener accepts at once.
    for _ in 0..100 {
        let mut client = RawClient::connect(gateway.admin_address()).await;
        client
            .send(&head("GET", "/metrics", "127.0.0.1", &[])[..20])
            .await;
        slow.push(client);
    }
    assert_eq!(gateway.get(STEP).await.status, 200);
}
