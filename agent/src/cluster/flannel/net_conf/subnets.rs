//! The subnets of a network that nodes may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Family;
use super::fields::family_name;
use crate::cluster::problem::Problems;

/// A row of equally long subnets, the unit in which a network is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnets {
    /// The network they are of.
    pub network: IpNet,
    /// Prefix length of each.
    pub len: u8,
    first: u128,
    count: u128,
}

impl Subnets {
    /// By Flannel's rules (pkg/subnet/config.go, `CheckNetworkConfig`): a length that is not given is
    /// 24 or 64, or in a small network its quarter; the network's first and last subnet are not used.
    pub(super) fn new(family: &Family, problems: &mut Problems) -> Option<Self> {
        let network = family.network;
        let is_v4 = matches!(network, IpNet::V4(_));
        let place = |field: &str| format!("{}{field}", if is_v4 { "" } else { "IPv6" });
        let (usual, smallest) = if is_v4 { (24, 28) } else { (64, 124) };
        let least = network.prefix_len().saturating_add(2);
        if network.prefix_len() > smallest {
            let wanted = format!("a prefix of /{smallest} or shorter is wanted, to be divided");
            problems.value(&place("Network"), network, wanted);
            return None;
        }
        let len = family.len.unwrap_or_else(|| usual.max(least));
        if len < least {
            let wanted =
                format!("{least} or more is wanted: {network} must have room for four subnets");
            problems.value(&place("SubnetLen"), len, wanted);
            return None;
        }
        let shift = u32::from(network.max_prefix_len() - len);
        let start = number(network.network()) >> shift;
        let total = 1_u128 << (len - network.prefix_len());
        let mut limit = |field, value: Option<IpAddr>, default| match value {
            None => Some(default),
            Some(address) => {
                let index = (number(address) >> shift).wrapping_sub(start);
                let aligned = number(address) >> shift << shift == number(address);
                if aligned && network.contains(&address) {
                    return Some(index);
                }
                let family = family_name(is_v4);
                let wanted =
                    format!("the first {family} address of a /{len} of {network} is wanted");
                problems.value(&place(field), address, wanted);
                None
            }
        };
        let min = limit("SubnetMin", family.min, 1);
        let max = limit("SubnetMax", family.max, total - 2);
        let (min, max) = (min?, max?);
        if max < min {
            let wanted = "it must not be after SubnetMax";
            let given = family.min.map_or_else(String::new, |a| a.to_string());
            problems.value(&place("SubnetMin"), given, wanted);
            return None;
        }
        Some(Self {
            network,
            len,
            first: start + min,
            count: max - min + 1,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.count
    }

    /// The one with this number, from 0 on; beyond the last it starts again.
    #[must_use]
    pub fn nth(&self, index: u128) -> IpNet {
        let shift = u32::from(self.network.max_prefix_len() - self.len);
        let bits = (self.first + index % self.count) << shift;
        let address = match self.network {
            IpNet::V4(_) => Ipv4Addr::from(u32::try_from(bits).unwrap_or_default()).into(),
            IpNet::V6(_) => IpAddr::from(Ipv6Addr::from(bits)),
        };
        IpNet::new(address, self.len).unwrap_or(self.network)
    }

    /// Whether a node may have this subnet, as far as the configuration says.
    #[must_use]
    pub fn allow(&self, subnet: &IpNet) -> bool {
        let shift = u32::from(self.network.max_prefix_len() - self.len);
        let index = (number(subnet.network()) >> shift).checked_sub(self.first);
        subnet.prefix_len() == self.len
            && self.network.contains(subnet)
            && index.is_some_and(|index| index < self.count)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}
