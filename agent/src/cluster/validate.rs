//! What must hold between the fields of a description of the cluster.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use oxlan_common::maps::MAX_PREFIX_LENGTHS;

use super::problem::Problems;
use super::{ClusterConfig, Network, NodeSpec};

/// Longest pod CIDRs: the first two addresses are the node's, and IPv4 has a broadcast address.
const LONGEST_V4: u8 = 30;
const LONGEST_V6: u8 = 126;

/// Ranges that pods cannot have, with the reason.
const RESERVED: &[(IpNet, &str)] = &[
    (v4([0, 0, 0, 0], 8), "\"this network\""),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (
        v4([169, 254, 0, 0], 16),
        "link-local, where the pods' gateway is",
    ),
    (v4([224, 0, 0, 0], 3), "multicast or reserved"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 64), "IPv4-mapped or loopback"),
    (
        v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
        "link-local, where the pods' gateway is",
    ),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

/// Notes everything that does not fit together.
pub(super) fn validate(config: &ClusterConfig, problems: &mut Problems) {
    check_network(&config.network, problems);
    for node in &config.nodes {
        check_node(node, &config.network, problems);
    }
    check_distinct(&config.nodes, problems);
    check_overlaps(&config.nodes, problems);
    check_prefix_lengths(&config.nodes, problems);
}

/// Notes what the network cannot be.
pub(super) fn check_network(network: &Network, problems: &mut Problems) {
    check_families("network ", &network.pod_cidrs, problems);
    for (i, prefix) in network.pod_cidrs.iter().enumerate() {
        let place = format!("network pod_cidrs[{i}]");
        for (reserved, reason) in RESERVED {
            if overlap(prefix, reserved) {
                problems.value(
                    &place,
                    quoted(prefix),
                    format!("pods cannot have addresses of {reserved}: {reason}"),
                );
            }
        }
    }
}

/// Notes what a node cannot be, whatever the others are.
pub(super) fn check_node(node: &NodeSpec, network: &Network, problems: &mut Problems) {
    let place = format!("node {:?} ", node.name);
    check_name(node, problems);
    check_families(&place, &node.pod_cidrs, problems);
    for (i, prefix) in node.pod_cidrs.iter().enumerate() {
        let place = format!("{place}pod_cidrs[{i}]");
        // Without any readable network every node would be wrong, which says nothing.
        if !network.pod_cidrs.is_empty() && !network.pod_cidrs.iter().any(|n| n.contains(prefix)) {
            let cidrs = join(&network.pod_cidrs);
            problems.value(
                &place,
                quoted(prefix),
                format!("it is outside the network's pod_cidrs {cidrs}"),
            );
        }
        let longest = if matches!(prefix, IpNet::V4(_)) {
            LONGEST_V4
        } else {
            LONGEST_V6
        };
        if prefix.prefix_len() > longest {
            problems.value(
                &place,
                quoted(prefix),
                format!("it has no room for a pod; /{longest} or shorter is wanted"),
            );
        }
    }
    check_underlay(node, network, problems);
}

fn check_name(node: &NodeSpec, problems: &mut Problems) {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if node.name.is_empty() || node.name.len() > 253 || !node.name.chars().all(legal) {
        let wanted = "1 to 253 letters, digits, '-', '.' and '_' are wanted";
        problems.value("node name", format_args!("{:?}", node.name), wanted);
    }
}

fn check_underlay(node: &NodeSpec, network: &Network, problems: &mut Problems) {
    let place = format!("node {:?} underlay", node.name);
    for address in node.underlay() {
        if let Some(wanted) = wrong_underlay(address, network) {
            problems.value(&place, quoted(address), wanted);
        }
    }
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        if node.underlay().filter(|a| a.is_ipv4() == is_v4).count() > 1 {
            let all = join(node.underlay());
            let wanted = format!("only one {family} address is possible");
            problems.value(&place, all, wanted);
        }
    }
}

/// Why other nodes cannot send to this address.
fn wrong_underlay(address: IpAddr, network: &Network) -> Option<String> {
    let is_no_unicast = address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST);
    match address {
        _ if is_no_unicast => {
            return Some("a unicast address that other nodes can reach is wanted".to_owned());
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            let reason = "a link-local address means nothing on another link";
            return Some(format!("{reason}; a global or unique local one is wanted"));
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                return Some(format!("this is an IPv4 address; \"{v4}\" is wanted"));
            }
        }
        IpAddr::V4(_) => {}
    }
    let inside = network.pod_cidrs.iter().find(|n| n.contains(&address));
    inside.map(|n| format!("it is inside the pods' network {n}; the underlay must be outside"))
}

