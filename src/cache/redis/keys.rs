//! What things are called in Redis.
//!
//! Every name begins with the operator's prefix, and all that follows from a request is a hash: no id is
//! written down. Without an encryption key, whoever knows an id can hash it, too, and tell that it is
//! there; with one, the hashes are keyed, and only who has the key can. The same parts have the same name
//! on every gateway and in every version.

use blake3::{Hash, Hasher};
use secrecy::{ExposeSecret, SecretBox};

use crate::policy::PrimaryKey;

/// What the key of the names is derived for: the seal has another, of the same secret.
const PURPOSE: &str = "stepgate 2026 names";

/// Of a hash, so many bytes are written: no two names meet by chance.
pub(super) const NAME: usize = 16;

/// The names below one prefix.
#[derive(Debug)]
pub struct Names {
    head: Box<str>,
    stream: Box<str>,
    threads: Box<str>,
    key: Option<SecretBox<[u8; blake3::KEY_LEN]>>,
}

impl Names {
    /// The names below `prefix` (no braces: they would choose the slot of a cluster), keyed by what the
    /// configuration's `encryption_key` says where there is one.
    pub fn new(prefix: &str, encryption_key: Option<&str>) -> Self {
        let keyed =
            |secret: &str| SecretBox::init_with(|| blake3::derive_key(PURPOSE, secret.as_bytes()));
        Self {
            // Both are touched by one script, so both must be in one slot of a cluster: the one of
            // what stands between the braces.
            head: format!("{prefix}:{{log}}:head").into(),
            stream: format!("{prefix}:{{log}}:purges").into(),
            // Without braces: threads spread over all slots.
            threads: format!("{prefix}:t:").into(),
            key: encryption_key.map(keyed),
        }
    }

    /// The hash that says which log of purges is in force, how far it is, and the epochs of rules.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// The stream of purges.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The hash that holds what is below one first id of a rule, in all partitions: the prefix, `:t:` and
    /// 32 hexadecimal digits. Another log or another epoch of the rule is another name, which is how all
    /// of a rule is purged.
    pub fn thread<P: AsRef<[u8]>>(&self, log: &[u8], epoch: &[u8], rule: P, first_id: P) -> String {
        let parts = [log, epoch, rule.as_ref(), first_id.as_ref()];
        let hash = self.hash("thread", parts).to_hex();
        [&self.threads, &hash[..2 * NAME]].concat()
    }

    /// The field of a thread's hash that holds one body.
    pub fn field(&self, step: &PrimaryKey, variant: &str) -> [u8; NAME] {
        // The step's bytes are partition, rule and ids, each ended by what none of them contains.
        shortened(&self.hash("field", [step.as_ref(), variant.as_bytes()]))
    }

    /// The field of a thread's hash that is there as long as any body of the step may be.
    pub fn step(&self, step: &PrimaryKey) -> [u8; NAME] {
        shortened(&self.hash("step", [step.as_ref()]))
    }

    /// What a purge is called by in the stream: a rule and the ids that lead the path.
    pub fn mark<P: AsRef<[u8]>>(&self, rule: P, ids: &[P]) -> [u8; NAME] {
        let ids = ids.iter().map(AsRef::as_ref);
        let parts = std::iter::once(rule.as_ref()).chain(ids);
        shortened(&self.hash("mark", parts))
    }

    /// The field of the head that holds a rule's epoch: `r:` and 32 hexadecimal digits.
    pub fn rule<P: AsRef<[u8]>>(&self, rule: P) -> String {
        let hash = self.hash("rule", [rule.as_ref()]).to_hex();
        ["r:", &hash[..2 * NAME]].concat()
    }

