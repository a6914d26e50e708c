//! What is asked of Redis: scripts on one key or two of one slot, so that checking and doing are one
//! step there.
//!
//! A thread's hash holds a **token** beside its entries: random bytes, chosen by whoever found none. A
//! write must bring the token that was read before its fetch departed. A purge removes the hash, and
//! the token with it, so nothing from before it is ever taken, however late it comes. Eviction, expiry
//! and an operator's hand do the same; a counter in its place would begin again.

use redis::Cmd;

use super::keys::NAME;

/// How long a token without any entry is kept: longer than a step runs, mostly. Milliseconds.
const TOKEN_KEPT: u64 = 15 * 60 * 1000;

/// Fields of one thread: two a step, or little more. Callers can invent ids; a thread has some hundred
/// steps.
const MOST_FIELDS: u64 = 8192;

/// KEYS thread; ARGV field, fresh token, how long a bare token lives, the largest value that is wanted.
/// Returns the token (nil if there is none and no room for one), and the value (nil if there is none).
const LOOK: &str = r"
local token = redis.call('HGET', KEYS[1], 'g')
if not token then
  local set = redis.pcall('HSET', KEYS[1], 'g', ARGV[2])
  if type(set) == 'table' and set.err then return {false, false} end
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {ARGV[2], false}
end
if redis.call('HSTRLEN', KEYS[1], ARGV[1]) > tonumber(ARGV[4]) then return {token, false} end
return {token, redis.call('HGET', KEYS[1], ARGV[1])}
";

/// KEYS thread; ARGV token, field, value, its time to live, the most fields, the step's mark: as long as
/// that is there, something of the step may be. Returns 1 if it was taken.
const PUT: &str = r"
if redis.call('HGET', KEYS[1], 'g') ~= ARGV[1] then return 0 end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[5]) and redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3], ARGV[6], '')
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
";

/// KEYS thread. Whatever is there goes, be it of another type.
const REMOVE: &str = r"
local token = redis.pcall('HGET', KEYS[1], 'g')
redis.call('UNLINK', KEYS[1])
if type(token) == 'string' then return token end
return false
";

/// KEYS thread; ARGV token.
const REMOVE_AGAIN: &str = r"
if redis.call('HGET', KEYS[1], 'g') == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end
return 0
";

/// KEYS head, stream; ARGV fresh nonce, message, the rule's field, log, the rule's epoch that the thread
/// was removed under ('*': begin a new one), the most messages. Returns the number of the message, or 0
/// if log or epoch are others by now; then the log.
const ANNOUNCE: &str = r"
local log = redis.call('HGET', KEYS[1], 'log')
if log ~= ARGV[4] then return {0, log} end
local epoch = redis.call('HGET', KEYS[1], ARGV[3]) or ''
if ARGV[5] ~= '*' and epoch ~= ARGV[5] then return {0, log} end
local n = tonumber(redis.call('HGET', KEYS[1], 'n') or '0') + 1
local tail = redis.call('HGET', KEYS[1], 'tail') or ''
local put = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], n .. '-0', 'p', ARGV[2], 'q', tail, 't', ARGV[1])
if type(put) == 'table' and put.err then
  if string.find(put.err, 'OOM', 1, true) then return redis.error_reply(put.err) end
  redis.call('UNLINK', KEYS[2])
  redis.call('HSET', KEYS[1], 'log', ARGV[1], 'n', 0, 'tail', '')
  return {0, ARGV[1]}
end
if ARGV[5] == '*' then redis.call('HSET', KEYS[1], ARGV[3], ARGV[1]) end
redis.call('HSET', KEYS[1], 'n', n, 'tail', ARGV[1])
return {n, log}
";

/// KEYS head, stream; ARGV nonce of a new log, the log that is to end ('': there is none yet, or
/// something else in its place). Returns
/// the log that is there now: of several who end one, the first has chosen.
const RESET: &str = r"
local log = redis.pcall('HGET', KEYS[1], 'log')
if type(log) ~= 'string' then log = '' end
if log ~= ARGV[2] then return log end
redis.call('UNLINK', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'log', ARGV[1], 'n', 0, 'tail', '')
return ARGV[1]
";

