//! Addresses for pods: round robin through the node's pod CIDRs.
//!
//! An address is taken by an attachment's record, so the set of taken ones needs no file of its
//! own. [`Memory`] has one: thanks to it a freed address comes last, also across a restart, and
//! neither stale neighbour entries nor late packets meet a new pod.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Key, PodError};

/// The first two addresses of a pod CIDR: the node's overlay address, and what was the bridge's
/// under Flannel, which its CNI plugin never gives to a pod either.
const RESERVED: u128 = 2;

/// How many freed addresses are remembered. Older ones are as good as never used.
const REMEMBERED: usize = 128;

/// What has to survive a restart beside the records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// Per pod CIDR, the address that was handed out last.
    last: BTreeMap<IpNet, IpAddr>,
    /// Addresses freed lately, the latest at the end.
    freed: Vec<IpAddr>,
}

/// Which addresses are taken by whom, and where to look for the next.
#[derive(Debug, Default)]
pub(super) struct Ipam {
    taken: HashMap<IpAddr, Key>,
    memory: Memory,
}

impl Ipam {
    /// With the memory of a predecessor.
    pub(super) fn new(memory: Memory) -> Self {
        Self {
            taken: HashMap::new(),
            memory,
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
                self.memory.freed.push(*address);
            }
        }
        let excess = self.memory.freed.len().saturating_sub(REMEMBERED);
        self.memory.freed.drain(..excess);
    }

    /// Gives back all that the owner has.
    pub(super) fn free_all(&mut self, key: &Key) {
        let owned = self.taken.iter().filter(|(_, owner)| *owner == key);
        let owned: Vec<IpAddr> = owned.map(|(address, _)| *address).collect();
        self.free(key, &owned);
    }

    /// What is to be written down after each change.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How many addresses of `cidr` can still be handed out.
    pub(super) fn free_in(&self, cidr: &IpNet) -> u128 {
        let taken = self.taken.keys().filter(|a| cidr.contains(*a)).count() as u128;
        usable(cidr).saturating_sub(taken)
    }

    /// The next address that was not freed lately; if there is none, the one freed longest ago.
    fn next_free(&mut self, key: &Key, cidr: &IpNet) -> Result<IpAddr, PodError> {
        let Some(free) = self.unused(cidr).or_else(|| self.oldest_freed(cidr)) else {
            return Err(PodError::Exhausted {
                cidr: *cidr,
                in_use: usable(cidr),
            });
        };
        self.taken.insert(free, key.clone());
        self.memory.last.insert(*cidr, free);
        self.memory.freed.retain(|address| *address != free);
        Ok(free)
    }

    fn unused(&self, cidr: &IpNet) -> Option<IpAddr> {
        let (first, count) = (number(cidr.network()) + RESERVED, usable(cidr));
        // One more step than there are addresses to pass over must meet another one, if there is any.
        let passed_over = self.taken.len() + self.memory.freed.len();
        let start = self.start(cidr, first, count);
        let mut candidates = (0..count.min(passed_over as u128 + 1))
            .map(|step| address(cidr, first + (start + step) % count));
        candidates.find(|a| !self.taken.contains_key(a) && !self.memory.freed.contains(a))
    }

    fn oldest_freed(&self, cidr: &IpNet) -> Option<IpAddr> {
        let first = number(cidr.network()) + RESERVED;
        let ours =
            |a: &&IpAddr| cidr.contains(*a) && (first..first + usable(cidr)).contains(&number(**a));
        let free = |a: &&IpAddr| ours(a) && !self.taken.contains_key(*a);
        self.memory.freed.iter().find(free).copied()
    }

    /// Offset behind the address that was handed out last.
    fn start(&self, cidr: &IpNet, first: u128, count: u128) -> u128 {
        match self.memory.last.get(cidr) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(name: usize) -> Key {
        Key {
            container_id: format!("c{name}"),
            ifname: "eth0".into(),
        }
    }

    fn cidrs(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_ends_of_a_cidr_are_not_for_pods() {
        for (cidr, expected) in [
            (
                "10.0.0.0/29",
                &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"][..],
            ),
            (
                "fd00::/125",
                &[
                    "fd00::2", "fd00::3", "fd00::4", "fd00::5", "fd00::6", "fd00::7",
                ],
            ),
            ("10.0.0.0/30", &["10.0.0.2"]),
            ("10.0.0.0/31", &[]),
            ("10.0.0.1/32", &[]),
            ("fd00::1/128", &[]),
        ] {
            let (cidrs, mut ipam) = (cidrs(&[cidr]), Ipam::default());
            for (number, expected) in expected.iter().enumerate() {
                let addresses = ipam.allocate(&key(number), &cidrs).unwrap();
                assert_eq!(addresses, [expected.parse::<IpAddr>().unwrap()], "{cidr}");
            }
            let error = ipam.allocate(&key(99), &cidrs).unwrap_err();
            assert!(
                matches!(error, PodError::Exhausted { .. }),
                "{cidr}: {error}"
            );
            assert_eq!(ipam.free_in(&cidrs[0]), 0, "{cidr}");
        }
    }

    #[test]
    fn a_cidr_may_be_as_large_as_the_family() {
        for cidr in ["0.0.0.0/0", "::/0", "fd00::/64"] {
            let addresses = Ipam::default().allocate(&key(0), &cidrs(&[cidr])).unwrap();
            assert_eq!(addresses.len(), 1, "{cidr}");
        }
    }

    #[test]
    fn both_families_or_none() {
        let cidrs = cidrs(&["10.0.0.0/29", "fd00::/126"]);
        let mut ipam = Ipam::default();
        for number in 0..2 {
            assert_eq!(ipam.allocate(&key(number), &cidrs).unwrap().len(), 2);
        }
        ipam.allocate(&key(2), &cidrs).unwrap_err();
        assert_eq!(
            ipam.free_in(&cidrs[0]),
            3,
            "the IPv4 address of the failure is free again"
        );
    }

    #[test]
    fn a_foreign_address_is_neither_claimed_nor_freed() {
        let mut ipam = Ipam::default();
        let address = ["10.0.0.2".parse().unwrap()];
        ipam.claim(&key(1), &address).unwrap();
        ipam.claim(&key(1), &address).unwrap();
        assert!(matches!(
            ipam.claim(&key(2), &address),
            Err(PodError::DoubleAddress(_))
        ));
        ipam.free(&key(2), &address);
        assert!(matches!(
            ipam.claim(&key(2), &address),
            Err(PodError::DoubleAddress(_))
        ));
    }

    #[derive(Debug, Clone)]
    enum Operation {
        Allocate,
        Free(prop::sample::Index),
        Restart,
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let operation = prop_oneof![
            4 => Just(Operation::Allocate),
            3 => any::<prop::sample::Index>().prop_map(Operation::Free),
            1 => Just(Operation::Restart),
        ];
        prop::collection::vec(operation, 0..200)
    }

    proptest! {
        /// The model: `held` are the pods' addresses, `freed` those given back, oldest first.
        #[test]
        fn no_address_twice_and_none_again_at_once(operations in operations()) {
            let cidrs = cidrs(&["10.0.0.0/28"]);
            let all: Vec<IpAddr> = (2..15).map(|n| Ipv4Addr::new(10, 0, 0, n).into()).collect();
            let mut ipam = Ipam::default();
            let mut held: Vec<(Key, IpAddr)> = Vec::new();
            let mut freed: Vec<IpAddr> = Vec::new();
            for (number, operation) in operations.into_iter().enumerate() {
                match operation {
                    Operation::Allocate => {
                        let fresh = |a: &&IpAddr| !freed.contains(a) && !held.iter().any(|h| h.1 == **a);
                        match ipam.allocate(&key(number), &cidrs) {
                            Ok(addresses) => {
                                let address = addresses[0];
                                prop_assert!(all.contains(&address));
                                prop_assert!(!held.iter().any(|h| h.1 == address), "{address} twice");
                                if all.iter().any(|a| fresh(&a)) {
                                    prop_assert!(fresh(&&address), "{address} again at once");
                                } else {
                                    prop_assert_eq!(address, freed[0], "the oldest comes first");
                                }
                                freed.retain(|a| *a != address);
                                held.push((key(number), address));
                            }
                            Err(_) => prop_assert_eq!(held.len(), all.len()),
                        }
                    }
                    Operation::Free(which) if !held.is_empty() => {
                        let (key, address) = held.remove(which.index(held.len()));
                        ipam.free(&key, &[address]);
                        freed.push(address);
                    }
                    Operation::Free(_) => {}
                    Operation::Restart => {
                        let text = serde_json::to_string(ipam.memory()).unwrap();
                        ipam = Ipam::new(serde_json::from_str(&text).unwrap());
                        for (key, address) in &held {
                            ipam.claim(key, &[*address]).unwrap();
                        }
                    }
                }
            }
        }
    }
}
