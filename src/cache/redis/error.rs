//! Why a command failed, and how that is described to the operator.
//!
//! The text of a server's error may repeat what was sent, also a password. It is searched for known
//! signs, and never shown.

use redis::RedisError;

/// Why a command returned no reply that can be used.
#[derive(Debug)]
pub(super) enum RedisFailure {
    /// No reply came within the command timeout.
    TimedOut,
    /// The connection failed, or the server refused the command.
    Failed(RedisError),
}

impl From<RedisError> for RedisFailure {
    fn from(error: RedisError) -> Self {
        Self::Failed(error)
    }
}

impl RedisFailure {
    /// Returns whether the server failed, rather than this one command.
    pub(super) fn is_server_failure(&self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Failed(error) => {
                error.is_io_error()
                    || error.is_timeout()
                    || !matches!(error.code(), None | Some("OOM" | "WRONGTYPE" | "ERR"))
            }
        }
    }

    /// Returns whether the key holds a value of another type than the command expects.
    pub(super) fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Failed(error) if error.code() == Some("WRONGTYPE"))
    }

    /// Returns what the server did and what to change; to be shown after the server's name.
    pub(super) fn describe(&self, has_tls: bool) -> String {
        let error = match self {
            Self::TimedOut => {
                return "gave no answer within cache.redis.command_timeout".to_owned();
            }
            Self::Failed(error) => error,
        };
        let text = error.to_string();
        // The text of a single server's IO error is from the system or from TLS. A cluster's may contain
        // what the server sent.
        let local = (error.is_io_error() && error.detail().is_none()).then_some(&text);
        match (explanation(&text, has_tls), local, error.code()) {
            (Some(words), Some(local), _) => format!("{words} ({local})"),
            (Some(words), None, _) => words,
            (None, Some(local), _) => format!("fails: {local}"),
            (None, None, Some(code)) => format!("fails: {:?} ({code})", error.kind()),
            (None, None, None) => format!("fails: {:?}", error.kind()),
        }
    }
}

/// A part of an error's text, and what is said about such an error.
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

/// The commands that a user needs. Redis puts the refused command in quotes.
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

fn explanation(text: &str, has_tls: bool) -> Option<String> {
    if let Some((_, words)) = SIGNS.iter().find(|(sign, _)| text.contains(sign)) {
        return Some((*words).to_owned());
    }
    if text.contains("NoPerm") {
        let is_refused = |command: &&&str| text.contains(&format!("'{command}'"));
        let command = COMMANDS.iter().find(is_refused);
        let command = command.map_or("a command".to_owned(), |command| format!("`{command}`"));
        return Some(format!(
            "refuses {command} to this user: give it the ACL in config/README.md"
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
