//! The log of purges: a capped stream that every gateway reads in order.
//!
//! Its messages have our own numbers and are chained: each names the one before it. So a reader that
//! comes back finds out whether it has missed any, and whether what it reads continues what it knew:
//! messages trimmed, a log lost, a snapshot restored, a failover that lost the last of them.

use std::collections::HashMap;

use super::client::Link;
use super::error::Trouble;
use super::keys::{NAME, Names};
use super::scripts::{self, Nonce};

/// Messages that the log keeps. Who was away for longer forgets everything.
pub(super) const MOST: u64 = 10_000;

/// Messages read at once.
const BATCH: usize = 1000;

const VERSION: u8 = 1;

/// One purge: the hash of a rule and of so many leading ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark {
    pub(super) depth: u8,
    pub(super) name: [u8; NAME],
}

impl Mark {
    pub(super) fn of<P: AsRef<[u8]>>(names: &Names, rule: P, ids: &[P]) -> Self {
        Self {
            depth: u8::try_from(ids.len()).unwrap_or(u8::MAX),
            name: names.mark(rule, ids),
        }
    }
}

/// What a look into the log means for what is in memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Forget {
    Marked(Vec<Mark>),
    /// Something was missed.
    All,
}

/// What things in Redis are called now: these are part of the names of threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) log: Vec<u8>,
    /// By the rule's field.
    epochs: HashMap<Vec<u8>, Vec<u8>>,
}

impl View {
    pub(super) fn epoch(&self, rule: &[u8]) -> &[u8] {
        self.epochs.get(rule).map_or(&[], Vec::as_slice)
    }
}

/// Where a reader stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    log: Vec<u8>,
    number: u64,
    /// Of the message with that number.
    tail: Vec<u8>,
}

/// Reads the log.
#[derive(Debug)]
pub(super) struct Reader {
    head: Vec<u8>,
    stream: Vec<u8>,
    /// Stands in the messages of this process, which it need not obey.
    pub(super) sender: Nonce,
    at: Option<Position>,
}

/// A message of the log, as Redis has it: its id and its fields.
type Message = (String, HashMap<Vec<u8>, Vec<u8>>);

/// What a stretch of messages said.
enum Read {
    /// It leads from the position to this one.
    Whole(Position, Vec<Mark>),
    /// Its beginning was trimmed, or a message cannot be read.
    Missed,
    /// It does not continue what was known.
    Broken,
}

impl Reader {
    pub(super) fn new(names: &Names, sender: Nonce) -> Self {
        Self {
            head: names.head().into(),
            stream: names.stream().into(),
            sender,
            at: None,
        }
    }

    /// Catches up. What it returns is to be forgotten before anything is taken from the tier.
    pub(super) async fn follow(&mut self, link: &Link) -> Result<(View, Option<Forget>), Trouble> {
        let mut forget = None;
        // A reset, by us or by others, makes another look necessary; more than one or two is a quarrel.
        for _ in 0..8 {
            let head = match link.ask(&scripts::head(&self.head)).await {
                // What is no head is replaced like one that is lost.
                Err(trouble) if trouble.is_of_another_type() => HashMap::new(),
                head => head?,
            };
            let Some(seen) = Position::of(&head) else {
                let known = head.get(&b"log"[..]).map_or(&[][..], Vec::as_slice);
                self.reset(link, known).await?;
                forget = Some(Forget::All);
                continue;
            };
            match self.read_to(link, &seen).await? {
                Read::Whole(position, marks) => {
                    if position.number > seen.number {
                        // The names that go with it are in a newer head. Read again from where it
                        // stands: were it further and the head late, what it read would be lost.
                        continue;
                    }
                    self.at = Some(position);
                    if forget.is_none() && !marks.is_empty() {
                        forget = Some(Forget::Marked(marks));
                    }
                    return Ok((View::of(head), forget));
                }
                Read::Missed => {
                    self.at = Some(seen);
                    return Ok((View::of(head), Some(Forget::All)));
                }
                Read::Broken => {
                    // The tier may hold what a lost message had removed: all of it gets new names.
                    self.reset(link, &seen.log).await?;
                    self.at = None;
                    forget = Some(Forget::All);
                }
            }
        }
        Err(Trouble::Late)
    }

