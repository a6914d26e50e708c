//! Why a command brought nothing, and what an operator is told of it.
//!
//! A server's own text may repeat what was sent, a password among it: it is looked at, and never told.

use redis::RedisError;

/// Why a command brought nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Its command_timeout was over.
    Late,
    /// The connection or the server refused it.
    Failed(RedisError),
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        Self::Failed(error)
    }
}

impl Trouble {
    /// Whether the server is in trouble, rather than what this command touched.
    pub(super) fn is_the_servers(&self) -> bool {
        match self {
            Self::Late => true,
            Self::Failed(error) => {
                error.is_io_error()
                    || error.is_timeout()
                    || !matches!(error.code(), None | Some("OOM" | "WRONGTYPE" | "ERR"))
            }
        }
    }

    /// Whether a key holds what the command is not for.
    pub(super) fn is_of_another_type(&self) -> bool {
        matches!(self, Self::Failed(error) if error.code() == Some("WRONGTYPE"))
    }

    /// What a server does, to be read behind its name, and what would be right.
    pub(super) fn of_server(&self, has_tls: bool) -> String {
        let error = match self {
            Self::Late => return "gave no answer within cache.redis.command_timeout".to_owned(),
            Self::Failed(error) => error,
        };
        let text = error.to_string();
        // What the system or TLS says, of one server; a cluster's holds what the server said.
        let own = (error.is_io_error() && error.detail().is_none()).then_some(&text);
        match (words(&text, has_tls), own, error.code()) {
            (Some(words), Some(own), _) => format!("{words} ({own})"),
            (Some(words), None, _) => words,
            (None, Some(own), _) => format!("fails: {own}"),
            (None, None, Some(code)) => format!("fails: {:?} ({code})", error.kind()),
            (None, None, None) => format!("fails: {:?}", error.kind()),
        }
    }
}

/// By a part of the error: what the server does, and what would be right.
const SIGNS: [(&str, &str); 13] = [
    (
        "NOAUTH",
        "needs a password: put it into the URL, redis://:PASSWORD@HOST, and that into the \
         environment or a file",
    ),
    ("AuthenticationFailed", REFUSED),
    ("WRONGPASS", REFUSED),
    (
        "permissions to access",
        "refuses its keys to this user: its ACL needs ~PREFIX:* with the prefix of cache.redis",
    ),
    (
        "DENIED",
        "is in protected mode: give it a password, or let it listen on loopback alone",
    ),
    (
        "Moved",
        "is a node of a cluster: write cache.redis.url as a list, [\"redis://HOST\"]",
    ),
    (
        "cluster support disabled",
        "is no cluster: write cache.redis.url without the brackets of a list",
    ),
    ("ReadOnly", "is a replica: name the master"),
    ("BusyLoading", "is still loading its data"),
    (
        "MISCONF",
        "takes no writes, since it cannot save them: make room, or turn saving off (save \"\")",
    ),
    (
        "refused (os error",
        "takes no connections: does it run, and on this port?",
    ),
    (
        "failed to lookup",
        "cannot be found by this name: is it right?",
    ),
    (
        "certificate",
        "has a certificate that is not trusted: does cache.redis.ca_file name its roots?",
    ),
];

const REFUSED: &str = "refuses the user or the password of the URL";

/// What a user needs; a command stands in quotes where it is refused.
const COMMANDS: [&str; 17] = [
    "eval",
    "hget",
    "hset",
    "hstrlen",
    "hlen",
    "hexists",
    "hgetall",
    "pttl",
    "pexpire",
    "unlink",
    "xadd",
    "xrange",
    "ping",
    "select",
    "cluster|slots",
    "asking",
    "readonly",
];

fn words(text: &str, has_tls: bool) -> Option<String> {
    if let Some((_, words)) = SIGNS.iter().find(|(sign, _)| text.contains(sign)) {
        return Some((*words).to_owned());
    }
    if text.contains("NoPerm") {
        let is_refused = |command: &&&str| text.contains(&format!("'{command}'"));
        let which = COMMANDS.iter().find(is_refused);
        let which = which.map_or("a command".to_owned(), |command| format!("`{command}`"));
        return Some(format!(
            "refuses {which} to this user: give it the ACL in config/README.md"
        ));
    }
    let has = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    let words = if has_tls && has(&["timed out", "corrupt message", "InvalidMessage"]) {
        "does not answer to TLS: does it speak it? Without, write redis://"
    } else if has(&["timed out"]) {
        "cannot be reached in time: is this its address?"
    } else if !has_tls && has(&["eset by peer", "roken pipe", "end of file", "closed"]) {
        "hangs up: does it want TLS? Then write rediss://"
    } else {
        return None;
    };
    Some(words.to_owned())
}
