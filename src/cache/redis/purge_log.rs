//! The log of purges: a capped stream that every gateway reads in order.
//!
//! Every message has a number of ours and names the tail of the message before it. So a reader notices if
//! it missed messages, or if what it reads does not continue what it read: messages were trimmed, the log
//! was lost, a snapshot was restored, or a failover lost the last messages.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::client::Connection;
use super::error::RedisFailure;
use super::keys::{HASH_LEN, Keys};
use super::scripts::{self, Nonce};
use crate::policy::key::rule_and_ids;
use crate::policy::{Predicate, PurgeScope};

/// The number of messages read with one command.
const PAGE: usize = 1000;

/// The number of times that a catch-up starts again, because this gateway or another one replaced the
/// log. More than one or two means that gateways keep replacing it.
const MAX_RESTARTS: usize = 8;

const VERSION: u8 = 1;

/// Identifies a purge in the log: the hash of a rule and of `depth` leading ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PurgeId {
    depth: u8,
    hash: [u8; HASH_LEN],
}

impl PurgeId {
    pub(super) fn new<P: AsRef<[u8]>>(keys: &Keys, rule: P, ids: &[P]) -> Self {
        Self {
            depth: u8::try_from(ids.len()).unwrap_or(u8::MAX),
            hash: keys.purge(rule, ids),
        }
    }

    /// Encodes the message of the purge.
    pub(super) fn encode(&self, sender: &Nonce) -> Vec<u8> {
        [&[VERSION][..], sender, &[self.depth], &self.hash].concat()
    }

    /// Decodes a message into its sender and the purge.
    fn decode(message: &[u8]) -> Option<(Nonce, Self)> {
        let (&version, rest) = message.split_first()?;
        let (sender, rest) = rest.split_first_chunk::<HASH_LEN>()?;
        let (&depth, hash) = rest.split_first()?;
        let hash = hash.try_into().ok()?;
        (version == VERSION).then_some((*sender, Self { depth, hash }))
    }
}

/// What this gateway must purge from memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PurgeBatch {
    Purges(Vec<PurgeId>),
    /// The reader missed messages.
    All,
}

impl PurgeBatch {
    pub(super) fn into_scope(self, keys: &Arc<Keys>) -> PurgeScope {
        let purges: HashSet<PurgeId> = match self {
            Self::All => return PurgeScope::All,
            Self::Purges(purges) => purges.into_iter().collect(),
        };
        let keys = Arc::clone(keys);
        let depths: BTreeSet<u8> = purges.iter().map(|purge| purge.depth).collect();
        PurgeScope::Matching(Predicate::new(move |primary_key| {
            let path: SmallVec<[&[u8]; 4]> = rule_and_ids(primary_key).collect();
            let Some((&rule, ids)) = path.split_first() else {
                return false;
            };
            let leading = |depth: &u8| ids.get(..usize::from(*depth));
            depths
                .iter()
                .filter_map(leading)
                .any(|ids| purges.contains(&PurgeId::new(&keys, rule, ids)))
        }))
    }
}

/// The log and the epochs of its rules, which are part of the names of buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Namespace {
    pub(super) log: Vec<u8>,
    /// By the rule's field.
    epochs: HashMap<Vec<u8>, Vec<u8>>,
}

impl Namespace {
    fn new(mut head: HashMap<Vec<u8>, Vec<u8>>) -> Self {
        let log = head.remove(&b"log"[..]).unwrap_or_default();
        // The other fields change with every message and are part of no name.
        head.retain(|field, _| field.starts_with(b"r:"));
        Self { log, epochs: head }
    }

    /// Returns the epoch of a rule, by its field; empty if it has none.
    pub(super) fn epoch(&self, field: &str) -> &[u8] {
        self.epochs.get(field.as_bytes()).map_or(&[], Vec::as_slice)
    }

    /// Returns the key of the bucket of a primary key.
    pub(super) fn bucket(&self, keys: &Keys, primary_key: &[u8]) -> String {
        let mut path = rule_and_ids(primary_key);
        let rule = path.next().unwrap_or_default();
        let first_id = path.next().unwrap_or_default();
        keys.bucket(&self.log, self.epoch(&keys.epoch(rule)), rule, first_id)
    }
}

