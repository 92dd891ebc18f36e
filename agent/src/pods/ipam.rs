//! Addresses for pods: round robin through the node's pod CIDRs.
//!
//! An address is taken by an attachment's record, so the set of taken ones needs no file of its
//! own. Only the cursor has one: thanks to it a freed address comes last, also across a restart,
//! and neither stale neighbour entries nor late packets meet a new pod.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Key, PodError};

/// The first two addresses of a pod CIDR: the node's overlay address, and what was the bridge's
/// under Flannel, which its CNI plugin never gives to a pod either.
const RESERVED: u128 = 2;

/// Per pod CIDR, the address that was handed out last.
pub(super) type Cursor = BTreeMap<IpNet, IpAddr>;

/// Which addresses are taken by whom, and where to look for the next.
#[derive(Debug, Default)]
pub(super) struct Ipam {
    taken: HashMap<IpAddr, Key>,
    cursor: Cursor,
}

impl Ipam {
    /// With the cursor of a predecessor.
    pub(super) fn new(cursor: Cursor) -> Self {
        Self {
            taken: HashMap::new(),
            cursor,
        }
    }

    /// One address of each CIDR, in their order, or none at all.
    pub(super) fn allocate(&mut self, key: &Key, cidrs: &[IpNet]) -> Result<Vec<IpAddr>, PodError> {
        if cidrs.is_empty() {
            return Err(PodError::NoPodCidr);
        }
        let mut addresses = Vec::with_capacity(cidrs.len());
        for cidr in cidrs {
            match self.next_free(key, cidr) {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    self.free(key, &addresses);
                    return Err(error);
                }
            }
        }
        Ok(addresses)
    }

    /// Marks the addresses of a record as taken; none of them if one is somebody else's.
    pub(super) fn claim(&mut self, key: &Key, addresses: &[IpAddr]) -> Result<(), PodError> {
        let foreign = |a: &&IpAddr| self.taken.get(a).is_some_and(|owner| owner != key);
        if let Some(double) = addresses.iter().find(foreign) {
            return Err(PodError::DoubleAddress(*double));
        }
        self.taken
            .extend(addresses.iter().map(|a| (*a, key.clone())));
        Ok(())
    }

    /// Gives the owner's addresses back; they are handed out again after all others.
    pub(super) fn free(&mut self, key: &Key, addresses: &[IpAddr]) {
        for address in addresses {
            if self.taken.get(address) == Some(key) {
                self.taken.remove(address);
            }
        }
    }

    /// What is to be written down after each allocation.
    pub(super) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// How many addresses of `cidr` can still be handed out.
    pub(super) fn free_in(&self, cidr: &IpNet) -> u128 {
        let taken = self.taken.keys().filter(|a| cidr.contains(*a)).count() as u128;
        usable(cidr).saturating_sub(taken)
    }

    fn next_free(&mut self, key: &Key, cidr: &IpNet) -> Result<IpAddr, PodError> {
        let (first, count) = (number(cidr.network()) + RESERVED, usable(cidr));
        // One more step than there are taken addresses must meet a free one, if there is any.
        let steps = count.min(self.taken.len() as u128 + 1);
        let start = self.start(cidr, first, count);
        let free = (0..steps)
            .map(|step| address(cidr, first + (start + step) % count))
            .find(|candidate| !self.taken.contains_key(candidate));
        let Some(free) = free else {
            return Err(PodError::Exhausted {
                cidr: *cidr,
                in_use: count,
            });
        };
        self.taken.insert(free, key.clone());
        self.cursor.insert(*cidr, free);
        Ok(free)
    }

    /// Offset behind the address that was handed out last.
    fn start(&self, cidr: &IpNet, first: u128, count: u128) -> u128 {
        match self.cursor.get(cidr) {
            Some(last) if cidr.contains(last) && number(*last) >= first => {
                (number(*last) - first + 1) % count.max(1)
            }
            _ => 0,
        }
    }
}

/// How many addresses of a CIDR pods can have.
fn usable(cidr: &IpNet) -> u128 {
    let (family_bits, broadcast) = match cidr {
        IpNet::V4(_) => (32, 1),
        IpNet::V6(_) => (128, 0),
    };
    let bits = u32::from(family_bits - cidr.prefix_len());
    let all = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    all.saturating_sub(RESERVED + broadcast)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of `cidr`'s family with this number.
fn address(cidr: &IpNet, number: u128) -> IpAddr {
    match cidr {
        // The number lies inside an IPv4 prefix, so the conversion cannot fail.
        IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}
