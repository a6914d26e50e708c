//! Steps and their bodies. Each byte follows from the ids, the account, the query and the version, so
//! that any response can be judged alone.

use crate::fixtures::random::seeded;

/// A run step, or the list that contains it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    pub(crate) thread: String,
    pub(crate) run: String,
    /// `None` for the list.
    pub(crate) id: Option<String>,
    /// The query without its `?`, as it reaches the upstream.
    pub(crate) query: String,
}

/// The version of a body, and whether it is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edition {
    pub(crate) version: u64,
    pub(crate) is_final: bool,
}

fn word(rng: &mut fastrand::Rng) -> String {
    format!("{:016x}", rng.u64(..))
}

impl Step {
    /// Draws a step that no other draw returns.
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Self {
        Self {
            thread: format!("thread_{}", word(rng)),
            run: format!("run_{}", word(rng)),
            id: Some(format!("step_{}", word(rng))),
            query: String::new(),
        }
    }

    /// Returns the list that contains this step.
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

    /// Returns the body that the upstream gives this account.
    pub(crate) fn body(&self, account: &str, edition: Edition) -> Vec<u8> {
        let Edition { version, is_final } = edition;
        let mut rng = seeded(version, &[account, &self.target()]);
        let status = match (is_final, rng.u32(..8)) {
            (false, _) => "in_progress",
            (true, 0) => "failed",
            (true, 1) => "cancelled",
            (true, 2) => "expired",
            (true, _) => "completed",
        };
        let Self {
            thread, run, query, ..
        } = self;
        let what = match &self.id {
            Some(id) => format!("\"id\": \"{id}\",\n \"object\": \"thread.run.step\""),
            None => "\"object\": \"list\"".to_owned(),
        };
        // No serialiser writes this, so a body that was read and written again is found out.
        let odd = r#""odd": [1.0, 1e2, -0, 12345678901234567890123, "\u00e9é\/", {"":{ }}]"#;
        // Most bodies are a few hundred bytes long, as steps are. Some have ten thousand.
        let words = if rng.u32(..16) == 0 {
            1200
        } else {
            rng.usize(..80)
        };
        let filler: String = (0..words).map(|_| word(&mut rng)).collect();
        let text = format!(
            "{{\n {what},\n \"run_id\":\"{run}\",  \"thread_id\":\"{thread}\",\n \
             \"status\": \"{status}\", \"version\": {version}, \"account\": \"{account}\",\n \
             \"query\": \"{query}\", {odd},\n \"filler\": \"{filler}\",\n \"checksum\": \""
        );
        let sum = blake3::hash(text.as_bytes()).to_hex();
        format!("{text}{sum}\"}}\n").into_bytes()
    }

    /// Returns a body with these ids that claims to be final and is not. If it were stored, a later
    /// response would show it.
    pub(crate) fn false_final(&self) -> Vec<u8> {
        let id = self.id.as_deref().unwrap_or_default();
        let Self { thread, run, .. } = self;
        format!(
            "{{\"id\":\"{id}\",\"object\":\"thread.run.step\",\"run_id\":\"{run}\",\
             \"thread_id\":\"{thread}\",\"status\":\"completed\",\"version\":0,\"false\":true}}"
        )
        .into_bytes()
    }

    /// Returns the edition of a body, if it is one of this step's for this account.
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
