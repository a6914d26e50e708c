//! The cache key: partition, rule, path ids, and variant (canonical query and `vary_headers`).
//!
//! Keys are compared in full, so two requests share a body only if they mean the same. A key holds its
//! ids in plain text, so that a purge by leading ids can find it. Only hashes of it leave the process.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use foldhash::fast::RandomState;

/// Ends every part of a key. Names, ids, canonical queries and header values never contain it.
pub(crate) const TERMINATOR: u8 = b'\n';

/// Length of a [`Partition`], in bytes.
const PARTITION_LEN: usize = 16;

/// Precedes the rule's name in the key of a list. No rule's name contains a colon.
const LIST_MARKER: &str = "list:";

/// Identifies the requests that may share bodies and fetches.
///
/// It is a hash of every injected header and of the upstream that the request goes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Partition([u8; PARTITION_LEN]);

impl Partition {
    /// Hashes `parts` in order, each preceded by its length, so that ("ab", "c") and ("a", "bc") differ.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let mut hash = [0; PARTITION_LEN];
        hasher.finalize_xof().fill(&mut hash);
        Self(hash)
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Hashes primary keys. The seed is random per process, so that nobody can choose colliding ids.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// Identifies one resource in one partition; all variants of the resource share it.
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

    /// Returns the hash that was computed when the key was built. It is valid in this process only.
    pub fn hash_value(&self) -> u64 {
        self.hash
    }

    /// Returns the size of the key, in bytes, without the overhead of its allocation.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns `false`: a key holds at least its partition.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the partition and the rule's name as one part, then each id.
    ///
    /// In the key, a [`TERMINATOR`] follows each part.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let is_end = |b: &u8| *b == TERMINATOR;
        let rule_len = self.bytes[PARTITION_LEN..].iter().position(is_end);
        let (first, ids) = self
            .bytes
            .split_at(PARTITION_LEN + rule_len.unwrap_or_default());
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

/// Identifies one stored body.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// Identifies the resource and the partition.
    pub primary: PrimaryKey,
    /// Holds the canonical query, then the request's `vary_headers`.
    pub variant: Box<str>,
}

impl CacheKey {
    /// Builds the key of a request for the resource of `rule` with these ids.
    pub fn new(partition: Partition, rule: &str, ids: &[&str], variant: &str) -> Self {
        Self::with_marker(partition, "", rule, ids, variant)
    }

    /// Builds the key of a request for the list of `rule` below these ids.
    ///
    /// It never equals the key of a resource. No purge covers it, because lists are not stored.
    pub fn for_list(partition: Partition, rule: &str, ids: &[&str], variant: &str) -> Self {
        Self::with_marker(partition, LIST_MARKER, rule, ids, variant)
    }

    fn with_marker(
        partition: Partition,
        marker: &str,
        rule: &str,
        ids: &[&str],
        variant: &str,
    ) -> Self {
        let path_len = rule.len() + 1 + ids.iter().map(|id| id.len() + 1).sum::<usize>();
        let mut bytes = Vec::with_capacity(PARTITION_LEN + path_len);
        bytes.extend_from_slice(&partition.0);
        bytes.extend_from_slice(marker.as_bytes());
        write_path(&mut bytes, rule, ids);
        Self {
            primary: PrimaryKey::new(bytes),
            variant: variant.into(),
        }
    }
}

/// Identifies the requests that may share one fetch: the same cache key under the same configuration.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CoalesceKey {
    /// The number of the configuration in force when the request arrived.
    pub config_number: u64,
    /// The key under which the body may be stored.
    pub key: CacheKey,
}

fn write_path(out: &mut Vec<u8>, rule: &str, ids: &[&str]) {
    for part in std::iter::once(&rule).chain(ids) {
        out.extend_from_slice(part.as_bytes());
        out.push(TERMINATOR);
    }
}

/// Returns the rule's name and then the ids of the [`PrimaryKey`] with these bytes.
///
/// The key of a list yields a name that no rule has.
pub fn rule_and_ids(primary: &[u8]) -> impl Iterator<Item = &[u8]> {
    let path = primary.get(PARTITION_LEN..).unwrap_or_default();
    let parts = path.split_inclusive(|byte| *byte == TERMINATOR);
    parts.map(|part| part.strip_suffix(&[TERMINATOR]).unwrap_or(part))
}

/// Says which resources a purge covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeScope {
    /// Covers every resource.
    All,
    /// Covers the resources of one rule below leading ids, in every partition.
    Prefix(Box<[u8]>),
    /// Covers all variants of one resource, in its own partition only.
    Resource(PrimaryKey),
    /// Covers the resources that satisfy a predicate.
    Matching(Predicate),
}

