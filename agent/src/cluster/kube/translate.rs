//! From a Kubernetes Node to a node of the cluster: pure, and nothing a Node says makes it fail
//! for the others.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::node::Node;
use crate::cluster::flannel::{BackendData, VXLAN};
use crate::cluster::problem::Problems;
use crate::cluster::{Network, NodeSpec, Problem, Vni, Vtep};

/// The keys of Flannel's annotations (Flannel, pkg/subnet/kube/annotations.go).
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// Those that begin so, by Flannel's rules: a prefix without a name gets a slash, one with the
    /// beginning of a name a dash.
    pub(super) fn new(prefix: &str) -> Self {
        let joint = match prefix.split_once('/') {
            None => "/",
            Some((_, "")) => "",
            Some((_, name)) if name.ends_with('-') => "",
            Some(_) => "-",
        };
        Self {
            prefix: format!("{prefix}{joint}"),
        }
    }

    pub(super) fn key(&self, what: &str) -> String {
        format!("{}{what}", self.prefix)
    }
}

/// Flannel's names of what a node announces for one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct FamilyKeys {
    pub(super) is_v4: bool,
    pub(super) address: &'static str,
    pub(super) overwrite: &'static str,
    pub(super) data: &'static str,
}

/// Both families, IPv4 first.
pub(super) const FAMILIES: [FamilyKeys; 2] = [
    FamilyKeys {
        is_v4: true,
        address: "public-ip",
        overwrite: "public-ip-overwrite",
        data: "backend-data",
    },
    FamilyKeys {
        is_v4: false,
        address: "public-ipv6",
        overwrite: "public-ipv6-overwrite",
        data: "backend-v6-data",
    },
];

/// `"true"` on every node that takes part.
pub(super) const MANAGED: &str = "kube-subnet-manager";

/// How the node's packets come: `"vxlan"`.
pub(super) const BACKEND: &str = "backend-type";

/// What a Node means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Peer {
    /// A node of the cluster, if it fits to the others.
    Node(Announced),
    /// Nothing to do with us, or not yet.
    LeftOut(Reason),
    /// What it announces cannot be.
    Wrong(Vec<Problem>),
}

/// What a node announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announced {
    /// When it was made.
    pub(super) made: i64,
    /// Prefixes of its pods, IPv4 first.
    pub(super) pod_cidrs: Vec<IpNet>,
    /// Its VTEPs with their VNIs, IPv4 first.
    pub(super) vteps: Vec<(Vtep, Option<Vni>)>,
}

/// Why a Node is not a node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// It has no annotations of ours or Flannel's.
    NoAnnotations,
    /// Its packets come in another way than VXLAN.
    Backend(String),
    /// Kubernetes has not given it a pod CIDR yet.
    NoPodCidr,
    /// Its pod CIDRs are of families that the network does not use.
    Family,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoAnnotations => f.write_str("without annotations of Oxlan or Flannel"),
            Self::Backend(other) => write!(f, "with Flannel's backend {other:?} instead of vxlan"),
            Self::NoPodCidr => f.write_str("without a podCIDR yet"),
            Self::Family => f.write_str("without a podCIDR of a family that the network uses"),
        }
    }
}

/// Reads what a Node announces.
pub(super) fn peer(node: &Node, keys: &Keys) -> Peer {
    let text = |what: &str| node.annotation(&keys.key(what)).and_then(Value::as_str);
    if text(MANAGED) != Some("true") {
        return Peer::LeftOut(Reason::NoAnnotations);
    }
    match text(BACKEND) {
        Some(VXLAN) => {}
        Some(other) => return Peer::LeftOut(Reason::Backend(shortened(other))),
        None => return Peer::LeftOut(Reason::NoAnnotations),
    }
    let mut problems = Problems::default();
    let pod_cidrs = pod_cidrs(node, &mut problems);
    let mut vteps = Vec::new();
    for family in FAMILIES {
        vteps.extend(vtep(node, keys, family, &mut problems));
    }
    let problems = problems.into_vec();
    if !problems.is_empty() {
        return Peer::Wrong(problems);
    }
    if pod_cidrs.is_empty() {
        return Peer::LeftOut(Reason::NoPodCidr);
    }
    if vteps.is_empty() {
        let mut problems = Problems::default();
        let [v4, v6] = FAMILIES.map(|f| keys.key(f.address));
        problems.place(&place(node, &v4), format!("neither it nor {v6} is there"));
        return Peer::Wrong(problems.into_vec());
    }
    Peer::Node(Announced {
        made: node.made,
        pod_cidrs,
        vteps,
    })
}

/// The prefixes of a Node's pods, IPv4 first; none if it has none yet.
pub(super) fn pod_cidrs(node: &Node, problems: &mut Problems) -> Vec<IpNet> {
    let place = format!("node {:?} podCIDRs", node.name());
    if node.pod_cidrs.is_null() {
        return Vec::new();
    }
    let Some(values) = node.pod_cidrs.as_array() else {
        let found = shown(&node.pod_cidrs);
        problems.value(&place, found, "a list of prefixes is wanted");
        return Vec::new();
    };
    let mut prefixes: Vec<IpNet> = Vec::new();
    for (i, value) in values.iter().enumerate().filter(|(_, v)| **v != "") {
        let place = format!("{place}[{i}]");
        match value.as_str().map(str::parse::<IpNet>) {
            Some(Ok(prefix)) => {
                let prefix = prefix.trunc();
                let same = |p: &&IpNet| p.network().is_ipv4() == prefix.network().is_ipv4();
                match prefixes.iter().find(same) {
                    None => prefixes.push(prefix),
                    Some(first) => {
                        let wanted =
                            format!("there is {first} already; one per family is possible");
                        problems.value(&place, prefix, wanted);
                    }
                }
            }
            _ => problems.value(&place, shown(value), "a prefix as 10.244.1.0/24 is wanted"),
        }
    }
    prefixes.sort_by_key(|p| p.network().is_ipv6());
    prefixes
}