/// A position in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    log: Vec<u8>,
    number: u64,
    /// The tail of the message with that number.
    tail: Vec<u8>,
}

impl Position {
    /// Returns the end of the log, or `None` if the head is not one.
    fn end_of(head: &HashMap<Vec<u8>, Vec<u8>>) -> Option<Self> {
        let field = |name: &str| head.get(name.as_bytes());
        let number = std::str::from_utf8(field("n")?).ok()?.parse().ok()?;
        Some(Self {
            log: field("log").filter(|log| !log.is_empty())?.clone(),
            number,
            tail: field("tail")?.clone(),
        })
    }
}

/// The result of reading the messages since the reader's position.
enum Catchup {
    /// They lead without a gap to this position.
    Complete(Position, Vec<PurgeId>),
    /// Some were trimmed, or one cannot be read.
    Gap,
    /// They do not continue what the reader read before.
    Diverged,
}

/// A message as Redis returns it: its id and its fields.
type Message = (String, HashMap<Vec<u8>, Vec<u8>>);

/// Reads the log.
#[derive(Debug)]
pub(super) struct LogReader {
    head: Box<str>,
    stream: Box<str>,
    /// Names this process in its own messages, which it skips.
    pub(super) sender: Nonce,
    position: Option<Position>,
}

impl LogReader {
    pub(super) fn new(keys: &Keys) -> Self {
        Self {
            head: keys.head().into(),
            stream: keys.stream().into(),
            sender: scripts::nonce(),
            position: None,
        }
    }

    /// Reads the log to its end. The caller must apply the returned purges before it takes anything from
    /// the tier under the returned namespace.
    pub(super) async fn catch_up(
        &mut self,
        connection: &Connection,
    ) -> Result<(Namespace, Option<PurgeBatch>), RedisFailure> {
        let mut batch = None;
        for _ in 0..MAX_RESTARTS {
            let head = match connection.query(&scripts::head(&self.head)).await {
                // A head of another type is replaced like a lost one.
                Err(failure) if failure.is_wrong_type() => HashMap::new(),
                head => head?,
            };
            let Some(end) = Position::end_of(&head) else {
                let old = head.get(&b"log"[..]).map_or(&[][..], Vec::as_slice);
                self.reset(connection, old).await?;
                batch = Some(PurgeBatch::All);
                continue;
            };
            match self.read_to(connection, &end).await? {
                Catchup::Complete(position, purges) => {
                    if position.number > end.number {
                        // Messages came after the head was read, and a newer head has the epochs that go
                        // with them. The reader keeps its position: if it advanced and the next head
                        // failed, the purges read here would be lost.
                        continue;
                    }
                    self.position = Some(position);
                    if batch.is_none() && !purges.is_empty() {
                        batch = Some(PurgeBatch::Purges(purges));
                    }
                    return Ok((Namespace::new(head), batch));
                }
                Catchup::Gap => {
                    self.position = Some(end);
                    return Ok((Namespace::new(head), Some(PurgeBatch::All)));
                }
                Catchup::Diverged => {
                    // The tier may still hold what a lost message had purged. With a new log, all buckets
                    // get new names.
                    self.reset(connection, &end.log).await?;
                    self.position = None;
                    batch = Some(PurgeBatch::All);
                }
            }
        }
        Err(RedisFailure::TimedOut)
    }