    /// BLAKE3 of the parts, each behind its length, so that they cannot run together, and of the kind
    /// before them, so that two kinds of names never meet.
    fn hash<'a>(&self, kind: &'a str, parts: impl IntoIterator<Item = &'a [u8]>) -> Hash {
        let mut hasher = match &self.key {
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

fn shortened(hash: &Hash) -> [u8; NAME] {
    let (name, _) = hash.as_bytes().split_at(NAME);
    name.try_into().expect("it was split there")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::{CacheKey, Partition};

    const IDS: [&str; 3] = ["thread_abc123", "run_abc123", "step_abc123"];

    fn both() -> [Names; 2] {
        [None, Some("a secret")].map(|key| Names::new("stepgate:a", key))
    }

    fn step(partition: &str, rule: &str, ids: &[&str]) -> PrimaryKey {
        CacheKey::new(Partition::of([partition]), rule, ids, "").primary
    }

    /// What a cluster hashes of a name, if it is not the whole of it (the cluster specification, "hash
    /// tags").
    fn tag(name: &str) -> Option<&str> {
        let (_, behind) = name.split_once('{')?;
        let (tag, _) = behind.split_once('}')?;
        (!tag.is_empty()).then_some(tag)
    }

    /// All names of one request, by kind.
    fn names_of(names: &Names) -> Vec<Vec<u8>> {
        let [first, ..] = IDS;
        vec![
            names.thread(b"log", b"epoch", "run-step", first).into(),
            names.field(&step("p", "run-step", &IDS), "a=1").into(),
            names.step(&step("p", "run-step", &IDS)).into(),
            names.mark("run-step", &IDS).into(),
            names.mark("run-step", &IDS[..1]).into(),
            names.rule("run-step").into(),
        ]
    }

    #[test]
    fn every_name_begins_with_the_prefix() {
        for names in both() {
            let thread = names.thread(b"log", b"epoch", "run-step", IDS[0]);
            for name in [names.head(), names.stream(), &thread] {
                assert!(name.starts_with("stepgate:a:"), "{name}");
            }
        }
    }

    #[test]
    fn head_and_stream_share_a_slot_and_threads_are_spread() {
        for names in both() {
            assert_ne!(names.head(), names.stream());
            assert_eq!(tag(names.head()), Some("log"));
            assert_eq!(tag(names.stream()), Some("log"));
            let thread = names.thread(b"log", b"epoch", "run-step", IDS[0]);
            assert_eq!(tag(&thread), None);
        }
    }

    #[test]
    fn a_name_stays_what_it_is() {
        // A fleet is renewed gateway by gateway, and whoever calls things otherwise shares nothing. By
        // the reference implementation of BLAKE3.
        let shown = |names: &Names| {
            let field = names.field(&step("p", "run-step", &IDS), "a=1");
            let mark = names.mark("run-step", &IDS[..1]);
            let hex = |bytes: [u8; NAME]| bytes.map(|byte| format!("{byte:02x}")).concat();
            let thread = names.thread(b"log", b"epoch", "run-step", IDS[0]);
            [thread, hex(field), hex(mark), names.rule("run-step")]
        };
        let [plain, keyed] = both();
        assert_eq!(
            shown(&plain),
            [
                "stepgate:a:t:c1267695687fdbe5558cdba0f58dbc3e",
                "cf7685f375b7c5facca19a094ca72859",
                "88a06d9b61d79ee021f4ae115e0cfc2f",
                "r:75307e0f15ed2045d8448866e7906f42"
            ]
        );
        assert_eq!(
            shown(&keyed),
            [
                "stepgate:a:t:eed09ccced00e98b890c4ebcb285d2c9",
                "e9a830e37621d97fea4df20c741fc83a",
                "68129f42204eb49f06a950dc03182597",
                "r:08deb6dae028314fbd802a8c357e0518"
            ]
        );
    }

    #[test]
    fn names_with_a_key_cannot_be_told_from_the_ids() {
        let keys = [None, Some("a secret"), Some("another")];
        let all = keys.map(|key| names_of(&Names::new("stepgate:a", key)));
        let distinct: HashSet<_> = all.iter().flatten().collect();
        assert_eq!(distinct.len(), all.iter().flatten().count());
    }

    #[test]
    fn no_name_has_an_id_in_it() {
        for names in both() {
            for name in names_of(&names) {
                let text = String::from_utf8_lossy(&name);
                assert!(IDS.iter().all(|id| !text.contains(id)), "{text}");
                assert!(!text.contains("run-step"), "{text}");
            }
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let names = Names::new("stepgate:a", Some("a secret"));
        let printed = format!("{names:?}");
        assert!(printed.contains("stepgate:a"));
        let key = names.key.as_ref().unwrap().expose_secret();
        assert!(!printed.contains("a secret"));
        assert!(!printed.contains(&format!("{key:?}")), "{printed}");
    }

    #[test]
    fn two_kinds_of_names_never_meet() {
        for names in both() {
            let kinds = ["thread", "field", "step", "mark", "rule"];
            let hashes = kinds.map(|kind| names.hash(kind, [&b"a"[..]]));
            assert_eq!(HashSet::from(hashes).len(), kinds.len());
        }
    }

    /// So few that two draws often differ in one part alone, or in where one part ends and the next
    /// begins.
    fn part() -> impl Strategy<Value = String> {
        "a?"
    }

    proptest! {
        #[test]
        fn threads_are_equal_only_if_every_part_is(
            a in [part(), part(), part(), part()],
            b in [part(), part(), part(), part()],
        ) {
            for names in both() {
                let thread = |[log, epoch, rule, id]: &[String; 4]| {
                    names.thread(log.as_bytes(), epoch.as_bytes(), rule, id)
                };
                prop_assert_eq!(a == b, thread(&a) == thread(&b));
            }
        }

        #[test]
        fn fields_are_equal_only_if_every_part_is(
            a in (part(), part(), prop::collection::vec("a{1,2}", 1..3), part()),
            b in (part(), part(), prop::collection::vec("a{1,2}", 1..3), part()),
        ) {
            for names in both() {
                let field = |(partition, rule, ids, variant): &(String, String, Vec<String>, String)| {
                    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                    names.field(&step(partition, rule, &ids), variant)
                };
                prop_assert_eq!(a == b, field(&a) == field(&b));
            }
        }

        #[test]
        fn marks_and_rules_are_equal_only_if_every_part_is(
            a in (part(), prop::collection::vec(part(), 0..3)),
            b in (part(), prop::collection::vec(part(), 0..3)),
        ) {
            for names in both() {
                let mark = |(rule, ids): &(String, Vec<String>)| names.mark(rule, &ids.iter().collect::<Vec<_>>());
                prop_assert_eq!(a == b, mark(&a) == mark(&b));
                prop_assert_eq!(a.0 == b.0, names.rule(&a.0) == names.rule(&b.0));
            }
        }
    }
}
