//! An answer as a caller sees it: whole, or broken off.

use std::fmt;

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case, in the order in which they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// The connection ended, or made no sense, before the answer was whole.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) status: Option<u16>,
    pub(crate) body: Vec<u8>,
    pub(crate) why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, body, why } = self;
        write!(f, "{why} (status {status:?}, {} body bytes)", body.len())
    }
}

impl Answer {
    /// The only value of that name; it must not come twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} twice: {:?}", self.headers);
        values.first().copied()
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// All `Cache-Status` members, also where several lines carry them.
    pub(crate) fn cache_status(&self) -> String {
        self.all("cache-status").join(", ")
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache_status().contains("stepgate; hit")
    }

    pub(crate) fn is_stored(&self) -> bool {
        self.cache_status().contains("; stored")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {:?}", self.text()))
    }

    /// Which of the origin's requests brought this body, from 1 ([`super::Act::Numbered`]).
    pub(crate) fn fetch(&self) -> usize {
        let number = self.json()["fetch"].as_u64();
        let number = number.unwrap_or_else(|| panic!("{}: {}", self.status, self.text()));
        usize::try_from(number).unwrap()
    }

    /// Of metrics: the sample of that name and these labels; 0 where there is none.
    pub(crate) fn sample(&self, name: &str) -> f64 {
        let text = self.text();
        let mut lines = text.lines().filter_map(|l| l.rsplit_once(' '));
        let found = lines.find(|(sample, _)| *sample == name);
        found.map_or(0.0, |(_, value)| value.parse().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `error.code` of the gateway's own errors; none for a bare head.
    pub(crate) fn code(&self) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(json["error"]["code"].as_str()?.to_owned())
    }

    /// Head and body as one text, for searching what must not be in it.
    pub(crate) fn everything(&self) -> String {
        format!("{:?}\n{}", self.headers, self.text())
    }
}