    /// Reads from the reader's position to `end` or beyond.
    async fn read_to(
        &self,
        connection: &Connection,
        end: &Position,
    ) -> Result<Catchup, RedisFailure> {
        let Some(mut at) = self.position.clone().filter(|at| at.log == end.log) else {
            // It is the first log that this reader sees, or another one.
            return Ok(Catchup::Gap);
        };
        if at.number > end.number {
            return Ok(Catchup::Diverged);
        }
        let mut purges = Vec::new();
        while at.number < end.number {
            let command = scripts::messages(&self.stream, at.number + 1, PAGE);
            let page: Vec<Message> = match connection.query(&command).await {
                Err(failure) if failure.is_wrong_type() => return Ok(Catchup::Diverged),
                page => page?,
            };
            if page.is_empty() {
                return Ok(Catchup::Diverged);
            }
            for (id, fields) in &page {
                let number = id.strip_suffix("-0").and_then(|n| n.parse::<u64>().ok());
                let field = |name: &[u8]| fields.get(name).map_or(&[][..], Vec::as_slice);
                if number != Some(at.number + 1) {
                    return Ok(Catchup::Gap);
                }
                if field(b"q") != at.tail {
                    return Ok(Catchup::Diverged);
                }
                at.number += 1;
                at.tail = field(b"t").to_vec();
                match PurgeId::decode(field(b"p")) {
                    Some((sender, _)) if sender == self.sender => {}
                    Some((_, purge)) => purges.push(purge),
                    None => return Ok(Catchup::Gap),
                }
                if at.number == end.number && at.tail != end.tail {
                    return Ok(Catchup::Diverged);
                }
            }
        }
        // Without any message to read, the tails have not been compared yet.
        if at.number == end.number && at.tail != end.tail {
            return Ok(Catchup::Diverged);
        }
        Ok(Catchup::Complete(at, purges))
    }

    async fn reset(&self, connection: &Connection, old: &[u8]) -> Result<(), RedisFailure> {
        let command = scripts::reset(self.keys(), old);
        connection.query::<Vec<u8>>(&command).await?;
        Ok(())
    }

    /// Returns the keys of the log's head and stream.
    pub(super) fn keys(&self) -> [&str; 2] {
        [&self.head, &self.stream]
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_server::serve;
    use super::*;

    fn array(items: impl IntoIterator<Item = String>) -> String {
        let items: Vec<String> = items.into_iter().collect();
        format!("*{}\r\n{}", items.len(), items.concat())
    }

    fn bulk_strings(strings: &[&str]) -> String {
        array(
            strings
                .iter()
                .map(|string| format!("${}\r\n{string}\r\n", string.len())),
        )
    }

    /// Returns the head of a log with that many messages.
    fn head(number: &str) -> Option<String> {
        Some(bulk_strings(&["log", "log", "n", number, "tail", number]))
    }

    /// Returns messages whose tail is their number.
    fn messages(numbers: std::ops::RangeInclusive<usize>) -> Option<String> {
        let message = |n: usize| {
            let (before, tail) = ((n - 1).to_string(), n.to_string());
            let purge = PurgeId {
                depth: 1,
                hash: [u8::try_from(n).unwrap(); HASH_LEN],
            };
            let payload = String::from_utf8(purge.encode(&[0; HASH_LEN])).unwrap();
            let fields = bulk_strings(&["p", &payload, "q", &before, "t", &tail]);
            let id = format!("{n}-0");
            format!("*2\r\n${}\r\n{id}\r\n{fields}", id.len())
        };
        Some(array(numbers.map(message)))
    }

    /// A second message is appended between the reply to the head and that to the messages. The second
    /// head times out.
    #[tokio::test]
    async fn messages_beyond_the_head_are_read_again_if_the_next_head_times_out() {
        let replies = vec![
            // The first catch-up takes the position of the head.
            head("0"),
            // The second reads one message beyond its head, and gets no further head.
            head("1"),
            messages(1..=2),
            None,
            head("2"),
            messages(1..=2),
        ];
        let (_server, connection) = serve(replies).await;
        let mut reader = LogReader::new(&Keys::new("p", None));
        let (_, first) = reader.catch_up(&connection).await.unwrap();
        assert_eq!(first, Some(PurgeBatch::All));
        let second = reader.catch_up(&connection).await;
        assert!(matches!(second, Err(RedisFailure::TimedOut)));
        let (_, third) = reader.catch_up(&connection).await.unwrap();
        let Some(PurgeBatch::Purges(purges)) = third else {
            panic!("{third:?}");
        };
        let first_bytes: Vec<u8> = purges.iter().map(|purge| purge.hash[0]).collect();
        assert_eq!(first_bytes, [1, 2]);
    }
}
