//! The section `[cache.redis]`: the tier that the gateways of a fleet share.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::defaults::REDIS_COMMAND_TIMEOUT;
use super::redis_url::{RedisUrl, misfit};
use super::secret::Secret;
use super::secret_ref::References;
use super::table::Item;
use super::tls::roots;
use super::value::{TICK, duration, list};

/// `[cache.redis]`: Redis or Valkey as a second tier, shared by the gateways of a fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Redis {
    /// One server, or the nodes of a cluster to begin with. Never empty.
    pub nodes: Vec<RedisUrl>,
    /// They were written as a list.
    pub is_cluster: bool,
    /// Stands before every name in Redis: 1 to 64 of `[A-Za-z0-9._:-]`.
    pub prefix: String,
    /// The longest that a command may take.
    pub command_timeout: Duration,
    /// Seals what is stored; at least 16 bytes.
    pub encryption_key: Option<Secret>,
    /// PEM roots that the servers' certificates are checked by, instead of the system's. Only with TLS.
    pub ca_file: Option<PathBuf>,
}

impl Redis {
    /// The first node to which bodies go so that whoever is on the way can read and forge them.
    pub fn insecure_node(&self) -> Option<&RedisUrl> {
        let mut nodes = self.nodes.iter().filter(|_| self.encryption_key.is_none());
        nodes.find(|node| !node.is_guarded())
    }

    /// The secrets in it.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let urls = self.nodes.iter().filter_map(RedisUrl::source);
        urls.chain(&self.encryption_key)
    }
}

/// Longer than a command should ever keep a caller waiting, whose fetch would be under way by then.
const MAX_COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads `[cache.redis]` and the secrets that it names.
pub(super) fn read(item: Item<'_>, references: &References<'_>) -> Option<Redis> {
    let mut table = item.table("a table, [cache.redis]")?;
    let nodes = table.require("url", "where Redis or Valkey is", |item| {
        nodes(item, references)
    });
    let prefix = table.require(
        "prefix",
        "it keeps the bodies of one account apart from another's in the same Redis",
        |item| item.parse("a string", parse_prefix),
    );
    let command_timeout = table.take_or(
        "command_timeout",
        REDIS_COMMAND_TIMEOUT,
        duration(TICK..=MAX_COMMAND_TIMEOUT),
    );
    let encryption_key = table
        .take("encryption_key")
        .map(|item| encryption_key(item, references));
    let ca_file = table.take("ca_file");
    table.finish();
    let (nodes, is_cluster) = nodes?;
    let ca_file = ca_file.map(|item| ca_file_for(&nodes, item, references));
    Some(Redis {
        nodes,
        is_cluster,
        prefix: prefix?,
        command_timeout,
        encryption_key: match encryption_key {
            None => None,
            Some(read) => Some(read?),
        },
        ca_file: match ca_file {
            None => None,
            Some(read) => Some(read?),
        },
    })
}

const URL: &str = "a URL like \"redis://redis.internal:6379\", { env = \"NAME\" }, \
     { file = \"/path\" }, or a list of them for a cluster";

fn nodes(item: Item<'_>, references: &References<'_>) -> Option<(Vec<RedisUrl>, bool)> {
    let one = |item: Item<'_>| {
        let place = item.place();
        Some((node(item, references)?, place))
    };
    let notes = item.notes();
    match item.value().as_array().map(|array| array.len()) {
        None => return node(item, references).map(|node| (vec![node], false)),
        Some(0) => return item.refuse("is empty; name at least one server"),
        Some(_) => {}
    }
    let nodes = list(URL, one)(item)?;
    if let Some((first, _)) = nodes.first() {
        for (node, place) in &nodes {
            if let Some(text) = misfit(node, first) {
                notes.note(place, text);
            }
        }
    }
    Some((nodes.into_iter().map(|(node, _)| node).collect(), true))
}

fn node(item: Item<'_>, references: &References<'_>) -> Option<RedisUrl> {
    let (place, notes) = (item.place(), item.notes());
    match item.value() {
        DeValue::String(_) => return item.parse(URL, RedisUrl::literal),
        DeValue::Table(_) => {}
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => return item.expected(URL),
    }
    match RedisUrl::secret(references.secret(item)?) {
        Ok(node) => Some(node),
        Err(text) => {
            notes.note(&place, text);
            None
        }
    }
}

/// Its braces would be a hash tag: a cluster then keeps all threads on one node.
fn parse_prefix(text: &str) -> Result<String, String> {
    const RIGHT: &str = "use 1 to 64 letters, digits, `.`, `_`, `:` and `-`";
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if text.contains(['{', '}']) {
        return Err(format!(
            "{text:?} contains a brace: by what stands in braces a cluster chooses the node of a \
             key, and all would be on one; {RIGHT}"
        ));
    }
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not a prefix; {RIGHT}"))
}

fn ca_file_for(nodes: &[RedisUrl], item: Item<'_>, references: &References<'_>) -> Option<PathBuf> {
    // Nodes of one cluster are alike.
    if nodes.first().is_some_and(RedisUrl::has_tls) {
        return roots(&item, references).map(|(path, ..)| path);
    }
    item.refuse("is of no use without TLS; write the url with \"rediss://\", or leave this out")
}

/// Fewer bytes can be guessed, however they were made.
const SHORTEST_KEY: usize = 16;

fn encryption_key(item: Item<'_>, references: &References<'_>) -> Option<Secret> {
    let (place, notes) = (item.place(), item.notes());
    let key = references.secret(item)?;
    if key.expose().len() >= SHORTEST_KEY {
        return Some(key);
    }
    let text = format!(
        "{} has fewer than {SHORTEST_KEY} bytes; make one with `openssl rand -hex 32`",
        key.source()
    );
    notes.note(&place, text);
    None
}
