//! All Nodes as the watch tells of them, kept small. Tells which events change something: most do
//! not, for every kubelet renews its Node's status again and again.

use std::collections::{BTreeMap, BTreeSet};

use kube::runtime::watcher::Event;

use super::node::Node;
use super::translate::{Keys, OwnNode, Peer, peer};

/// What an event has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// The cluster may be another one.
    pub(super) cluster: bool,
    /// The own Node says something else.
    pub(super) own: bool,
}

/// Deletions that are remembered, so that an event that comes late does not bring a Node back.
const REMEMBERED: usize = 1024;

/// The Nodes.
pub(super) struct Table {
    own_name: String,
    keys: Keys,
    own: Option<OwnNode>,
    peers: BTreeMap<String, Entry>,
    /// While a list is read: the names that it had so far.
    listed: Option<BTreeSet<String>>,
    /// Versions at which Nodes were deleted since the last list.
    deleted: BTreeMap<String, u64>,
    complete: bool,
}

struct Entry {
    version: Option<u64>,
    peer: Peer,
}

impl Table {
    pub(super) fn new(own_name: String, keys: Keys) -> Self {
        Self {
            own_name,
            keys,
            own: None,
            peers: BTreeMap::new(),
            listed: None,
            deleted: BTreeMap::new(),
            complete: false,
        }
    }

    /// Whether a whole list has come.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The own Node, if there is one.
    pub(super) fn own(&self) -> Option<&OwnNode> {
        self.own.as_ref()
    }

    /// Every other Node, in the order of names.
    pub(super) fn peers(&self) -> impl Iterator<Item = (&str, &Peer)> {
        let all = self.peers.iter();
        all.map(|(name, entry)| (name.as_str(), &entry.peer))
    }

