//! Steps, and their bodies: each byte a function of ids, account, query and version, so that any
//! answer can be judged alone.

use crate::dice::Dice;

/// A run step, or the list that it is part of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    pub(crate) thread: String,
    pub(crate) run: String,
    /// None: the list.
    pub(crate) id: Option<String>,
    /// Without its `?`, as it reaches the upstream.
    pub(crate) query: String,
}

/// What a body says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edition {
    pub(crate) version: u64,
    pub(crate) is_final: bool,
}

impl Step {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            thread: format!("thread_{}", dice.word()),
            run: format!("run_{}", dice.word()),
            id: Some(format!("step_{}", dice.word())),
            query: String::new(),
        }
    }

    /// The list that this step is part of.
    pub(crate) fn list(&self) -> Self {
        Self {
            id: None,
            ..self.clone()
        }
    }

    /// Reads a request target below `/v1`.
    pub(crate) fn of_target(target: &str) -> Option<Self> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.split('/').collect();
        let (thread, run, id) = match parts[..] {
            ["", "v1", "threads", thread, "runs", run, "steps"] => (thread, run, None),
            ["", "v1", "threads", thread, "runs", run, "steps", id] => (thread, run, Some(id)),
            _ => return None,
        };
        Some(Self {
            thread: thread.to_owned(),
            run: run.to_owned(),
            id: id.map(str::to_owned),
            query: query.to_owned(),
        })
    }

    pub(crate) fn target(&self) -> String {
        let Self { thread, run, .. } = self;
        let mut target = format!("/v1/threads/{thread}/runs/{run}/steps");
        if let Some(id) = &self.id {
            target.push('/');
            target.push_str(id);
        }
        if !self.query.is_empty() {
            target.push('?');
            target.push_str(&self.query);
        }
        target
    }

    /// The bytes that the upstream answers `account` with.
    pub(crate) fn body(&self, account: &str, edition: Edition) -> Vec<u8> {
        let Edition { version, is_final } = edition;
        let target = self.target();
        let mut dice = Dice::of(version, &[account, &target]);
        let status = match (is_final, dice.below(8)) {
            (false, _) => "in_progress",
            (true, 0) => "failed",
            (true, 1) => "cancelled",
            (true, 2) => "expired",
            (true, _) => "completed",
        };
        let Self {
            thread, run, query, ..
        } = self;
        let who = match &self.id {
            Some(id) => format!("\"id\": \"{id}\",\n \"object\": \"thread.run.step\""),
            None => "\"object\": \"list\"".to_owned(),
        };
        // Spelled as no serialiser would: whoever reads and writes it anew is found out.
        let odd = r#""odd": [1.0, 1e2, -0, 12345678901234567890123, "\u00e9é\/", {"":{ }}]"#;
        let filler = filler(&mut dice);
        let text = format!(
            "{{\n {who},\n \"run_id\":\"{run}\",  \"thread_id\":\"{thread}\",\n \
             \"status\": \"{status}\", \"version\": {version}, \"account\": \"{account}\",\n \
             \"query\": \"{query}\", {odd},\n \"filler\": \"{filler}\",\n \"checksum\": \""
        );
        let sum = blake3::hash(text.as_bytes()).to_hex();
        format!("{text}{sum}\"}}\n").into_bytes()
    }

    /// A body for these ids that claims to be final and is not: stored, it would be found.
    pub(crate) fn lie(&self) -> Vec<u8> {
        let id = self.id.as_deref().unwrap_or_default();
        let Self { thread, run, .. } = self;
        format!(
            "{{\"id\":\"{id}\",\"object\":\"thread.run.step\",\"run_id\":\"{run}\",\
             \"thread_id\":\"{thread}\",\"status\":\"completed\",\"version\":0,\"lie\":true}}"
        )
        .into_bytes()
    }

    /// Which edition these bytes are, if they are one of this step's for this account.
    pub(crate) fn edition_of(&self, account: &str, bytes: &[u8]) -> Result<Edition, String> {
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))?;
        let version = value["version"].as_u64().ok_or("no version")?;
        let is_final = value["status"] != "in_progress";
        let edition = Edition { version, is_final };
        if self.body(account, edition) == bytes {
            Ok(edition)
        } else {
            Err(format!("not the bytes of version {version}"))
        }
    }
}

/// Mostly a few hundred bytes, as steps are; now and then some ten thousand.
fn filler(dice: &mut Dice) -> String {
    let words = if dice.one_in(16) {
        1200
    } else {
        dice.below(80)
    };
    (0..words).map(|_| dice.word()).collect()
}
