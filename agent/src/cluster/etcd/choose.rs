//! Which subnet a node is to have. Pure: what is taken comes as an argument.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;

use super::record::{Holder, Subnet};
use super::registry::Registry;
use crate::cluster::Network;
use crate::cluster::flannel::Subnets;

/// A network with more subnets than this and none free after so many looks counts as full.
const MOST_LOOKS: u128 = 1 << 20;

/// What a node goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    /// The network.
    pub(super) network: &'a Network,
    /// Its subnets, one row per family, IPv4 first.
    pub(super) families: &'a [Subnets],
    /// Own underlay addresses.
    pub(super) underlay: &'a [IpAddr],
    /// The subnet it had before.
    pub(super) before: Option<&'a Subnet>,
    /// How often others have been faster so far.
    pub(super) attempt: u32,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// The node has this subnet already; its key and what it says.
    Keep(Subnet, String, Holder),
    /// This one is free.
    Take(Subnet),
    /// None is free; so many are taken.
    Full(usize),
}

impl Wish<'_> {
    /// A subnet that is the node's by its address, else the one it had, else a free one.
    ///
    /// Of several that are the node's the oldest one, for that is the one that the other nodes see,
    /// whatever this one remembers.
    pub(super) fn choose(&self, registry: &Registry) -> Choice {
        let contested = registry.contested(self.network);
        let own = self.own(registry).into_iter();
        let mut own =
            own.filter(|(name, subnet, _)| self.fits(subnet) && !contested.contains_key(name));
        if let Some((name, subnet, holder)) = own.next() {
            return Choice::Keep(*subnet, name.to_owned(), holder.clone());
        }
        let taken = Taken::new(registry, self);
        let before = self.before.filter(|s| self.fits(s) && taken.is_free(s));
        match before.copied().or_else(|| self.search(&taken)) {
            Some(free) => Choice::Take(free),
            None => Choice::Full(taken.all.len()),
        }
    }

    /// Subnets that are the node's and that the configuration no longer allows, or that it took
    /// although an older one overlaps: names of keys and when they were last written.
    pub(super) fn outdated(&self, registry: &Registry) -> Vec<(String, i64)> {
        let contested = registry.contested(self.network);
        let mut outdated = Vec::new();
        for (name, subnet, _) in self.own(registry) {
            let Some(entry) = registry.get(name) else {
                continue;
            };
            // What has no lease was written by an administrator, who has to decide.
            let given_up = entry.lease != 0 && contested.contains_key(name);
            if given_up || !self.fits(subnet) {
                outdated.push((name.to_owned(), entry.modified));
            }
        }
        outdated
    }

    fn own<'a>(&self, registry: &'a Registry) -> Vec<(&'a str, &'a Subnet, &'a Holder)> {
        let readable = |(name, entry): (&'a str, &'a super::Entry)| {
            let subnet = entry.subnet.as_ref().ok()?;
            Some((name, subnet, entry.holder.as_ref().ok()?))
        };
        let all = registry.by_age().into_iter().filter_map(readable);
        all.filter(|(.., holder)| holder.is_at(self.underlay))
            .collect()
    }

    /// Whether the configuration allows a node to have it.
    fn fits(&self, subnet: &Subnet) -> bool {
        let prefixes = subnet.prefixes();
        let both = prefixes.iter().zip(self.families);
        prefixes.len() == self.families.len() && both.into_iter().all(|(p, f)| f.allow(p))
    }

    /// From a place that the node's address decides, so that nodes that start at once rarely meet.
    fn search(&self, taken: &Taken) -> Option<Subnet> {
        let mut hasher = DefaultHasher::new();
        (self.underlay, self.attempt).hash(&mut hasher);
        let start = u128::from(hasher.finish());
        let row = |family: &Subnets| {
            let looks = family.count().min(MOST_LOOKS);
            let mut all = (0..looks).map(|i| family.nth(start + i));
            all.find(|prefix| taken.is_free_prefix(prefix))
        };
        let prefixes: Option<Vec<IpNet>> = self.families.iter().map(row).collect();
        Subnet::of(&prefixes?)
    }
}

/// Prefixes that are somebody's.
struct Taken {
    all: HashSet<IpNet>,
    /// Those of other lengths than the configuration's, from before it was changed.
    odd: Vec<IpNet>,
}

impl Taken {
    fn new(registry: &Registry, wish: &Wish<'_>) -> Self {
        let prefixes = registry.taken(wish.network).flat_map(Subnet::prefixes);
        let all: HashSet<IpNet> = prefixes.collect();
        let usual = |p: &IpNet| wish.families.iter().any(|f| f.len == p.prefix_len());
        let odd = all.iter().filter(|p| !usual(p)).copied().collect();
        Self { all, odd }
    }

