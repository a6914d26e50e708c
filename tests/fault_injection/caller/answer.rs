//! An answer, read from bytes: whole, cut short, or no HTTP at all.

/// A whole answer, or as much of it as came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// As it came, head and body.
    pub(crate) raw: Vec<u8>,
}

/// How far the bytes go.
#[derive(Debug)]
pub(crate) enum Read {
    /// More must come; with the head, if that is there.
    Partial(Option<Answer>),
    /// And how many bytes it took.
    Whole(Answer, usize),
    /// Not HTTP.
    Bad(String),
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// `error.code` of the gateway's own errors.
    pub(crate) fn code(&self) -> Option<String> {
        let value: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        let error = &value["error"];
        let whole = error["message"].is_string() && error["type"].is_string();
        whole.then(|| error["code"].as_str().map(str::to_owned))?
    }

    /// Whether the gateway says that this is a 429 said to somebody else.
    pub(crate) fn is_held(&self) -> bool {
        let said = self.header("cache-status").unwrap_or_default();
        self.status == 429 && said.contains("detail=rate_limited")
    }

    /// Reads one answer; `ended`: nothing more will come; `bodiless`: it answers a HEAD.
    pub(crate) fn read(bytes: &[u8], ended: bool, bodiless: bool) -> Read {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Read::Partial(None);
        };
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| line.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3)?.parse().ok());
        let Some(status) = status else {
            return Read::Bad(format!("a status line {line:?}"));
        };
        let mut headers = Vec::new();
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                return Read::Bad(format!("a header line {line:?}"));
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let answer = Self {
            status,
            headers,
            ..Self::default()
        };
        let body = &bytes[end + 4..];
        if (100..200).contains(&status) && status != 101 {
            return match Self::read(body, ended, bodiless) {
                Read::Whole(answer, used) => Read::Whole(answer, end + 4 + used),
                other @ (Read::Partial(_) | Read::Bad(_)) => other,
            };
        }
        answer.with_body(body, ended, bodiless, bytes, end + 4)
    }

    fn with_body(
        mut self,
        body: &[u8],
        ended: bool,
        bodiless: bool,
        bytes: &[u8],
        start: usize,
    ) -> Read {
        let lengths: Vec<&str> = self.all("content-length").collect();
        let chunked = self.header("transfer-encoding") == Some("chunked");
        if lengths.len() > 1 || (chunked && !lengths.is_empty()) {
            return Read::Bad("two ways to tell the length".to_owned());
        }
        let length = match lengths.first().map(|text| text.parse::<usize>()) {
            Some(Ok(length)) => Some(length),
            Some(Err(_)) => return Read::Bad(format!("content-length {lengths:?}")),
            None => None,
        };
        let (body, used) = if bodiless || matches!(self.status, 204 | 304) {
            (Vec::new(), 0)
        } else if chunked {
            match chunks(body) {
                Chunks::Whole(body, used) => (body, used),
                Chunks::Partial(body) => {
                    self.body = body;
                    self.raw = bytes.to_vec();
                    return Read::Partial(Some(self));
                }
                Chunks::Bad => return Read::Bad("a chunk without a size".to_owned()),
            }
        } else if let Some(length) = length {
            if body.len() < length {
                self.body = body.to_vec();
                self.raw = bytes.to_vec();
                return Read::Partial(Some(self));
            }
            (body[..length].to_vec(), length)
        } else if ended {
            (body.to_vec(), body.len())
        } else {
            return Read::Partial(Some(self));
        };
        self.body = body;
        self.raw = bytes[..start + used].to_vec();
        Read::Whole(self, start + used)
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let matching = self.headers.iter().filter(move |(n, _)| n == name);
        matching.map(|(_, value)| value.as_str())
    }
}

enum Chunks {
    Whole(Vec<u8>, usize),
    Partial(Vec<u8>),
    Bad,
}

fn chunks(bytes: &[u8]) -> Chunks {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some(end) = bytes[at..].windows(2).position(|w| w == b"\r\n") else {
            return Chunks::Partial(body);
        };
        let line = String::from_utf8_lossy(&bytes[at..at + end]);
        let digits = line.split(';').next().unwrap_or_default();
        let Ok(size) = usize::from_str_radix(digits.trim(), 16) else {
            return Chunks::Bad;
        };
        at += end + 2;
        let whole = bytes.len() >= at + size + 2;
        if size == 0 {
            // The gateway sends no trailers; the upstream's are ended by an empty line.
            let Some(rest) = bytes[at..].windows(2).position(|w| w == b"\r\n") else {
                return Chunks::Partial(body);
            };
            return Chunks::Whole(body, at + rest + 2);
        }
        if !whole {
            return Chunks::Partial(body);
        }
        body.extend_from_slice(&bytes[at..at + size]);
        at += size + 2;
    }
}
