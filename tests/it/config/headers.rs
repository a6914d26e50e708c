//! Injected headers: the defaults, the file's, and a client's.

use stepgate::config::Value;

use super::{KEYS, headers, load_text, pairs};

#[test]
fn own_credentials_replace_all_default_credentials() {
    let own = "[upstream.headers]\nauthorization = { env = \"OWN\" }\n";
    let config = load_text(own, &[("OWN", "Bearer canary"), KEYS[0], KEYS[1]]).unwrap();
    assert_eq!(
        headers(&config),
        pairs(&[
            ("authorization", "env:OWN"),
            ("openai-beta", "assistants=v2"),
            ("x-portkey-cache-force-refresh", "true"),
        ])
    );
    let fewer =
        "[upstream.headers]\nOpenAI-Beta = false\nx-portkey-virtual-key = false\nx-a = \"1\"";
    assert_eq!(
        headers(&load_text(fewer, KEYS).unwrap()),
        pairs(&[
            ("x-a", "1"),
            ("x-portkey-api-key", "env:PORTKEY_API_KEY"),
            ("x-portkey-cache-force-refresh", "true"),
        ])
    );
}

#[test]
fn a_client_replaces_adds_and_removes_headers() {
    let config = load_text(
        "[upstream.headers]\nx-a = \"1\"\n[[client]]\nname = \"a\"\ntoken = { env = \"T\" }\n\
         [client.headers]\nx-a = \"2\"\nX-New = \"3\"\nopenai-beta = false\n\
         x-portkey-virtual-key = { env = \"OTHER\" }\n[[client]]\nname = \"b\"\ntoken = { env = \"U\" }",
        &[("T", "t"), ("U", "u"), ("OTHER", "o"), KEYS[0], KEYS[1]],
    )
    .unwrap();
    let names = |client| -> Vec<String> {
        let headers = config.headers_for(client).into_iter();
        headers
            .map(|h| match &h.value {
                Value::Literal(text) => format!("{}: {}", h.name, text.to_str().unwrap()),
                Value::Secret(secret) => format!("{}: {}", h.name, secret.source()),
            })
            .collect()
    };
    assert_eq!(
        names(Some(&config.clients[0])),
        [
            "x-a: 2",
            "x-new: 3",
            "x-portkey-api-key: env:PORTKEY_API_KEY",
            "x-portkey-cache-force-refresh: true",
            "x-portkey-virtual-key: env:OTHER",
        ]
    );
    assert_eq!(names(Some(&config.clients[1])), names(None));
    assert_eq!(names(None).len(), 5);
}
