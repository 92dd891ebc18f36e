//! How packets get to the pods of other nodes: what the kernel's routes and the cluster's mode
//! make of each pod CIDR.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::desire::Facts;
use crate::cluster::{Mode, NodeSpec, Vtep};
use crate::host::paths::Path;

/// What the kernel's routes say; none stands for "no route".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// The way to each underlay address of another node.
    pub nodes: HashMap<IpAddr, Option<Path>>,
    /// The way to each pod CIDR of another node by somebody else's route; empty unless the mode asks for it.
    pub prefixes: HashMap<IpNet, Option<Path>>,
}

impl Ways {
    /// The way to an underlay address.
    #[must_use]
    pub fn to_node(&self, underlay: IpAddr) -> Option<&Path> {
        self.nodes.get(&underlay)?.as_ref()
    }

    /// Indices of all devices by which packets leave, also several times.
    pub fn devices(&self) -> impl Iterator<Item = u32> {
        let all = self.nodes.values().chain(self.prefixes.values()).flatten();
        all.flat_map(Path::hops).map(|hop| hop.ifindex)
    }

    /// Whether a device leads to one of several equal next hops of a family.
    #[must_use]
    pub fn has_equals(&self, ifindex: u32, is_v6: bool) -> bool {
        let nodes = self.nodes.iter().map(|(to, path)| (to.is_ipv6(), path));
        let prefixes = self.prefixes.iter();
        let prefixes = prefixes.map(|(to, path)| (to.addr().is_ipv6(), path));
        let mut paths = nodes.chain(prefixes).filter(|(v6, _)| *v6 == is_v6);
        paths.any(|(_, path)| {
            let mut shares = path.iter().flat_map(|path| &path.shares);
            shares.any(|share| share.hop.ifindex == ifindex)
        })
    }
}

/// How packets get to one pod CIDR of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way<'a> {
    /// In VXLAN to this VTEP.
    Tunnel(&'a Vtep, &'a Path),
    /// As they are.
    Direct(&'a Path),
    /// There is none.
    Nowhere,
}

impl<'a> Facts<'a> {
    /// The way to the pods of another node in this prefix.
    #[must_use]
    pub fn way(&self, node: &'a NodeSpec, prefix: &IpNet) -> Way<'a> {
        match self.cluster.network.mode {
            Mode::Direct => self.by_route(prefix).map_or(Way::Nowhere, Way::Direct),
            mode @ (Mode::Vxlan | Mode::Auto) => {
                let vtep = node.vtep(self.own, prefix);
                let path = vtep.and_then(|v| self.ways.to_node(v.underlay));
                match vtep.zip(path) {
                    Some((v, path)) if mode == Mode::Auto && self.is_adjacent(v, path, prefix) => {
                        Way::Direct(path)
                    }
                    Some((vtep, path)) => Way::Tunnel(vtep, path),
                    None => Way::Nowhere,
                }
            }
        }
    }

    fn by_route(&self, prefix: &IpNet) -> Option<&'a Path> {
        self.ways.prefixes.get(prefix)?.as_ref()
    }

    /// Whether the node takes pods' packets as they are: it is on the link, an Ethernet, with an
    /// address of the pods' family. (A tunnel of somebody else's is a link, too, but need not
    /// carry pods' addresses.)
    fn is_adjacent(&self, vtep: &Vtep, path: &Path, prefix: &IpNet) -> bool {
        let is_ethernet = |ifindex| {
            let mut uplinks = self.uplinks.iter();
            uplinks.any(|u| u.ifindex == ifindex && u.ethernet)
        };
        let same_family = vtep.underlay.is_ipv4() == matches!(prefix, IpNet::V4(_));
        same_family
            && path.is_on_link(vtep.underlay)
            && path.hops().all(|hop| is_ethernet(hop.ifindex))
    }
}