/// Decides whether a purge covers the [`PrimaryKey`] with the given bytes.
#[derive(Clone)]
pub struct Predicate(Arc<Covers>);

type Covers = dyn Fn(&[u8]) -> bool + Send + Sync;

impl Predicate {
    /// Wraps `covers`, which must not block, because the cache calls it under its locks.
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
    /// Covers the resources of `rule` whose path begins with `ids`, or all of the rule's if empty.
    pub fn prefix(rule: &str, ids: &[&str]) -> Self {
        let mut path = Vec::new();
        write_path(&mut path, rule, ids);
        Self::Prefix(path.into())
    }

    /// Returns whether the scope covers the [`PrimaryKey`] with the bytes `primary`.
    pub fn covers(&self, primary: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(path) => primary[PARTITION_LEN..].starts_with(path),
            Self::Resource(key) => *key.bytes == *primary,
            Self::Matching(Predicate(covers)) => covers(primary),
        }
    }
}

impl fmt::Debug for PrimaryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes[PARTITION_LEN..]).replace('\n', "/"))
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

    fn primary(rule: &str, ids: &[&str]) -> PrimaryKey {
        CacheKey::new(Partition::of(["p"]), rule, ids, "").primary
    }

    #[test]
    fn a_partition_depends_on_where_its_parts_end() {
        assert_ne!(Partition::of(["ab", "c"]), Partition::of(["a", "bc"]));
        assert_ne!(Partition::of(["a"]), Partition::of(["a", ""]));
        assert_eq!(Partition::of(["a", "b"]), Partition::of(["a", "b"]));
    }

    #[test]
    fn a_key_reports_its_length_and_prints_without_its_partition() {
        let partition = Partition::of(["p"]);
        let key = CacheKey::new(partition, "run-step", &["t", "r"], "a=1\nx-tenant=b");
        assert_eq!(key.primary.len(), PARTITION_LEN + "run-step\nt\nr\n".len());
        assert!(!key.primary.is_empty());
        assert_eq!(format!("{key:?}"), "run-step/t/r/?a=1|x-tenant=b");
        let printed = format!("{partition:?}");
        assert_eq!(printed.len(), 2 * PARTITION_LEN);
        assert!(printed.bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn a_key_splits_into_its_parts_whatever_bytes_its_partition_has() {
        let partition = Partition([TERMINATOR; PARTITION_LEN]);
        let key = CacheKey::new(partition, "run-step", &["t", "r", "s"], "").primary;
        let first = [&[TERMINATOR; PARTITION_LEN], &b"run-step"[..]].concat();
        let parts: Vec<&[u8]> = key.parts().collect();
        assert_eq!(parts, [&first[..], b"t", b"r", b"s"]);
        let joined: Vec<u8> = parts
            .iter()
            .flat_map(|part| [part, &[TERMINATOR][..]].concat())
            .collect();
        assert_eq!(joined, key.as_ref());
        let path: Vec<&[u8]> = rule_and_ids(key.as_ref()).collect();
        assert_eq!(path, [&b"run-step"[..], b"t", b"r", b"s"]);
        assert_eq!(rule_and_ids(b"no key").count(), 0);
    }

    #[test]
    fn a_prefix_covers_whole_ids_only() {
        let scope = PurgeScope::prefix("run-step", &["thread_1"]);
        assert!(scope.covers(primary("run-step", &["thread_1", "r", "s"]).as_ref()));
        assert!(!scope.covers(primary("run-step", &["thread_12", "r", "s"]).as_ref()));
        assert!(!scope.covers(primary("run-step", &["r", "thread_1", "s"]).as_ref()));
        assert!(!scope.covers(primary("response", &["thread_1"]).as_ref()));
        let step = primary("run-step", &["t", "r", "s"]);
        assert!(PurgeScope::prefix("run-step", &[]).covers(step.as_ref()));
        assert!(!PurgeScope::prefix("run", &[]).covers(step.as_ref()));
    }

    #[test]
    fn a_resource_scope_covers_one_partition_and_a_prefix_covers_all() {
        let key =
            |p: &str| CacheKey::new(Partition::of([p]), "run-step", &["t", "r", "s"], "").primary;
        assert!(PurgeScope::Resource(key("a")).covers(key("a").as_ref()));
        assert!(!PurgeScope::Resource(key("a")).covers(key("b").as_ref()));
        assert!(PurgeScope::prefix("run-step", &["t"]).covers(key("b").as_ref()));
    }

    proptest! {
        #[test]
        fn two_keys_are_equal_only_if_all_their_parts_are(
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