/// What a node announces for one family; none if it announces nothing.
fn vtep(
    node: &Node,
    keys: &Keys,
    family: FamilyKeys,
    problems: &mut Problems,
) -> Option<(Vtep, Option<Vni>)> {
    let address = announced(node, &keys.key(family.address));
    let data = announced(node, &keys.key(family.data));
    if address.is_none() && data.is_none() {
        return None;
    }
    let address = read_address(
        node,
        &keys.key(family.address),
        address,
        family.is_v4,
        problems,
    );
    let data = match data {
        Some(value) => read_data(&place(node, &keys.key(family.data)), value, problems),
        None => {
            let wanted = format!("it is missing, but {} is there", keys.key(family.address));
            problems.place(&place(node, &keys.key(family.data)), wanted);
            None
        }
    };
    let (underlay, data) = (address?, data?);
    let mac = data.vtep_mac;
    Some((Vtep { underlay, mac }, data.vni))
}

/// Flannel writes `null` where it has nothing to say.
fn announced<'a>(node: &'a Node, key: &str) -> Option<&'a Value> {
    let value = node.annotation(key)?;
    let nothing = matches!(value.as_str(), Some("" | "null")) || value.is_null();
    (!nothing).then_some(value)
}

fn read_address(
    node: &Node,
    key: &str,
    value: Option<&Value>,
    is_v4: bool,
    problems: &mut Problems,
) -> Option<IpAddr> {
    let place = place(node, key);
    let Some(value) = value else {
        problems.place(
            &place,
            "it is missing; it is the node's address on the underlay",
        );
        return None;
    };
    let parsed = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    let right = parsed.filter(|a| a.is_ipv4() == is_v4);
    if right.is_none() {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        problems.value(
            &place,
            shown(value),
            format!("an {family} address is wanted"),
        );
    }
    right
}

fn read_data(place: &str, value: &Value, problems: &mut Problems) -> Option<BackendData> {
    let read = match value.as_str() {
        Some(text) => BackendData::parse(text, place),
        None => BackendData::read(value, place),
    };
    match read {
        Ok(data) => Some(data),
        Err(wrong) => {
            problems.extend(wrong);
            None
        }
    }
}

/// What the own Node says.
#[derive(Debug, Clone)]
pub(super) struct OwnNode {
    /// Prefixes of its pods, or what is wrong with them.
    pub(super) pod_cidrs: Result<Vec<IpNet>, Vec<Problem>>,
    /// Its addresses of type `InternalIP`.
    pub(super) internal: Vec<IpAddr>,
    /// Its annotations with our prefix, and its condition, as they are now.
    pub(super) node: Node,
}

impl OwnNode {
    pub(super) fn new(node: Node) -> Self {
        let mut problems = Problems::default();
        let pod_cidrs = pod_cidrs(&node, &mut problems);
        let problems = problems.into_vec();
        Self {
            pod_cidrs: if problems.is_empty() {
                Ok(pod_cidrs)
            } else {
                Err(problems)
            },
            internal: internal(&node),
            node,
        }
    }
}

fn internal(node: &Node) -> Vec<IpAddr> {
    let all = node.addresses.as_array().into_iter().flatten();
    all.filter(|a| a.get("type").and_then(Value::as_str) == Some("InternalIP"))
        .filter_map(|a| a.get("address")?.as_str()?.parse().ok())
        .collect()
}

/// A node of the cluster as the network uses it; none, with the reason, if it does not.
pub(super) fn spec(name: &str, announced: &Announced, network: &Network) -> Result<NodeSpec, Peer> {
    let mut problems = Problems::default();
    for (vtep, vni) in &announced.vteps {
        if vni.is_some_and(|vni| vni != network.vni) {
            let place = format!("node {name:?} VNI of {}", vtep.underlay);
            let (vni, own) = (vni.map_or(0, Vni::get), network.vni);
            problems.value(&place, vni, format!("the network's is {own}"));
        }
    }
    let problems = problems.into_vec();
    if !problems.is_empty() {
        return Err(Peer::Wrong(problems));
    }
    let pod_cidrs = used(&announced.pod_cidrs, network);
    if pod_cidrs.is_empty() {
        return Err(Peer::LeftOut(Reason::Family));
    }
    Ok(NodeSpec {
        name: name.to_owned(),
        pod_cidrs,
        vteps: announced.vteps.iter().map(|(vtep, _)| *vtep).collect(),
    })
}

/// Those prefixes that are of a family of the network.
pub(super) fn used(pod_cidrs: &[IpNet], network: &Network) -> Vec<IpNet> {
    let is_used = |prefix: &&IpNet| {
        let same = |n: &IpNet| n.network().is_ipv4() == prefix.network().is_ipv4();
        network.pod_cidrs.iter().any(same)
    };
    pod_cidrs.iter().filter(is_used).copied().collect()
}

fn place(node: &Node, key: &str) -> String {
    format!("node {:?} annotation {key}", node.name())
}

/// A value in a message; a foreign one may be of any length.
fn shown(value: &Value) -> String {
    shortened(&value.to_string())
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
