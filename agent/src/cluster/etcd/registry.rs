//! What is known of the keys below `subnets/`.

use std::collections::BTreeMap;

use super::record::{Holder, Subnet};
use crate::cluster::assemble::{Disjoint, assemble, remarks};
use crate::cluster::{ClusterConfig, Network, NodeSpec, Problem};

/// All subnets, by the names of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    entries: BTreeMap<String, Entry>,
}

/// One key.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The subnet that its name says.
    pub subnet: Result<Subnet, Problem>,
    /// Who has it.
    pub holder: Result<Holder, Vec<Problem>>,
    /// etcd's revision when it was made: an older one takes precedence.
    pub created: i64,
    /// etcd's revision when it was last written.
    pub modified: i64,
    /// etcd's lease; 0 for a reservation, which never expires.
    pub lease: i64,
}

/// A renewal changes nothing of what an entry says.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.subnet == other.subnet && self.holder == other.holder && self.created == other.created
    }
}

impl Eq for Entry {}

impl Entry {
    /// Reads a key's name and value.
    #[must_use]
    pub fn new(name: &str, value: &[u8], created: i64, modified: i64, lease: i64) -> Self {
        let place = format!("subnet {:?}", crate::cluster::problem::shortened(name));
        Self {
            subnet: Subnet::parse(name),
            holder: Holder::parse(value, &place),
            created,
            modified,
            lease,
        }
    }
}

impl Registry {
    /// Puts an entry in; whether what is known changes by it.
    pub fn put(&mut self, name: &str, entry: Entry) -> bool {
        let same = self.entries.get(name) == Some(&entry);
        self.entries.insert(name.to_owned(), entry);
        !same
    }

    /// Takes an entry out; whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        self.entries.remove(name).is_some()
    }

    /// The entry of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All of them, the oldest first.
    #[must_use]
    pub fn by_age(&self) -> Vec<(&str, &Entry)> {
        let mut all: Vec<_> = self.entries.iter().map(|(n, e)| (n.as_str(), e)).collect();
        all.sort_by_key(|(name, entry)| (entry.created, *name));
        all
    }

    /// Subnets that are somebody's, whatever stands there of whose: no other node may take them.
    ///
    /// Not those that are too wide to be a node's: one wrong key must not take the whole network.
    pub fn taken(&self, network: &Network) -> impl Iterator<Item = &Subnet> {
        let subnets = self.entries.values().filter_map(|e| e.subnet.as_ref().ok());
        subnets.filter(|subnet| too_wide(subnet, network).is_none())
    }

    /// Subnets that overlap an older one, by the names of their keys, with the older one's name: they
    /// do not count, neither for the node that they name nor for the others.
    #[must_use]
    pub fn contested(&self, network: &Network) -> BTreeMap<&str, &str> {
        let mut counting = Disjoint::default();
        let mut contested = BTreeMap::new();
        for (name, entry) in self.by_age() {
            let Ok(subnet) = &entry.subnet else { continue };
            if too_wide(subnet, network).is_some() {
                continue;
            }
            let prefixes = subnet.prefixes();
            let older = prefixes.iter().find_map(|p| counting.overlapping(p));
            if let Some((_, older)) = older {
                contested.insert(name, *older);
            } else {
                prefixes.into_iter().for_each(|p| counting.insert(p, name));
            }
        }
        contested
    }

    /// The cluster that all of them make, with `own` as the own node, whose key is named `own_name`.
    /// What cannot be is left out, and remarked.
    ///
    /// # Errors
    /// When the network cannot be; everything that is wrong with it.
    pub fn cluster(
        &self,
        network: &Network,
        own: NodeSpec,
        own_name: &str,
    ) -> Result<ClusterConfig, Vec<Problem>> {
        let mut wrong = Vec::new();
        let mut notes = Vec::new();
        let mut candidates = vec![own];
        let contested = self.contested(network);
        for (name, entry) in self.by_age() {
            if name == own_name {
                continue;
            }
            if let Some(older) = contested.get(name) {
                wrong.push(overlap(name, older));
                continue;
            }
            match peer(entry, network) {
                Ok(Ok(node)) => candidates.push(node),
                Ok(Err(backend)) => notes.push(format!(
                    "left out: subnet {name} is of a node with the backend {backend:?}"
                )),
                Err(problems) => wrong.extend(problems),
            }
        }
        let (mut config, refused) = assemble(network.clone(), candidates)?;
        wrong.extend(refused);
        config.remarks.problems = remarks(wrong);
        notes.truncate(20);
        config.remarks.notes = notes;
        Ok(config)
    }
}

/// The node of an entry, or the name of its backend if that is another one.
fn peer<'a>(
    entry: &'a Entry,
    network: &Network,
) -> Result<Result<NodeSpec, &'a str>, Vec<Problem>> {
    let subnet = entry.subnet.as_ref().map_err(|p| vec![p.clone()])?;
    let holder = entry.holder.as_ref().map_err(Clone::clone)?;
    if let Some(problem) = too_wide(subnet, network) {
        return Err(vec![problem]);
    }
    let node = holder.node(subnet, network)?;
    Ok(node.ok_or(holder.backend.as_str()))
}

fn overlap(name: &str, older: &str) -> Problem {
    Problem {
        place: format!("subnet {name}"),
        value: None,
        wanted: format!("it overlaps subnet {older}, which is older"),
    }
}

/// Flannel's own rule: a network has room for four subnets at least (pkg/subnet/config.go).
fn too_wide(subnet: &Subnet, network: &Network) -> Option<Problem> {
    let prefixes = subnet.prefixes();
    let wide = prefixes.iter().find_map(|prefix| {
        let of = network
            .pod_cidrs
            .iter()
            .find(|n| n.contains(prefix) || prefix.contains(*n))?;
        let least = of.prefix_len().saturating_add(2);
        (prefix.prefix_len() < least).then_some((prefix, least))
    });
    wide.map(|(prefix, least)| Problem {
        place: format!("subnet {}", subnet.name()),
        value: Some(prefix.to_string()),
        wanted: format!("too much for one node: /{least} or longer is wanted"),
    })
}