/// At most one prefix per family.
fn check_families(place: &str, prefixes: &[IpNet], problems: &mut Problems) {
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let of_family = prefixes
            .iter()
            .filter(|p| matches!(p, IpNet::V4(_)) == is_v4);
        if of_family.count() > 1 {
            let place = format!("{place}pod_cidrs");
            problems.value(
                &place,
                join(prefixes),
                format!("only one {family} prefix is possible"),
            );
        }
    }
}

fn check_distinct(nodes: &[NodeSpec], problems: &mut Problems) {
    let name = |n: &NodeSpec| vec![format!("{:?}", n.name)];
    let underlay = |n: &NodeSpec| n.underlay().map(quoted).collect();
    // A node may have one MAC for all its addresses.
    let macs = |n: &NodeSpec| n.vteps.iter().map(|v| v.mac).collect::<BTreeSet<_>>();
    unique(nodes, "name", name, problems);
    unique(nodes, "underlay", underlay, problems);
    let macs = |n: &NodeSpec| macs(n).into_iter().map(quoted).collect();
    unique(nodes, "vtep_mac", macs, problems);
}

/// No value of a field is another node's, too.
fn unique(
    nodes: &[NodeSpec],
    field: &str,
    values: impl Fn(&NodeSpec) -> Vec<String>,
    problems: &mut Problems,
) {
    let mut first: HashMap<String, (usize, &str)> = HashMap::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        for value in values(node) {
            match first.get(&value) {
                Some((number, name)) if *number != i + 1 => {
                    let place = format!("node {:?} {field}", node.name);
                    let reason = format!("node number {number}, {name:?}, has it already");
                    problems.value(&place, value, format!("{reason}; it must be unique"));
                }
                Some(_) => {}
                None => {
                    first.insert(value, (i + 1, &node.name));
                }
            }
        }
    }
}

/// Sorted by first address, a prefix overlaps an earlier one only if it starts before the end of
/// the farthest reaching one so far. So thousands of nodes cost a sort, not a square.
fn check_overlaps(nodes: &[NodeSpec], problems: &mut Problems) {
    let mut all: Vec<(IpNet, &str)> = Vec::new();
    for node in nodes {
        all.extend(node.pod_cidrs.iter().map(|p| (*p, node.name.as_str())));
    }
    all.sort_by_key(|(p, _)| (p.network(), p.prefix_len()));
    let mut farthest: Option<(IpNet, &str)> = None;
    for (prefix, name) in all {
        match farthest {
            Some((wide, owner)) if overlap(&wide, &prefix) => {
                let place = format!("node {name:?} pod_cidrs");
                problems.value(
                    &place,
                    quoted(prefix),
                    format!("it overlaps {wide} of node {owner:?}"),
                );
            }
            _ => farthest = Some((prefix, name)),
        }
    }
}

/// The programs probe once per distinct length.
fn check_prefix_lengths(nodes: &[NodeSpec], problems: &mut Problems) {
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let of_family = nodes
            .iter()
            .flat_map(|n| &n.pod_cidrs)
            .filter(|p| matches!(p, IpNet::V4(_)) == is_v4);
        let lengths: BTreeSet<u8> = of_family.map(IpNet::prefix_len).collect();
        if lengths.len() > MAX_PREFIX_LENGTHS {
            let found: Vec<String> = lengths.iter().map(|l| format!("/{l}")).collect();
            let place = format!("{family} prefix lengths of all pod_cidrs");
            problems.value(
                &place,
                found.join(" "),
                format!("at most {MAX_PREFIX_LENGTHS} different ones are possible"),
            );
        }
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn quoted(value: impl Display) -> String {
    format!("\"{value}\"")
}

fn join(all: impl IntoIterator<Item = impl Display>) -> String {
    let all: Vec<String> = all.into_iter().map(quoted).collect();
    format!("[{}]", all.join(", "))
}

const fn v4(octets: [u8; 4], len: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len))
}

const fn v6(s: [u16; 8], len: u8) -> IpNet {
    let address = Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    IpNet::V6(Ipv6Net::new_assert(address, len))
}
