//! The commands and scripts that are sent to Redis. A script touches one key, or two of one slot, so that
//! a check and the write that depends on it are one step.
//!
//! A bucket holds a **token** beside its entries: random bytes, chosen by the first look-up that found
//! none. A write must present the token that was read before its fetch started. A purge removes the bucket
//! and its token, so a write from before the purge is refused, however late it arrives. Eviction, expiry
//! and an operator's `DEL` have the same effect. A counter in place of the token would start again at its
//! first value.

use std::sync::LazyLock;

use redis::Cmd;
use rustls::crypto::SecureRandom;

use super::keys::HASH_LEN;

/// How long a bucket with a token and no entry is kept, in milliseconds. Most runs are shorter.
const TOKEN_TTL: u64 = 15 * 60 * 1000;

/// The number of fields of a bucket, at two for each resource and a token. A thread has some hundred
/// steps; the limit is for clients that invent ids.
const MAX_FIELDS: u64 = 8192;

/// The number of messages that the log keeps. A gateway that missed more purges everything it stored.
const MAX_MESSAGES: u64 = 10_000;

/// KEYS bucket; ARGV field, fresh token, ttl of a bucket without entries, largest value wanted. Returns
/// the token (nil if there is none and no memory for one) and the value (nil if there is none).
const LOOKUP: &str = r"
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

/// KEYS bucket; ARGV token, field, value, ttl of the value, limit of fields, the resource's marker.
/// Returns 1 if the value was stored, otherwise 0.
const STORE: &str = r"
if redis.call('HGET', KEYS[1], 'g') ~= ARGV[1] then return 0 end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[5]) and redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3], ARGV[6], '')
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
";

/// KEYS bucket. Removes it, also if it is of another type. Returns its token.
const REMOVE: &str = r"
local token = redis.pcall('HGET', KEYS[1], 'g')
redis.call('UNLINK', KEYS[1])
if type(token) == 'string' then return token end
return false
";

/// KEYS bucket; ARGV token. Removes the bucket if it has that token.
const REMOVE_AGAIN: &str = r"
if redis.call('HGET', KEYS[1], 'g') == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end
return 0
";

/// KEYS head, stream; ARGV fresh nonce, message, the rule's epoch field, log, the epoch under which the
/// bucket was removed ('*': begin a new epoch), limit of messages. Returns the number of the message (0
/// if log or epoch have changed) and the log.
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

/// KEYS head, stream; ARGV id of a new log, the log to replace ('' if there is none, or if the head is of
/// another type). Returns the log that is there now: if several gateways replace a log, the first one
/// chooses.
const RESET: &str = r"
local log = redis.pcall('HGET', KEYS[1], 'log')
if type(log) ~= 'string' then log = '' end
if log ~= ARGV[2] then return log end
redis.call('UNLINK', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'log', ARGV[1], 'n', 0, 'tail', '')
return ARGV[1]
";

/// Random bytes that are never used twice.
pub(super) type Nonce = [u8; HASH_LEN];

pub(super) fn nonce() -> Nonce {
    static SOURCE: LazyLock<&dyn SecureRandom> =
        LazyLock::new(|| rustls::crypto::ring::default_provider().secure_random);
    let mut bytes = Nonce::default();
    SOURCE
        .fill(&mut bytes)
        .expect("the system has random bytes, since TLS needs them as well");
    bytes
}

fn script(text: &str, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys);
    command
}

/// Reads the token of a bucket and one of its entries. Reply: `(Option<token>, Option<value>)`.
pub(super) fn lookup(bucket: &str, field: &[u8], max_value: u64) -> Cmd {
    let mut command = script(LOOKUP, &[bucket]);
    command
        .arg(field)
        .arg(&nonce()[..])
        .arg(TOKEN_TTL)
        .arg(max_value);
    command
}

/// Stores an entry for `ttl` milliseconds if the bucket has the token. Reply: 1 or 0.
pub(super) fn store(
    bucket: &str,
    token: &Nonce,
    field: &[u8],
    value: &[u8],
    marker: &[u8],
    ttl: u64,
) -> Cmd {
    let mut command = script(STORE, &[bucket]);
    command
        .arg(&token[..])
        .arg(field)
        .arg(value)
        .arg(ttl)
        .arg(MAX_FIELDS)
        .arg(marker);
    command
}

/// Reads whether a bucket has a field. Reply: 1 or 0.
pub(super) fn has_field(bucket: &[u8], field: &[u8]) -> Cmd {
    let mut command = redis::cmd("HEXISTS");
    command.arg(bucket).arg(field);
    command
}

/// Removes a bucket with its token. Reply: the token, if there was one.
pub(super) fn remove(bucket: &str) -> Cmd {
    script(REMOVE, &[bucket])
}

/// Removes a bucket if it has the token. Reply: 1 or 0.
pub(super) fn remove_again(bucket: &str, token: &[u8]) -> Cmd {
    let mut command = script(REMOVE_AGAIN, &[bucket]);
    command.arg(token);
    command
}

/// Appends a message to the log. `keys` are the log's head and stream, `rule` is the rule's epoch field.
/// `epoch` is the one under which the bucket was removed; with `None` the rule gets a new epoch, which
/// purges all of it. Reply: `(number of the message or 0, log)`.
pub(super) fn announce(
    keys: [&str; 2],
    message: &[u8],
    rule: &str,
    log: &[u8],
    epoch: Option<&[u8]>,
) -> Cmd {
    let mut command = script(ANNOUNCE, &keys);
    command
        .arg(&nonce()[..])
        .arg(message)
        .arg(rule)
        .arg(log)
        .arg(epoch.unwrap_or(b"*"))
        .arg(MAX_MESSAGES);
    command
}

/// Replaces the log `old` by a new, empty one. `keys` are the log's head and stream. Reply: the log that
/// is there now.
pub(super) fn reset(keys: [&str; 2], old: &[u8]) -> Cmd {
    let mut command = script(RESET, &keys);
    command.arg(&nonce()[..]).arg(old);
    command
}

/// Reads all fields of the log's head.
pub(super) fn head(head: &str) -> Cmd {
    let mut command = redis::cmd("HGETALL");
    command.arg(head);
    command
}

/// Reads at most `count` messages, beginning with number `from`.
pub(super) fn messages(stream: &str, from: u64, count: usize) -> Cmd {
    let mut command = redis::cmd("XRANGE");
    command.arg(stream).arg(format!("{from}-0")).arg("+");
    command.arg("COUNT").arg(count);
    command
}
