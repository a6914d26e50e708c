//! A Redis Cluster of three servers.

use super::redis::{Redis, free_port};
use super::until;

const SLOTS: u16 = 16_384;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts three nodes that know each other, each with a third of the slots.
    pub(crate) async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(node().await);
        }
        let third = SLOTS / 3 + 1;
        for (nth, (node, _)) in (0..).zip(&nodes) {
            let first = (third * nth).to_string();
            let last = (third * (nth + 1) - 1).min(SLOTS - 1).to_string();
            let added = node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            assert_eq!(added.trim(), "OK", "slots {first} to {last}");
            for (other, bus) in &nodes {
                let port = other.port().to_string();
                node.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])
                    .await;
            }
        }
        let cluster = Self {
            nodes: nodes.into_iter().map(|(node, _)| node).collect(),
        };
        cluster.wait_until_whole().await;
        cluster
    }

    /// Returns the node that has the purge log, and the other two.
    pub(crate) async fn by_purge_log(&self) -> (usize, [usize; 2]) {
        let mut with = None;
        for (nth, node) in self.nodes.iter().enumerate() {
            let keys = node.keys().await;
            let is_head = |key: &Vec<u8>| key.ends_with(b":head");
            with = with.or(keys.iter().any(is_head).then_some(nth));
        }
        let with = with.expect("one of them has the log");
        (with, [(with + 1) % 3, (with + 2) % 3])
    }

    /// Adds a replica, which takes the place of the `nth` node once that is gone.
    pub(crate) async fn replica_of(&self, nth: usize) -> Redis {
        let (replica, bus) = node().await;
        let master = &self.nodes[nth];
        let port = replica.port().to_string();
        master
            .cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
            .await;
        let id = master.cli(&["CLUSTER", "MYID"]).await;
        // The replica refuses until it knows its master.
        let replicates = async || {
            let answer = replica.cli(&["CLUSTER", "REPLICATE", id.trim()]).await;
            answer.trim() == "OK"
        };
        until("a replica", replicates).await;
        let is_level = async || {
            let info = replica.cli(&["INFO", "replication"]).await;
            info.contains("master_link_status:up")
        };
        until("a replica that is up to date", is_level).await;
        // Nodes that do not know the replica would not vote for it.
        for node in &self.nodes {
            let knows = async || {
                let nodes = node.cli(&["CLUSTER", "NODES"]).await;
                nodes
                    .lines()
                    .any(|line| line.contains(&format!(":{port}@")) && line.contains("slave"))
            };
            until("all to know the replica", knows).await;
        }
        replica
    }

    /// Waits until every node knows an owner of every slot, and answers for its own.
    pub(crate) async fn wait_until_whole(&self) {
        for node in &self.nodes {
            let whole = async || {
                let info = node.cli(&["CLUSTER", "INFO"]).await;
                let says = |what: &str| info.lines().any(|line| line.trim_end() == what);
                says("cluster_state:ok")
                    && says(&format!("cluster_slots_ok:{SLOTS}"))
                    && says("cluster_known_nodes:3")
            };
            until("a whole cluster", whole).await;
        }
    }

    /// Begins to migrate a key's slot to another node. Until the end, the old node redirects commands
    /// for keys that have moved.
    pub(crate) async fn begin_migration(&self, key: &str, from: usize, to: usize) {
        let slot = self.slot(key).await;
        let (old, new) = (&self.nodes[from], &self.nodes[to]);
        let (old_id, new_id) = (
            old.cli(&["CLUSTER", "MYID"]).await,
            new.cli(&["CLUSTER", "MYID"]).await,
        );
        let importing = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", old_id.trim()];
        assert_eq!(new.cli(&importing).await.trim(), "OK");
        let migrating = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", new_id.trim()];
        assert_eq!(old.cli(&migrating).await.trim(), "OK");
        let port = new.port().to_string();
        let migrate = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
        assert_eq!(old.cli(&migrate).await.trim(), "OK");
    }

    /// Ends the migration of the key's slot.
    pub(crate) async fn end_migration(&self, key: &str, to: usize) {
        let slot = self.slot(key).await;
        let id = self.nodes[to].cli(&["CLUSTER", "MYID"]).await;
        let (new, others): (Vec<_>, Vec<_>) = self
            .nodes
            .iter()
            .enumerate()
            .partition(|(nth, _)| *nth == to);
        for (_, node) in new.into_iter().chain(others) {
            let moved = ["CLUSTER", "SETSLOT", &slot, "NODE", id.trim()];
            assert_eq!(node.cli(&moved).await.trim(), "OK");
        }
    }

    async fn slot(&self, key: &str) -> String {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]).await;
        slot.trim().to_owned()
    }

    /// Returns the nodes' URLs as the configuration lists them.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<String> = self
            .nodes
            .iter()
            .map(|n| format!("\"{}\"", n.url()))
            .collect();
        format!("[{}]", urls.join(", "))
    }
}

/// Starts a node that belongs to no cluster yet, and returns it with its bus port.
async fn node() -> (Redis, String) {
    let bus = free_port().to_string();
    let arguments = [
        ["--cluster-enabled", "yes"],
        ["--cluster-port", &bus],
        ["--cluster-node-timeout", "2000"],
        ["--cluster-require-full-coverage", "no"],
    ];
    let node = Redis::run(&Redis::program(), arguments.as_flattened()).await;
    (node, bus)
}