    fn is_free(&self, subnet: &Subnet) -> bool {
        subnet.prefixes().iter().all(|p| self.is_free_prefix(p))
    }

    fn is_free_prefix(&self, prefix: &IpNet) -> bool {
        let overlap = |odd: &IpNet| odd.contains(prefix) || prefix.contains(odd);
        !self.all.contains(prefix) && !self.odd.iter().any(overlap)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::*;
    use crate::cluster::flannel::NetConf;

    const DUAL: &str = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","SubnetMin":"10.244.16.0","SubnetMax":"10.244.19.0","Backend":{"Type":"vxlan"}}"#;
    const SINGLE: &str = r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.16.0","SubnetMax":"10.244.19.0","Backend":{"Type":"vxlan"}}"#;

    fn registry(leases: &[(&str, &str)]) -> Registry {
        let mut registry = Registry::default();
        for (i, (name, address)) in leases.iter().enumerate() {
            let value = format!("{{\"PublicIP\":\"{address}\"}}");
            let created = i64::try_from(i).unwrap();
            registry.put(
                name,
                Entry::new(name, value.as_bytes(), created, created, 7),
            );
        }
        registry
    }

    fn choose(conf: &str, before: Option<&str>, leases: &[(&str, &str)]) -> (Choice, Vec<String>) {
        let conf = NetConf::parse(conf.as_bytes(), "config").unwrap();
        let before = before.map(|name| Subnet::parse(name).unwrap());
        let wish = Wish {
            network: &conf.network(),
            families: &conf.subnets("config").unwrap(),
            underlay: &["192.168.50.1".parse().unwrap()],
            before: before.as_ref(),
            attempt: 0,
        };
        let registry = registry(leases);
        let outdated = wish.outdated(&registry).into_iter().map(|(n, _)| n);
        (wish.choose(&registry), outdated.collect())
    }

    fn taken(choice: Choice) -> String {
        match choice {
            Choice::Take(subnet) => subnet.name(),
            other @ (Choice::Keep(..) | Choice::Full(_)) => panic!("{other:?}"),
        }
    }

    fn kept(choice: Choice) -> String {
        match choice {
            Choice::Keep(subnet, name, _) => {
                assert_eq!(subnet.name(), name);
                name
            }
            other @ (Choice::Take(_) | Choice::Full(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_only_free_one_is_found() {
        let leases = [
            ("10.244.16.0-24", "192.168.50.2"),
            ("10.244.17.0-24", "192.168.50.3"),
            ("10.244.19.0-24", "192.168.50.4"),
        ];
        assert_eq!(taken(choose(SINGLE, None, &leases).0), "10.244.18.0-24");
        let (full, _) = choose(
            SINGLE,
            None,
            &[
                leases[0],
                leases[1],
                leases[2],
                ("10.244.18.0-25", "192.168.50.5"),
            ],
        );
        assert_eq!(full, Choice::Full(4));
    }

    #[test]
    fn unreadable_values_take_their_subnet_and_absurd_keys_take_nothing() {
        let leases = [
            ("10.244.16.0-23", "hostile"),
            ("10.244.19.0-24", "192.168.50.4"),
            ("10.244.0.0-16", "192.168.50.5"),
            ("0.0.0.0-0", "192.168.50.6"),
            ("what", "192.168.50.7"),
        ];
        assert_eq!(taken(choose(SINGLE, None, &leases).0), "10.244.18.0-24");
    }

    #[test]
    fn own_subnets_are_kept() {
        let leases = [
            ("10.244.15.0-24", "192.168.50.1"),
            ("10.244.17.0-24", "192.168.50.1"),
            ("10.244.18.0-24", "192.168.50.1"),
        ];
        let (choice, outdated) = choose(SINGLE, None, &leases);
        assert_eq!(kept(choice), "10.244.17.0-24", "the oldest that fits");
        assert_eq!(outdated, ["10.244.15.0-24"]);
        let (choice, _) = choose(SINGLE, Some("10.244.18.0-24"), &leases);
        assert_eq!(
            kept(choice),
            "10.244.17.0-24",
            "the one that the others see"
        );
    }

    /// As after a failure between taking a subnet and looking whether somebody else has a part of it.
    #[test]
    fn an_own_subnet_that_overlaps_an_older_one_is_given_up() {
        let theirs = ("10.244.16.0-24&fd00:10:244:7::-64", "192.168.50.2");
        let ours = ("10.244.17.0-24&fd00:10:244:7::-64", "192.168.50.1");
        let (choice, outdated) = choose(DUAL, Some(ours.0), &[theirs, ours]);
        assert_eq!(outdated, [ours.0]);
        assert!(!taken(choice).ends_with("fd00:10:244:7::-64"));
        let (choice, outdated) = choose(DUAL, None, &[ours, theirs]);
        assert_eq!(kept(choice), ours.0, "the older one");
        assert!(outdated.is_empty(), "{outdated:?}");
    }

    /// Whatever keys there are, the node chooses what its peers see as its own.
    #[test]
    fn a_node_and_its_peers_agree_on_its_subnet() {
        let names = [
            "10.244.16.0-24",
            "10.244.17.0-24",
            "10.244.18.0-24",
            "10.244.16.0-25",
            "10.244.18.0-23",
        ];
        let conf = NetConf::parse(SINGLE.as_bytes(), "config").unwrap();
        let network = conf.network();
        let value = |last: usize| {
            format!(
                r#"{{"PublicIP":"192.168.50.{last}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:0{last}"}}}}"#
            )
        };
        let peer = crate::cluster::NodeSpec {
            name: "peer".into(),
            pod_cidrs: vec!["10.244.99.0/24".parse().unwrap()],
            vteps: vec![crate::cluster::Vtep {
                underlay: "192.168.50.9".parse().unwrap(),
                mac: oxlan_common::addr::Mac::new([2, 0, 0, 0, 0, 9]),
            }],
        };
        // Every key is nobody's, ours, or another node's, and every order of age.
        for assignment in 0..3_usize.pow(5) {
            for rotation in 0..names.len() {
                let mut registry = Registry::default();
                for (i, name) in names.iter().enumerate() {
                    let holder = assignment / 3_usize.pow(u32::try_from(i).unwrap()) % 3;
                    let age = i64::try_from((i + rotation) % names.len()).unwrap();
                    if holder > 0 {
                        registry.put(
                            name,
                            Entry::new(name, value(holder).as_bytes(), age, age, 7),
                        );
                    }
                }
                for before in [None, Some("10.244.17.0-24"), Some("10.244.18.0-24")] {
                    let before = before.map(|name| Subnet::parse(name).unwrap());
                    let wish = Wish {
                        network: &network,
                        families: &conf.subnets("config").unwrap(),
                        underlay: &["192.168.50.1".parse().unwrap()],
                        before: before.as_ref(),
                        attempt: 0,
                    };
                    let mut registry = registry.clone();
                    for (name, _) in wish.outdated(&registry) {
                        registry.remove(&name);
                    }
                    let chosen = match wish.choose(&registry) {
                        Choice::Keep(subnet, ..) => Some(subnet),
                        Choice::Take(_) | Choice::Full(_) => None,
                    };
                    let seen = registry.cluster(&network, peer.clone(), "").unwrap();
                    let seen = seen.nodes.iter().find(|n| n.name == "192.168.50.1");
                    assert_eq!(
                        chosen.map(|s| s.prefixes()),
                        seen.map(|n| n.pod_cidrs.clone()),
                        "{registry:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_a_node_had_is_taken_if_it_is_free_and_still_fits() {
        let mine = Some("10.244.17.0-24");
        assert_eq!(taken(choose(SINGLE, mine, &[]).0), "10.244.17.0-24");
        let other = [("10.244.17.0-24", "192.168.50.2")];
        assert_ne!(taken(choose(SINGLE, mine, &other).0), "10.244.17.0-24");
        let outside = Some("10.244.99.0-24");
        assert_ne!(taken(choose(SINGLE, outside, &[]).0), "10.244.99.0-24");
        assert!(
            taken(choose(DUAL, mine, &[]).0).contains('&'),
            "IPv6 is missing"
        );
    }

    #[test]
    fn both_families_are_free_by_themselves() {
        let first = taken(choose(DUAL, None, &[]).0);
        let (v4, v6) = first.split_once('&').unwrap();
        // The same IPv6 part under another IPv4 one: a key of another name.
        let other = if v4 == "10.244.16.0-24" {
            "10.244.17.0-24"
        } else {
            "10.244.16.0-24"
        };
        let leases = [(format!("{other}&{v6}"), "192.168.50.2")];
        let leases: Vec<(&str, &str)> = leases.iter().map(|(n, a)| (n.as_str(), *a)).collect();
        let second = taken(choose(DUAL, None, &leases).0);
        assert!(
            second.starts_with(v4) && !second.ends_with(v6),
            "{first} {second}"
        );
    }
}
