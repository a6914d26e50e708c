//! The key under which a body is stored: who asked where (partition), for what (rule and ids), how
//! (canonical query and forwarded headers).
//!
//! It is compared in full, so two requests share a body only if they mean the same; it carries its
//! ids in the clear, so that a purge by leading ids can find it. What leaves the process is hashed.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use foldhash::fast::RandomState;

/// Ends every part of a key; neither names, ids, canonical queries nor header values contain it.
pub(crate) const TERMINATOR: u8 = b'\n';

const PARTITION: usize = 16;

/// Stands before the rule's name in the key of a list; no rule's name contains it.
const LIST: &str = "list:";

/// Within it bodies and fetches may be shared: a hash of everything injected and of where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Partition([u8; PARTITION]);

impl Partition {
    /// Hashes its parts, in order; each is framed by its length, so that they cannot run together.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let mut hash = [0; PARTITION];
        hasher.finalize_xof().fill(&mut hash);
        Self(hash)
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Seeded per process: nobody can choose ids that fall on one place.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The part of a key that all variants of one resource share.
#[derive(Clone, PartialEq, Eq)]
pub struct PrimaryKey {
    hash: u64,
    bytes: Box<[u8]>,
}

impl PrimaryKey {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            hash: HASHER.hash_one(&*bytes),
            bytes: bytes.into(),
        }
    }

    /// A hash of it, made once: where it is looked for, in this process.
    pub fn hash_value(&self) -> u64 {
        self.hash
    }

    /// Its size in memory, in bytes, without the allocation's own overhead.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: it holds at least the partition.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Partition and rule together, then its ids. Each is followed by [`TERMINATOR`] in the key.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let is_end = |b: &u8| *b == TERMINATOR;
        let rule = self.bytes[PARTITION..].iter().position(is_end);
        let (first, ids) = self.bytes.split_at(PARTITION + rule.unwrap_or_default());
        let ids = ids.get(1..).unwrap_or_default().split_inclusive(is_end);
        std::iter::once(first).chain(ids.map(|id| &id[..id.len() - 1]))
    }
}

impl AsRef<[u8]> for PrimaryKey {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Hash for PrimaryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The key of one body.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// What is asked for, and for whom.
    pub primary: PrimaryKey,
    /// How it is asked for: canonical query, then forwarded headers.
    pub variant: Box<str>,
}

impl CacheKey {
    /// The key of a request for the resource of `rule` with these ids.
    pub fn new(partition: Partition, rule: &str, ids: &[&str], variant: &str) -> Self {
        Self::with_mark(partition, rule, "", ids, variant)
    }

    /// The key of a request for the list of `rule` below these ids. Never the key of a resource,
    /// and covered by no purge: lists are not stored.
    pub fn for_list(partition: Partition, rule: &str, ids: &[&str], variant: &str) -> Self {
        Self::with_mark(partition, rule, LIST, ids, variant)
    }

    fn with_mark(
        partition: Partition,
        rule: &str,
        mark: &str,
        ids: &[&str],
        variant: &str,
    ) -> Self {
        let size = PARTITION + rule.len() + 1 + ids.iter().map(|id| id.len() + 1).sum::<usize>();
        let mut step = Vec::with_capacity(size);
        step.extend_from_slice(&partition.0);
        step.extend_from_slice(mark.as_bytes());
        write_path(&mut step, rule, ids);
        Self {
            primary: PrimaryKey::new(step),
            variant: variant.into(),
        }
    }
}

fn write_path(out: &mut Vec<u8>, rule: &str, ids: &[&str]) {
    for part in std::iter::once(&rule).chain(ids) {
        out.extend_from_slice(part.as_bytes());
        out.push(TERMINATOR);
    }
}

/// The rule's name, then the ids, of the step whose key has these bytes. (Of a list's key the name is
/// another: no resource's.)
pub fn rule_and_ids(step: &[u8]) -> impl Iterator<Item = &[u8]> {
    let path = step.get(PARTITION..).unwrap_or_default();
    let parts = path.split_inclusive(|byte| *byte == TERMINATOR);
    parts.map(|part| part.strip_suffix(&[TERMINATOR]).unwrap_or(part))
}

/// What a purge covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeScope {
    /// Everything.
    All,
    /// One rule's resources below these leading ids, in every partition.
    Prefix(Box<[u8]>),
    /// All variants of one resource, in its own partition.
    Resource(PrimaryKey),
    /// Whatever a predicate says.
    Matching(Predicate),
}

/// Says of the bytes of a [`PrimaryKey`] whether they are meant.
#[derive(Clone)]
pub struct Predicate(Arc<Covers>);

type Covers = dyn Fn(&[u8]) -> bool + Send + Sync;

impl Predicate {
    /// It is called under locks: it must not block.
    pub fn new(covers: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(covers))
    }
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Predicate")
    }
}

impl PartialEq for Predicate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Predicate {}