    /// Reads from where it stands at least to where the head was `seen`.
    async fn read_to(&self, link: &Link, seen: &Position) -> Result<Read, Trouble> {
        let Some(mut at) = self.at.clone().filter(|at| at.log == seen.log) else {
            // Another log, or the first that it sees.
            return Ok(Read::Missed);
        };
        let mut marks = Vec::new();
        while at.number < seen.number {
            let command = scripts::messages(&self.stream, at.number + 1, BATCH);
            let batch: Vec<Message> = match link.ask(&command).await {
                Err(trouble) if trouble.is_of_another_type() => return Ok(Read::Broken),
                batch => batch?,
            };
            if batch.is_empty() {
                return Ok(Read::Broken);
            }
            for (id, fields) in &batch {
                let number = id.strip_suffix("-0").and_then(|n| n.parse::<u64>().ok());
                let field = |name: &[u8]| fields.get(name).map_or(&[][..], Vec::as_slice);
                if number != Some(at.number + 1) {
                    return Ok(Read::Missed);
                }
                if field(b"q") != at.tail {
                    return Ok(Read::Broken);
                }
                at.number += 1;
                at.tail = field(b"t").to_vec();
                match decode(field(b"p")) {
                    Some((sender, _)) if sender == self.sender => {}
                    Some((_, mark)) => marks.push(mark),
                    None => return Ok(Read::Missed),
                }
                if at.number == seen.number && at.tail != seen.tail {
                    return Ok(Read::Broken);
                }
            }
        }
        if at.number == seen.number && at.tail != seen.tail || at.number < seen.number {
            return Ok(Read::Broken);
        }
        Ok(
            match self.at.as_ref().is_some_and(|at| at.number > seen.number) {
                true => Read::Broken,
                false => Read::Whole(at, marks),
            },
        )
    }

    async fn reset(&self, link: &Link, old: &[u8]) -> Result<(), Trouble> {
        let command = scripts::reset(&self.head, &self.stream, &super::nonce(), old);
        link.ask::<Vec<u8>>(&command).await?;
        Ok(())
    }

    pub(super) fn keys(&self) -> (&[u8], &[u8]) {
        (&self.head, &self.stream)
    }
}

impl Position {
    /// None if the head is not one.
    fn of(head: &HashMap<Vec<u8>, Vec<u8>>) -> Option<Self> {
        let field = |name: &str| head.get(name.as_bytes());
        let number = std::str::from_utf8(field("n")?).ok()?.parse().ok()?;
        Some(Self {
            log: field("log").filter(|log| !log.is_empty())?.clone(),
            number,
            tail: field("tail")?.clone(),
        })
    }
}

impl View {
    fn of(mut head: HashMap<Vec<u8>, Vec<u8>>) -> Self {
        let log = head.remove(&b"log"[..]).unwrap_or_default();
        // How far it is, is no part of any name.
        head.retain(|field, _| field.starts_with(b"r:"));
        Self { log, epochs: head }
    }
}

/// The message of a purge.
pub(super) fn encode(sender: &Nonce, mark: &Mark) -> Vec<u8> {
    [&[VERSION][..], sender, &[mark.depth], &mark.name].concat()
}

fn decode(message: &[u8]) -> Option<(Nonce, Mark)> {
    let (&version, rest) = message.split_first()?;
    let (sender, rest) = rest.split_first_chunk::<NAME>()?;
    let (&depth, name) = rest.split_first()?;
    let name = name.try_into().ok()?;
    (version == VERSION).then_some((*sender, Mark { depth, name }))
}

#[cfg(test)]
mod tests {
    use super::super::scripted::scripted;
    use super::*;

    fn array(items: impl IntoIterator<Item = String>) -> String {
        let items: Vec<String> = items.into_iter().collect();
        format!("*{}\r\n{}", items.len(), items.concat())
    }

    fn words(words: &[&str]) -> String {
        let bulk = |word: &&str| format!("${}\r\n{word}\r\n", word.len());
        array(words.iter().map(bulk))
    }

    /// A head of the log `log` with that many messages.
    fn head(number: &str) -> Option<String> {
        Some(words(&["log", "log", "n", number, "tail", number]))
    }

    /// Those messages: the tail of each is its number.
    fn messages(numbers: std::ops::RangeInclusive<usize>) -> Option<String> {
        let message = |n: usize| {
            let (before, tail) = ((n - 1).to_string(), n.to_string());
            let mark = Mark {
                depth: 1,
                name: [u8::try_from(n).unwrap(); NAME],
            };
            let payload = String::from_utf8(encode(&[0; NAME], &mark)).unwrap();
            let fields = words(&["p", &payload, "q", &before, "t", &tail]);
            let id = format!("{n}-0");
            format!("*2\r\n${}\r\n{id}\r\n{fields}", id.len())
        };
        Some(array(numbers.map(message)))
    }

    fn forgotten(read: Result<(View, Option<Forget>), Trouble>) -> Vec<u8> {
        match read.unwrap().1 {
            Some(Forget::Marked(marks)) => marks.iter().map(|mark| mark.name[0]).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// More was told between a look at the head and the messages, and a second look brings nothing.
    #[tokio::test]
    async fn what_was_read_beyond_a_head_is_read_again_where_the_next_head_is_late() {
        let script = vec![
            head("0"),
            // The first that is asked for, and one more.
            head("1"),
            messages(1..=2),
            None,
            head("2"),
            messages(1..=2),
        ];
        let (_server, link) = scripted(script).await;
        let mut reader = Reader::new(&Names::new("p", None), [7; NAME]);
        let first = reader.follow(&link).await.unwrap();
        assert_eq!(first.1, Some(Forget::All), "it begins there");
        assert!(matches!(reader.follow(&link).await, Err(Trouble::Late)));
        assert_eq!(forgotten(reader.follow(&link).await), [1, 2]);
    }
}
