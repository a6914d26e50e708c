//! Three servers that share the slots.

use super::{Redis, free_port};
use crate::support::until;

const SLOTS: u16 = 16_384;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

impl Cluster {
    /// Three nodes, each with a third of the slots, that know each other.
    pub(crate) async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let bus = free_port().to_string();
            let arguments = [
                ["--cluster-enabled", "yes"],
                ["--cluster-port", &bus],
                ["--cluster-node-timeout", "2000"],
                ["--cluster-require-full-coverage", "no"],
            ];
            let node = Redis::run(&Redis::program(), arguments.as_flattened()).await;
            nodes.push((node, bus));
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
        cluster.is_whole().await;
        cluster
    }

    /// Waits until every node knows an owner of every slot, and answers for its own.
    pub(crate) async fn is_whole(&self) {
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

    /// As the configuration lists them.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<String> = self
            .nodes
            .iter()
            .map(|n| format!("\"{}\"", n.url()))
            .collect();
        format!("[{}]", urls.join(", "))
    }
}