    /// Takes an event in.
    pub(super) fn apply(&mut self, event: Event<Node>) -> Changed {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                Changed::default()
            }
            Event::InitApply(node) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(node.name().to_owned());
                }
                // A list is the truth, whatever was there before: a restored server counts anew.
                self.put(node, true)
            }
            Event::InitDone => self.end_of_list(),
            Event::Apply(node) => self.put(node, false),
            Event::Delete(node) => self.delete(&node),
        }
    }

    fn put(&mut self, node: Node, listed: bool) -> Changed {
        let version = node.version;
        let old = self.version(node.name());
        // The same event again, or one that was overtaken.
        if !listed && version.is_some() && version <= old {
            return Changed::default();
        }
        if node.name() == self.own_name {
            let new = OwnNode::new(node);
            let same = self.own.as_ref().is_some_and(|own| own.says_the_same(&new));
            self.own = Some(new);
            return Changed {
                cluster: !same,
                own: !same,
            };
        }
        let new = Entry {
            version,
            peer: peer(&node, &self.keys),
        };
        let name = node.name();
        let changed = match self.peers.get_mut(name) {
            Some(old) => {
                let changed = old.peer != new.peer;
                *old = new;
                changed
            }
            None => {
                self.peers.insert(name.to_owned(), new);
                true
            }
        };
        Changed {
            cluster: changed,
            own: false,
        }
    }

    fn delete(&mut self, node: &Node) -> Changed {
        let name = node.name();
        // A late event about a predecessor of the same name.
        if node.version.is_some() && node.version < self.version(name) {
            return Changed::default();
        }
        if self.deleted.len() >= REMEMBERED {
            self.deleted.clear();
        }
        if let Some(version) = node.version {
            self.deleted.insert(name.to_owned(), version);
        }
        self.remove(name)
    }

    /// Removes what the list did not have, whose deletion nobody told of.
    fn end_of_list(&mut self) -> Changed {
        let listed = self.listed.take().unwrap_or_default();
        self.deleted.clear();
        let first = !std::mem::replace(&mut self.complete, true);
        let mut changed = Changed {
            cluster: first,
            own: first,
        };
        let known = self
            .peers
            .keys()
            .chain(self.own.iter().map(|_| &self.own_name));
        let gone: Vec<String> = known.filter(|n| !listed.contains(*n)).cloned().collect();
        for name in gone {
            let removed = self.remove(&name);
            changed.cluster |= removed.cluster;
            changed.own |= removed.own;
        }
        changed
    }

    fn remove(&mut self, name: &str) -> Changed {
        if name == self.own_name {
            let was = self.own.take().is_some();
            return Changed {
                cluster: was,
                own: was,
            };
        }
        Changed {
            cluster: self.peers.remove(name).is_some(),
            own: false,
        }
    }

    /// The newest version that is known of a Node, be it its end.
    fn version(&self, name: &str) -> Option<u64> {
        let living = if name == self.own_name {
            self.own.as_ref().and_then(|own| own.node.version)
        } else {
            self.peers.get(name).and_then(|entry| entry.version)
        };
        living.max(self.deleted.get(name).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, version: u64, third: u8) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": name, "resourceVersion": version.to_string(),
                "annotations": {
                    "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                    "flannel.alpha.coreos.com/backend-type": "vxlan",
                    "flannel.alpha.coreos.com/public-ip": format!("192.0.2.{third}"),
                    "flannel.alpha.coreos.com/backend-data":
                        format!("{{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:{third:02x}\"}}"),
                },
            },
            "spec": {"podCIDR": format!("10.244.{third}.0/24")},
        }))
        .unwrap()
    }

    fn table() -> Table {
        Table::new("own".into(), Keys::new("flannel.alpha.coreos.com"))
    }

    fn listed(table: &mut Table, nodes: Vec<Node>) -> Changed {
        table.apply(Event::Init);
        for node in nodes {
            table.apply(Event::InitApply(node));
        }
        table.apply(Event::InitDone)
    }

    fn third(table: &Table, name: &str) -> Option<u8> {
        let (_, peer) = table.peers().find(|(n, _)| *n == name)?;
        match peer {
            Peer::Node(announced) => match announced.pod_cidrs[0].network() {
                std::net::IpAddr::V4(v4) => Some(v4.octets()[2]),
                std::net::IpAddr::V6(_) => None,
            },
            Peer::LeftOut(_) | Peer::Wrong(_) => None,
        }
    }

    #[test]
    fn events_that_say_nothing_new_change_nothing() {
        let mut table = table();
        assert!(listed(&mut table, vec![node("a", 1, 1)]).cluster);
        for (description, event, changed) in [
            ("the same event again", Event::Apply(node("a", 1, 1)), false),
            ("a heartbeat", Event::Apply(node("a", 5, 1)), false),
            ("an older version", Event::Apply(node("a", 4, 9)), false),
            ("a newer version", Event::Apply(node("a", 6, 2)), true),
            (
                "a late end of a predecessor",
                Event::Delete(node("a", 3, 1)),
                false,
            ),
            ("its end", Event::Delete(node("a", 7, 2)), true),
            ("its end again", Event::Delete(node("a", 7, 2)), false),
            (
                "a late version of what has ended",
                Event::Apply(node("a", 6, 2)),
                false,
            ),
            (
                "a successor of the same name",
                Event::Apply(node("a", 8, 3)),
                true,
            ),
        ] {
            assert_eq!(table.apply(event).cluster, changed, "{description}");
        }
        assert_eq!(third(&table, "a"), Some(3));
    }

    #[test]
    fn a_list_replaces_what_was_there() {
        let mut table = table();
        assert!(!table.is_complete());
        listed(
            &mut table,
            vec![node("a", 10, 1), node("b", 11, 2), node("own", 12, 3)],
        );
        assert!(table.is_complete());
        let same = vec![node("a", 10, 1), node("b", 11, 2), node("own", 12, 3)];
        assert_eq!(listed(&mut table, same), Changed::default());
        // The server was restored from a backup: its versions count from further down.
        let changed = listed(&mut table, vec![node("b", 2, 7)]);
        assert!(changed.own && changed.cluster);
        assert_eq!((third(&table, "a"), third(&table, "b")), (None, Some(7)));
        assert!(table.own().is_none());
        assert!(table.apply(Event::Apply(node("b", 3, 8))).cluster);
    }

    #[test]
    fn a_list_that_breaks_off_removes_nothing() {
        let mut table = table();
        listed(&mut table, vec![node("a", 1, 1), node("b", 2, 2)]);
        table.apply(Event::Init);
        table.apply(Event::InitApply(node("a", 1, 1)));
        table.apply(Event::Init);
        assert_eq!((third(&table, "a"), third(&table, "b")), (Some(1), Some(2)));
    }
}
