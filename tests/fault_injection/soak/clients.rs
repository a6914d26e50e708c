//! The clients that the soaked gateway knows.

/// A client of the gateway.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: &'static str,
    /// Whose bodies it is to get.
    pub(super) account: &'static str,
    pub(super) token_name: &'static str,
    pub(super) token: &'static str,
    /// A virtual key of its own, and the variable that it stands in.
    pub(super) own_key: Option<(&'static str, &'static str)>,
}

pub(super) const BASE_KEY: &str = "canary-virtual-base";

/// Two with an account of their own, two that share the common one.
pub(super) const CLIENTS: [Client; 4] = [
    Client {
        name: "alpha",
        account: "account-alpha",
        token_name: "RIG_TOKEN_ALPHA",
        token: "canary-caller-token-alpha",
        own_key: Some(("RIG_KEY_ALPHA", "canary-virtual-alpha")),
    },
    Client {
        name: "beta",
        account: "account-beta",
        token_name: "RIG_TOKEN_BETA",
        token: "canary-caller-token-beta",
        own_key: Some(("RIG_KEY_BETA", "canary-virtual-beta")),
    },
    Client {
        name: "gamma",
        account: "account-base",
        token_name: "RIG_TOKEN_GAMMA",
        token: "canary-caller-token-gamma",
        own_key: None,
    },
    Client {
        name: "delta",
        account: "account-base",
        token_name: "RIG_TOKEN_DELTA",
        token: "canary-caller-token-delta",
        own_key: None,
    },
];

impl Client {
    pub(super) fn virtual_key(&self) -> &'static str {
        self.own_key.map_or(BASE_KEY, |(_, key)| key)
    }

    pub(super) fn toml(&self) -> String {
        let Self {
            name, token_name, ..
        } = self;
        let mut toml =
            format!("\n[[client]]\nname = \"{name}\"\ntoken = {{ env = \"{token_name}\" }}\n");
        if let Some((variable, _)) = self.own_key {
            toml.push_str(&format!(
                "[client.headers]\nx-portkey-virtual-key = {{ env = \"{variable}\" }}\n"
            ));
        }
        toml
    }
}