impl PurgeScope {
    /// The resources of `rule` whose path begins with `ids` (none: all of the rule's).
    pub fn prefix(rule: &str, ids: &[&str]) -> Self {
        let mut path = Vec::new();
        write_path(&mut path, rule, ids);
        Self::Prefix(path.into())
    }

    /// Whether it covers `step`, the bytes of a [`PrimaryKey`].
    pub fn covers(&self, step: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(path) => step[PARTITION..].starts_with(path),
            Self::Resource(own) => *own.bytes == *step,
            Self::Matching(Predicate(covers)) => covers(step),
        }
    }
}

impl fmt::Debug for PrimaryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes[PARTITION..]).replace('\n', "/"))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}?{}", self.primary, self.variant.replace('\n', "|"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_partition_frames_its_parts() {
        assert_ne!(Partition::of(["ab", "c"]), Partition::of(["a", "bc"]));
        assert_ne!(Partition::of(["a"]), Partition::of(["a", ""]));
        assert_eq!(Partition::of(["a", "b"]), Partition::of(["a", "b"]));
    }

    #[test]
    fn a_key_is_as_long_as_its_parts_and_prints_without_its_partition() {
        let partition = Partition::of(["p"]);
        let key = CacheKey::new(partition, "run-step", &["t", "r"], "a=1\nx-tenant=b");
        assert_eq!(key.primary.len(), PARTITION + "run-step\nt\nr\n".len());
        assert!(!key.primary.is_empty());
        assert_eq!(format!("{key:?}"), "run-step/t/r/?a=1|x-tenant=b");
        let printed = format!("{partition:?}");
        assert_eq!(printed.len(), 2 * PARTITION);
        assert!(printed.bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn the_parts_of_a_key_are_its_ids_behind_partition_and_rule() {
        // A partition may have any bytes, those that end a part among them.
        let partition = Partition([TERMINATOR; PARTITION]);
        let key = CacheKey::new(partition, "run-step", &["t", "r", "s"], "").primary;
        let first = [&[TERMINATOR; PARTITION], &b"run-step"[..]].concat();
        let parts: Vec<&[u8]> = key.parts().collect();
        assert_eq!(parts, [&first[..], b"t", b"r", b"s"]);
        let spelt: Vec<u8> = parts
            .iter()
            .flat_map(|part| [part, &[TERMINATOR][..]].concat())
            .collect();
        assert_eq!(spelt, key.as_ref());
    }

    #[test]
    fn the_path_of_a_key_is_the_rule_and_its_ids() {
        let partition = Partition([TERMINATOR; PARTITION]);
        let key = CacheKey::new(partition, "run-step", &["t", "r", "s"], "").primary;
        let path: Vec<&[u8]> = rule_and_ids(key.as_ref()).collect();
        assert_eq!(path, [&b"run-step"[..], b"t", b"r", b"s"]);
        assert_eq!(rule_and_ids(b"no key").count(), 0);
    }

    #[test]
    fn a_scope_covers_whole_ids_only() {
        let partition = Partition::of(["p"]);
        let step = |rule: &str, ids: &[&str]| CacheKey::new(partition, rule, ids, "").primary;
        let scope = PurgeScope::prefix("run-step", &["thread_1"]);
        assert!(scope.covers(step("run-step", &["thread_1", "r", "s"]).as_ref()));
        assert!(!scope.covers(step("run-step", &["thread_12", "r", "s"]).as_ref()));
        assert!(!scope.covers(step("run-step", &["r", "thread_1", "s"]).as_ref()));
        assert!(!scope.covers(step("response", &["thread_1"]).as_ref()));
        assert!(
            PurgeScope::prefix("run-step", &[]).covers(step("run-step", &["t", "r", "s"]).as_ref())
        );
        assert!(
            !PurgeScope::prefix("run", &[]).covers(step("run-step", &["t", "r", "s"]).as_ref())
        );
    }

    #[test]
    fn a_step_scope_stays_in_its_partition() {
        let key =
            |p: &str| CacheKey::new(Partition::of([p]), "run-step", &["t", "r", "s"], "").primary;
        assert!(PurgeScope::Resource(key("a")).covers(key("a").as_ref()));
        assert!(!PurgeScope::Resource(key("a")).covers(key("b").as_ref()));
        assert!(PurgeScope::prefix("run-step", &["t"]).covers(key("b").as_ref()));
    }

    proptest! {
        #[test]
        fn two_keys_are_equal_only_if_everything_is(
            a in ("[ab]{1,2}", prop::collection::vec("[ab]{1,2}", 1..4), "[ab]{0,2}"),
            b in ("[ab]{1,2}", prop::collection::vec("[ab]{1,2}", 1..4), "[ab]{0,2}"),
        ) {
            let key = |(rule, ids, variant): &(String, Vec<String>, String)| {
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                CacheKey::new(Partition::of(["p"]), rule, &ids, variant)
            };
            prop_assert_eq!(a == b, key(&a) == key(&b));
        }
    }
}