/// Random bytes that are never had twice.
pub(super) type Nonce = [u8; NAME];

fn script(text: &str, keys: &[&[u8]]) -> Cmd {
    let mut command = Cmd::new();
    command.arg("EVAL").arg(text).arg(keys.len());
    for key in keys {
        command.arg(*key);
    }
    command
}

/// Asks for the token of a thread and for one of its entries. Answers `(Option<token>, Option<value>)`.
pub(super) fn look(thread: &[u8], field: &[u8], fresh: &Nonce, largest: u64) -> Cmd {
    let mut command = script(LOOK, &[thread]);
    command
        .arg(field)
        .arg(&fresh[..])
        .arg(TOKEN_KEPT)
        .arg(largest);
    command
}

/// What is written of a body.
pub(super) struct Entry<'a> {
    pub(super) field: &'a [u8],
    pub(super) value: &'a [u8],
    /// The field that says that something of its step is there.
    pub(super) mark: &'a [u8],
    /// In milliseconds.
    pub(super) ttl: u64,
}

/// Writes an entry, if the token is still the thread's. Answers 1 or 0.
pub(super) fn put(thread: &[u8], token: &[u8], entry: &Entry<'_>) -> Cmd {
    let mut command = script(PUT, &[thread]);
    command
        .arg(token)
        .arg(entry.field)
        .arg(entry.value)
        .arg(entry.ttl)
        .arg(MOST_FIELDS)
        .arg(entry.mark);
    command
}

/// Whether a thread has a field. Answers 1 or 0.
pub(super) fn has(thread: &[u8], field: &[u8]) -> Cmd {
    let mut command = Cmd::new();
    command.arg("HEXISTS").arg(thread).arg(field);
    command
}

/// Removes a thread's entries and its token. Answers the token, if there was one.
pub(super) fn remove(thread: &[u8]) -> Cmd {
    script(REMOVE, &[thread])
}

/// Removes them once more, if the token is there again. Answers 1 or 0.
pub(super) fn remove_again(thread: &[u8], token: &[u8]) -> Cmd {
    let mut command = script(REMOVE_AGAIN, &[thread]);
    command.arg(token);
    command
}

/// What a message of a purge goes by.
pub(super) struct Announcement<'a> {
    pub(super) message: &'a [u8],
    pub(super) rule: &'a [u8],
    pub(super) log: &'a [u8],
    /// Under which the thread was removed; none: a new one begins, and with it all of the rule is gone.
    pub(super) epoch: Option<&'a [u8]>,
    pub(super) most: u64,
}

/// Writes a message into the log. Answers `(number or 0, log)`.
pub(super) fn announce(head: &[u8], stream: &[u8], fresh: &Nonce, what: &Announcement<'_>) -> Cmd {
    let mut command = script(ANNOUNCE, &[head, stream]);
    command
        .arg(&fresh[..])
        .arg(what.message)
        .arg(what.rule)
        .arg(what.log)
        .arg(what.epoch.unwrap_or(b"*"))
        .arg(what.most);
    command
}

/// Ends a log and begins another. Answers the one that is there now.
pub(super) fn reset(head: &[u8], stream: &[u8], fresh: &Nonce, old: &[u8]) -> Cmd {
    let mut command = script(RESET, &[head, stream]);
    command.arg(&fresh[..]).arg(old);
    command
}

/// The head of the log: its fields and their values.
pub(super) fn head(head: &[u8]) -> Cmd {
    let mut command = Cmd::new();
    command.arg("HGETALL").arg(head);
    command
}

/// Up to so many messages from number `from` on.
pub(super) fn messages(stream: &[u8], from: u64, most: usize) -> Cmd {
    let mut command = Cmd::new();
    command
        .arg("XRANGE")
        .arg(stream)
        .arg(format!("{from}-0"))
        .arg("+");
    command.arg("COUNT").arg(most);
    command
}
