//! One valid cluster from what each node says of itself: what cannot be is left out and named, and the rest goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use oxlan_common::addr::Mac;
use oxlan_common::maps::MAX_PREFIX_LENGTHS;

use super::problem::Problems;
use super::validate::{check_network, check_node};
use super::{ClusterConfig, Network, NodeSpec, Problem, Remarks};

/// Puts nodes together. An earlier one takes precedence: what a later one shares with it, the later one must not have.
///
/// # Errors
/// When the network itself cannot be: everything that is wrong with it.
pub fn assemble(
    network: Network,
    candidates: impl IntoIterator<Item = NodeSpec>,
) -> Result<(ClusterConfig, Vec<Problem>), Vec<Problem>> {
    let mut problems = Problems::default();
    check_network(&network, &mut problems);
    let wrong = std::mem::take(&mut problems).into_vec();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut taken = Taken::default();
    let mut nodes = Vec::new();
    for node in candidates {
        let mut own = Problems::default();
        check_node(&node, &network, &mut own);
        taken.check(&node, &mut own);
        if own.is_empty() {
            taken.add(&node);
            nodes.push(node);
        } else {
            problems.extend(own.into_vec());
        }
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let config = ClusterConfig {
        network,
        nodes,
        remarks: Remarks::default(),
    };
    Ok((config, problems.into_vec()))
}

/// Prefixes of which no two overlap, each with something of its own; by first address.
pub(super) struct Disjoint<T>(BTreeMap<IpAddr, (IpNet, T)>);

impl<T> Default for Disjoint<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Disjoint<T> {
    /// One that overlaps this prefix. Prefixes overlap only if one is in the other: then it is the
    /// neighbour by first address.
    pub(super) fn overlapping(&self, prefix: &IpNet) -> Option<&(IpNet, T)> {
        let before = self.0.range(..=prefix.network()).next_back();
        let after = self.0.range(prefix.network()..).next();
        let overlap = |other: &IpNet| other.contains(prefix) || prefix.contains(other);
        let mut both = before.into_iter().chain(after);
        both.find(|(_, (other, _))| overlap(other)).map(|(_, v)| v)
    }

    /// Adds a prefix that overlaps none.
    pub(super) fn insert(&mut self, prefix: IpNet, of: T) {
        self.0.insert(prefix.network(), (prefix, of));
    }
}

/// What the nodes so far have.
#[derive(Default)]
struct Taken {
    names: BTreeSet<String>,
    underlay: HashMap<IpAddr, String>,
    macs: HashMap<Mac, String>,
    /// And whose they are.
    prefixes: Disjoint<String>,
    /// Of each family: the programs probe once per distinct one.
    lengths: [BTreeSet<u8>; 2],
}

impl Taken {
    fn check(&self, node: &NodeSpec, problems: &mut Problems) {
        let place = |field: &str| format!("node {:?} {field}", node.name);
        if self.names.contains(&node.name) {
            let wanted = "another node has it already; it must be unique";
            problems.value(&place("name"), &node.name, wanted);
        }
        let mut has = |field: &str, value: String, owner: Option<&String>| {
            if let Some(owner) = owner {
                let wanted = format!("node {owner:?} has it already; it must be unique");
                problems.value(&place(field), value, wanted);
            }
        };
        for vtep in &node.vteps {
            let owner = self.underlay.get(&vtep.underlay);
            has("underlay", vtep.underlay.to_string(), owner);
        }
        let macs: BTreeSet<Mac> = node.vteps.iter().map(|v| v.mac).collect();
        for mac in macs {
            has("vtep_mac", mac.to_string(), self.macs.get(&mac));
        }
        for prefix in &node.pod_cidrs {
            if let Some((other, owner)) = self.prefixes.overlapping(prefix) {
                let wanted = format!("it overlaps {other} of node {owner:?}");
                problems.value(&place("pod_cidrs"), prefix, wanted);
            }
            let lengths = self.lengths(prefix);
            let known = lengths.contains(&prefix.prefix_len());
            if !known && lengths.len() >= MAX_PREFIX_LENGTHS {
                let wanted = format!(
                    "at most {MAX_PREFIX_LENGTHS} different prefix lengths are possible, and other nodes have as many"
                );
                problems.value(&place("pod_cidrs"), prefix, wanted);
            }
        }
    }

    fn lengths(&self, prefix: &IpNet) -> &BTreeSet<u8> {
        let [v4, v6] = &self.lengths;
        match prefix {
            IpNet::V4(_) => v4,
            IpNet::V6(_) => v6,
        }
    }

    fn add(&mut self, node: &NodeSpec) {
        let name = || node.name.clone();
        self.names.insert(name());
        for vtep in &node.vteps {
            self.underlay.insert(vtep.underlay, name());
            self.macs.insert(vtep.mac, name());
        }
        for prefix in &node.pod_cidrs {
            self.prefixes.insert(*prefix, name());
            let [v4, v6] = &mut self.lengths;
            let lengths = match prefix {
                IpNet::V4(_) => v4,
                IpNet::V6(_) => v6,
            };
            lengths.insert(prefix.prefix_len());
        }
    }
}

/// Problems as remarks; of very many the first, and how many more there are.
#[must_use]
pub fn remarks(problems: Vec<Problem>) -> Vec<String> {
    const SHOWN: usize = 20;
    let more = problems.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> = problems
        .iter()
        .take(SHOWN)
        .map(|p| format!("left out: {p}"))
        .collect();
    if more > 0 {
        lines.push(format!("left out: {more} more of this kind"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Dscp, Mode, Vni, Vtep};

    fn network() -> Network {
        Network {
            pod_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/48".parse().unwrap()],
            vni: Vni::DEFAULT,
            port: 8472,
            dscp: Dscp::default(),
            mode: Mode::Vxlan,
        }
    }

    /// A node with this name, prefixes (apart by blanks), underlay address and last byte of its MAC.
    fn node(name: &str, prefixes: &str, underlay: &str, mac: u8) -> NodeSpec {
        NodeSpec {
            name: name.into(),
            pod_cidrs: prefixes.split(' ').map(|p| p.parse().unwrap()).collect(),
            vteps: vec![Vtep {
                underlay: underlay.parse().unwrap(),
                mac: Mac::new([2, 0, 0, 0, 0, mac]),
            }],
        }
    }

    #[test]
    fn what_cannot_be_is_left_out_and_named() {
        let first = node("b", "10.1.0.0/16 fd00:0:0:1::/64", "192.168.0.1", 1);
        for (second, expected) in [
            (
                node("b", "10.2.0.0/16", "192.168.0.2", 2),
                "node \"b\" name = b: another node has it",
            ),
            (
                node("a", "10.2.0.0/16", "192.168.0.1", 2),
                "node \"a\" underlay = 192.168.0.1: node \"b\" has it",
            ),
            (
                node("a", "10.2.0.0/16", "192.168.0.2", 1),
                "node \"a\" vtep_mac = 02:00:00:00:00:01: node \"b\" has it",
            ),
            (
                node("a", "10.1.2.0/24", "192.168.0.2", 2),
                "node \"a\" pod_cidrs = 10.1.2.0/24: it overlaps 10.1.0.0/16 of node \"b\"",
            ),
            (
                node("a", "10.0.0.0/15", "192.168.0.2", 2),
                "it overlaps 10.1.0.0/16 of node \"b\"",
            ),
            (
                node("a", "10.2.0.0/16 fd00::/63", "192.168.0.2", 2),
                "it overlaps fd00:0:0:1::/64 of node \"b\"",
            ),
            (
                node("a", "11.2.0.0/16", "192.168.0.2", 2),
                "outside the network's pod_cidrs",
            ),
            (
                node("a", "10.2.0.0/16", "10.9.9.9", 2),
                "inside the pods' network",
            ),
            (
                node("a b", "10.2.0.0/16", "192.168.0.2", 2),
                "node name = \"a b\"",
            ),
        ] {
            let third = node("c", "10.3.0.0/16", "192.168.0.3", 3);
            let (config, problems) = assemble(network(), [first.clone(), second, third]).unwrap();
            let names: Vec<&str> = config.nodes.iter().map(|n| n.name.as_str()).collect();
            assert_eq!(names, ["b", "c"], "{expected}");
            assert_eq!(problems.len(), 1, "{problems:#?}");
            let said = problems[0].to_string();
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn what_is_left_out_takes_nothing_from_others() {
        let bad = node("a", "10.1.0.0/16 11.0.0.0/24", "192.168.0.1", 1);
        let good = node("b", "10.1.0.0/16", "192.168.0.1", 1);
        let (config, problems) = assemble(network(), [bad, good]).unwrap();
        assert_eq!(config.nodes.len(), 1);
        assert!(!problems.is_empty());
    }

    #[test]
    fn too_many_prefix_lengths_are_refused() {
        let lengths = 16_u8..=28;
        let nodes = lengths.clone().map(|length| {
            let prefix = format!("10.{length}.0.0/{length}");
            node(
                &format!("n{length}"),
                &prefix,
                &format!("192.168.0.{length}"),
                length,
            )
        });
        let (config, problems) = assemble(network(), nodes).unwrap();
        assert_eq!(config.nodes.len(), MAX_PREFIX_LENGTHS);
        assert_eq!(problems.len(), lengths.len() - MAX_PREFIX_LENGTHS);
        assert!(
            problems[0].to_string().contains("10.24.0.0/24"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_wrong_network_is_no_cluster() {
        let wrong = Network {
            pod_cidrs: vec!["169.254.0.0/16".parse().unwrap()],
            ..network()
        };
        let problems = assemble(wrong, []).unwrap_err();
        assert!(
            problems[0].to_string().contains("169.254.0.0/16"),
            "{problems:?}"
        );
    }

    #[test]
    fn many_remarks_are_cut_short() {
        let problem = Problem {
            place: "x".into(),
            value: None,
            wanted: "y".into(),
        };
        let lines = remarks(vec![problem; 5_000]);
        assert_eq!(lines.len(), 21);
        assert_eq!(lines[20], "left out: 4980 more of this kind");
    }
}
