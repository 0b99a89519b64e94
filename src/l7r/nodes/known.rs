//! Who may come from other nodes: their addresses and the keys of their routers, as the database had them last. Whoever is
//! not among them is refused, and the database is asked again.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{
    db::NodeRouter,
    model::{HostId, InstanceId},
};

use super::identity::PublicKey;

/// The nodes on record, and the keys of their routers.
#[derive(Default)]
pub struct Known {
    nodes: ArcSwap<Nodes>,
    /// Somebody came who is not among them.
    stranger: Notify,
    /// Connections that have come from them.
    guests: Mutex<Vec<(HostId, quinn::Connection)>>,
}

#[derive(Default)]
struct Nodes {
    hosts: HashSet<HostId>,
    addresses: HashSet<IpAddr>,
    routers: HashMap<PublicKey, (HostId, InstanceId)>,
}

impl Known {
    /// Replaces what was known. Connections of nodes that are not on record any more end.
    pub fn learn(&self, nodes: &[NodeRouter]) {
        let routers = nodes.iter().filter_map(|node| {
            let reach = node.reach.as_ref()?;
            Some((reach.key.clone(), (node.host, reach.instance)))
        });
        let nodes = Nodes {
            hosts: nodes.iter().map(|node| node.host).collect(),
            addresses: nodes.iter().map(|node| node.address).collect(),
            routers: routers.collect(),
        };
        self.guests().retain(|(host, connection)| {
            if !nodes.hosts.contains(host) {
                connection.close(0u32.into(), b"this node is not on record any more");
            }
            connection.close_reason().is_none()
        });
        self.nodes.store(Arc::new(nodes));
    }

    /// The router with this key.
    pub fn router(&self, key: &[u8]) -> Option<(HostId, InstanceId)> {
        self.nodes.load().routers.get(key).copied()
    }

    /// Whether a router has this key. One that is new is looked for.
    pub fn has_key(&self, key: &[u8]) -> bool {
        let known = self.router(key).is_some();
        if !known {
            self.stranger.notify_one();
        }
        known
    }

    /// Whether a node has this address. One that is new is looked for.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let known = self.nodes.load().addresses.contains(&address.to_canonical());
        if !known {
            self.stranger.notify_one();
        }
        known
    }

    /// A connection has come from a node.
    pub fn welcome(&self, host: HostId, connection: &quinn::Connection) {
        let mut guests = self.guests();
        guests.retain(|(_, connection)| connection.close_reason().is_none());
        guests.push((host, connection.clone()));
    }

    /// Resolves when somebody came who is not known, and may be new.
    pub async fn stranger(&self) {
        self.stranger.notified().await;
    }

    fn guests(&self) -> std::sync::MutexGuard<'_, Vec<(HostId, quinn::Connection)>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
