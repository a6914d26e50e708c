//! Partitions (item 20): two clients with different injected headers share neither bodies nor fetches.

use crate::support::gateway::{
    BILLING_KEY, BILLING_TOKEN, SUPPORT_KEY, SUPPORT_TOKEN, TWO_CLIENTS,
};
use crate::support::{Action, Gateway, Latch, Origin, STEP};

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn c20_cross_tenant_cache_leak_clients_never_share_a_body() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, TWO_CLIENTS).await;
    for (token, key, status) in [
        (BILLING_TOKEN, BILLING_KEY, "completed"),
        (SUPPORT_TOKEN, SUPPORT_KEY, "failed"),
    ] {
        let token = bearer(token);
        let headers = [("Authorization", token.as_str())];
        origin.set_status(status);
        let fetched = gateway.get_with(STEP, &headers).await;
        assert!(fetched.is_stored(), "{key}: {}", fetched.cache_status());
        assert_eq!(origin.last().all("x-portkey-virtual-key"), [key]);
    }
    for (token, status) in [(BILLING_TOKEN, "completed"), (SUPPORT_TOKEN, "failed")] {
        let token = bearer(token);
        let hit = gateway.get_with(STEP, &[("Authorization", &token)]).await;
        assert_eq!(hit.json()["status"], status);
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn c20_cross_tenant_coalescing_clients_never_share_a_fetch() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, TWO_CLIENTS).await;
    let gate = Latch::closed();
    origin.always(vec![Action::Wait(gate.clone()), Action::Respond]);
    let billing = [("x-portkey-api-key", BILLING_TOKEN)];
    let support = [("x-portkey-api-key", SUPPORT_TOKEN)];
    let both_in_flight = async {
        origin.wait_for_requests(2).await;
        gate.open();
    };
    let (one, two, ()) = tokio::join!(
        gateway.get_with(STEP, &billing),
        gateway.get_with(STEP, &support),
        both_in_flight
    );
    assert_eq!((one.status, two.status), (200, 200));
    let requests = origin.requests();
    let mut keys: Vec<_> = requests
        .iter()
        .flat_map(|r| r.all("x-portkey-virtual-key"))
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, [BILLING_KEY, SUPPORT_KEY]);
}
