//! The names of keys and fields in Redis.
//!
//! Every key begins with the operator's prefix. All that follows from a request is hashed, so no id is
//! written in clear. Without an encryption key, anyone who knows an id can compute its hash and test
//! whether it is stored; with one, the hashes are keyed. The same input has the same name on every gateway
//! and in every version.

use blake3::{Hash, Hasher};
use secrecy::{ExposeSecret, SecretBox};

use crate::policy::PrimaryKey;

/// The context from which the key of the hashes is derived. The seal derives another key from the same
/// secret.
const CONTEXT: &str = "stepgate 2026 names";

/// The number of bytes of a hash that are written: enough that no two names collide by chance.
pub(super) const HASH_LEN: usize = 16;

/// The names below one prefix.
#[derive(Debug)]
pub struct Keys {
    head: Box<str>,
    stream: Box<str>,
    buckets: Box<str>,
    hash_key: Option<SecretBox<[u8; blake3::KEY_LEN]>>,
}

impl Keys {
    /// Creates the names below `prefix`, which must contain no braces, since braces choose the slot of a
    /// cluster. The hashes are keyed if the configuration has an `encryption_key`.
    pub fn new(prefix: &str, encryption_key: Option<&str>) -> Self {
        let derive =
            |secret: &str| SecretBox::init_with(|| blake3::derive_key(CONTEXT, secret.as_bytes()));
        Self {
            // One script uses both, so the hash tag puts both into one slot of a cluster.
            head: format!("{prefix}:{{log}}:head").into(),
            stream: format!("{prefix}:{{log}}:purges").into(),
            // Without a hash tag, buckets spread over all slots.
            buckets: format!("{prefix}:t:").into(),
            hash_key: encryption_key.map(derive),
        }
    }

    /// Returns the key of the log's head: the id of the log, its length, and the epochs of the rules.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// Returns the key of the stream of purges.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Returns the key of a bucket: the Redis hash that holds the entries below one first id of a rule,
    /// in all partitions. It is the prefix, `:t:` and 32 hexadecimal digits. With another log or another
    /// epoch of the rule the bucket has another name, which is how a whole rule is purged.
    pub fn bucket<P: AsRef<[u8]>>(&self, log: &[u8], epoch: &[u8], rule: P, first_id: P) -> String {
        let parts = [log, epoch, rule.as_ref(), first_id.as_ref()];
        let hash = self.hash("thread", parts).to_hex();
        [&self.buckets, &hash[..2 * HASH_LEN]].concat()
    }

    /// Returns the field of a bucket that holds one body.
    pub fn field(&self, key: &PrimaryKey, variant: &str) -> [u8; HASH_LEN] {
        // The primary key ends with a terminator that no part contains, so the two cannot run together.
        shortened(&self.hash("field", [key.as_ref(), variant.as_bytes()]))
    }

    /// Returns the field of a bucket that marks that it may hold a body of the resource.
    pub fn marker(&self, key: &PrimaryKey) -> [u8; HASH_LEN] {
        shortened(&self.hash("step", [key.as_ref()]))
    }

    /// Returns the hash of a rule and of leading ids, by which the stream names a purge.
    pub fn purge<P: AsRef<[u8]>>(&self, rule: P, ids: &[P]) -> [u8; HASH_LEN] {
        let ids = ids.iter().map(AsRef::as_ref);
        let parts = std::iter::once(rule.as_ref()).chain(ids);
        shortened(&self.hash("mark", parts))
    }

    /// Returns the field of the head that holds a rule's epoch: `r:` and 32 hexadecimal digits.
    pub fn epoch<P: AsRef<[u8]>>(&self, rule: P) -> String {
        let hash = self.hash("rule", [rule.as_ref()]).to_hex();
        ["r:", &hash[..2 * HASH_LEN]].concat()
    }

