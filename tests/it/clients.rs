//! Authentication of configured clients. Their separation is in `hazards::credentials::partitions`.

use crate::support::gateway::{BILLING_TOKEN, SUPPORT_TOKEN, TWO_CLIENTS};
use crate::support::{Gateway, Origin, STEP};

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn without_a_valid_token_a_request_is_401_and_nothing_is_fetched() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, TWO_CLIENTS).await;
    let basic = format!("Basic {BILLING_TOKEN}");
    let longer = bearer(&format!("{BILLING_TOKEN}x"));
    let shorter = bearer(&BILLING_TOKEN[..BILLING_TOKEN.len() - 1]);
    for headers in [
        &[][..],
        &[("Authorization", "Bearer dummy")],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "")],
        &[("Authorization", BILLING_TOKEN)],
        &[("Authorization", &basic)],
        &[("Authorization", &longer)],
        &[("Authorization", &shorter)],
        &[("x-portkey-api-key", "")],
        &[
            ("x-portkey-api-key", "dummy"),
            ("Authorization", "Bearer dummy"),
        ],
        &[("Cookie", BILLING_TOKEN)],
    ] {
        let response = gateway.get_with(STEP, headers).await;
        assert_eq!(response.status, 401, "{headers:?}");
        assert_eq!(
            response.code().as_deref(),
            Some("unauthorized"),
            "{headers:?}"
        );
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert_eq!(response.header("x-should-retry"), Some("false"));
        assert!(!response.everything().contains("canary"), "{headers:?}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn a_hit_needs_a_valid_token_too() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, TWO_CLIENTS).await;
    let token = bearer(BILLING_TOKEN);
    gateway.get_with(STEP, &[("Authorization", &token)]).await;
    assert_eq!(gateway.get(STEP).await.status, 401);
}

#[tokio::test]
async fn a_token_is_read_from_authorization_and_x_portkey_api_key() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, TWO_CLIENTS).await;
    let token = bearer(BILLING_TOKEN);
    let lower = format!("bearer {BILLING_TOKEN}");
    for headers in [
        &[("Authorization", token.as_str())][..],
        &[("Authorization", &lower)],
        &[("x-portkey-api-key", BILLING_TOKEN)],
        // The Portkey SDKs send an Authorization beside their key, often a dummy.
        &[
            ("x-portkey-api-key", BILLING_TOKEN),
            ("Authorization", "Bearer dummy"),
        ],
        &[("x-portkey-api-key", "dummy"), ("Authorization", &token)],
        &[
            ("x-portkey-api-key", BILLING_TOKEN),
            ("Authorization", &token),
        ],
        // With clients configured, the Host name is not checked.
        &[("Authorization", &token), ("Host", "stepgate.internal")],
    ] {
        let response = gateway.get_with(STEP, headers).await;
        assert_eq!(response.status, 200, "{headers:?}");
    }
    assert!(!origin.last().text().contains(BILLING_TOKEN));
}

#[tokio::test]
async fn tokens_of_two_clients_in_one_request_are_rejected() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, TWO_CLIENTS).await;
    let token = bearer(BILLING_TOKEN);
    let headers = [
        ("Authorization", token.as_str()),
        ("x-portkey-api-key", SUPPORT_TOKEN),
    ];
    let response = gateway.get_with(STEP, &headers).await;
    assert_eq!(response.status, 401);
    assert_eq!(response.code().as_deref(), Some("unauthorized"));
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn every_token_of_a_client_is_accepted() {
    let origin = Origin::start().await;
    let toml = "[[client]]\nname = \"both\"\n\
                token = [{ env = \"BILLING_TOKEN\" }, { env = \"SUPPORT_TOKEN\" }]\n";
    let gateway = Gateway::start(&origin, toml).await;
    for token in [BILLING_TOKEN, SUPPORT_TOKEN] {
        let token = bearer(token);
        let response = gateway.get_with(STEP, &[("Authorization", &token)]).await;
        assert_eq!(response.status, 200);
    }
    assert_eq!(
        origin.count(),
        1,
        "the tokens of one client have different partitions"
    );
}