    /// Returns the BLAKE3 hash of `kind` and the parts, each after its length, so that no two lists of
    /// parts and no two kinds of names have the same input. The words for the kinds are part of the
    /// format.
    fn hash<'a>(&self, kind: &'a str, parts: impl IntoIterator<Item = &'a [u8]>) -> Hash {
        let mut hasher = match &self.hash_key {
            Some(key) => Hasher::new_keyed(key.expose_secret()),
            None => Hasher::new(),
        };
        for part in std::iter::once(kind.as_bytes()).chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

fn shortened(hash: &Hash) -> [u8; HASH_LEN] {
    *hash
        .as_bytes()
        .first_chunk()
        .expect("a hash is longer than a name")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::{CacheKey, Partition};

    const IDS: [&str; 3] = ["thread_abc123", "run_abc123", "step_abc123"];

    /// Returns the names without and with an encryption key.
    fn both() -> [Keys; 2] {
        [None, Some("a secret")].map(|key| Keys::new("stepgate:a", key))
    }

    fn primary_key(partition: &str, rule: &str, ids: &[&str]) -> PrimaryKey {
        CacheKey::new(Partition::of([partition]), rule, ids, "").primary
    }

    fn bucket(keys: &Keys) -> String {
        keys.bucket(b"log", b"epoch", "run-step", IDS[0])
    }

    /// Returns the hash tag of a key, if it has one (Redis cluster specification, "Hash tags").
    fn hash_tag(key: &str) -> Option<&str> {
        let (_, behind) = key.split_once('{')?;
        let (tag, _) = behind.split_once('}')?;
        (!tag.is_empty()).then_some(tag)
    }

    /// Returns one name of each kind.
    fn names(keys: &Keys) -> Vec<Vec<u8>> {
        vec![
            bucket(keys).into(),
            keys.field(&primary_key("p", "run-step", &IDS), "a=1")
                .into(),
            keys.marker(&primary_key("p", "run-step", &IDS)).into(),
            keys.purge("run-step", &IDS).into(),
            keys.purge("run-step", &IDS[..1]).into(),
            keys.epoch("run-step").into(),
        ]
    }

    #[test]
    fn every_key_begins_with_the_prefix() {
        for keys in both() {
            for key in [keys.head(), keys.stream(), &bucket(&keys)] {
                assert!(key.starts_with("stepgate:a:"), "{key}");
            }
        }
    }

    #[test]
    fn head_and_stream_share_a_slot_and_buckets_are_spread() {
        for keys in both() {
            assert_ne!(keys.head(), keys.stream());
            assert_eq!(hash_tag(keys.head()), Some("log"));
            assert_eq!(hash_tag(keys.stream()), Some("log"));
            assert_eq!(hash_tag(&bucket(&keys)), None);
        }
    }

    #[test]
    fn names_are_the_same_in_every_version() {
        // The gateways of a fleet are upgraded one by one, and share nothing if their names differ. The
        // values are from the reference implementation of BLAKE3.
        let names = |keys: &Keys| {
            let field = keys.field(&primary_key("p", "run-step", &IDS), "a=1");
            let purge = keys.purge("run-step", &IDS[..1]);
            let hex = |bytes: [u8; HASH_LEN]| bytes.map(|byte| format!("{byte:02x}")).concat();
            [bucket(keys), hex(field), hex(purge), keys.epoch("run-step")]
        };
        let [plain, keyed] = both();
        assert_eq!(
            names(&plain),
            [
                "stepgate:a:t:c1267695687fdbe5558cdba0f58dbc3e",
                "cf7685f375b7c5facca19a094ca72859",
                "88a06d9b61d79ee021f4ae115e0cfc2f",
                "r:75307e0f15ed2045d8448866e7906f42"
            ]
        );
        assert_eq!(
            names(&keyed),
            [
                "stepgate:a:t:eed09ccced00e98b890c4ebcb285d2c9",
                "e9a830e37621d97fea4df20c741fc83a",
                "68129f42204eb49f06a950dc03182597",
                "r:08deb6dae028314fbd802a8c357e0518"
            ]
        );
    }

    #[test]
    fn another_encryption_key_gives_other_names() {
        let encryption_keys = [None, Some("a secret"), Some("another")];
        let all = encryption_keys.map(|key| names(&Keys::new("stepgate:a", key)));
        let distinct: HashSet<_> = all.iter().flatten().collect();
        assert_eq!(distinct.len(), all.iter().flatten().count());
    }

    #[test]
    fn no_name_contains_an_id_or_a_rule() {
        for keys in both() {
            for name in names(&keys) {
                let text = String::from_utf8_lossy(&name);
                assert!(IDS.iter().all(|id| !text.contains(id)), "{text}");
                assert!(!text.contains("run-step"), "{text}");
            }
        }
    }

    #[test]
    fn debug_output_does_not_contain_the_encryption_key() {
        let keys = Keys::new("stepgate:a", Some("a secret"));
        let printed = format!("{keys:?}");
        assert!(printed.contains("stepgate:a"));
        let hash_key = keys.hash_key.as_ref().unwrap().expose_secret();
        assert!(!printed.contains("a secret"));
        assert!(!printed.contains(&format!("{hash_key:?}")), "{printed}");
    }

    #[test]
    fn two_kinds_of_names_never_collide() {
        for keys in both() {
            let kinds = ["thread", "field", "step", "mark", "rule"];
            let hashes = kinds.map(|kind| keys.hash(kind, [&b"a"[..]]));
            assert_eq!(HashSet::from(hashes).len(), kinds.len());
        }
    }

    /// Generates so few values that two lists often differ in one part alone, or only in where a part
    /// ends.
    fn part() -> impl Strategy<Value = String> {
        "a?"
    }

    proptest! {
        #[test]
        fn buckets_are_equal_only_if_every_part_is(
            a in [part(), part(), part(), part()],
            b in [part(), part(), part(), part()],
        ) {
            for keys in both() {
                let bucket = |[log, epoch, rule, id]: &[String; 4]| {
                    keys.bucket(log.as_bytes(), epoch.as_bytes(), rule, id)
                };
                prop_assert_eq!(a == b, bucket(&a) == bucket(&b));
            }
        }

        #[test]
        fn fields_are_equal_only_if_every_part_is(
            a in (part(), part(), prop::collection::vec("a{1,2}", 1..3), part()),
            b in (part(), part(), prop::collection::vec("a{1,2}", 1..3), part()),
        ) {
            for keys in both() {
                let field = |(partition, rule, ids, variant): &(String, String, Vec<String>, String)| {
                    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                    keys.field(&primary_key(partition, rule, &ids), variant)
                };
                prop_assert_eq!(a == b, field(&a) == field(&b));
            }
        }

        #[test]
        fn purges_and_epochs_are_equal_only_if_every_part_is(
            a in (part(), prop::collection::vec(part(), 0..3)),
            b in (part(), prop::collection::vec(part(), 0..3)),
        ) {
            for keys in both() {
                let purge = |(rule, ids): &(String, Vec<String>)| keys.purge(rule, &ids.iter().collect::<Vec<_>>());
                prop_assert_eq!(a == b, purge(&a) == purge(&b));
                prop_assert_eq!(a.0 == b.0, keys.epoch(&a.0) == keys.epoch(&b.0));
            }
        }
    }
}
