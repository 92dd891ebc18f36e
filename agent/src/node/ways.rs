//! Asks the kernel for the ways to the other nodes, as seldom as possible.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::pass::Reconciler;
use super::report::Report;
use crate::cluster::{ClusterConfig, Mode, NodeSpec};
use crate::host::paths::{self, Path};
use crate::host::rtnl::{Rtnl, RtnlError};
use crate::reconcile::ways::Ways;

/// The kernel tells the rest of a time in steps, so it has forgotten only somewhat later.
const FORGOTTEN: Duration = Duration::from_millis(100);

/// What the answers depend on, apart from the kernel's routes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct From {
    /// The own underlay addresses.
    underlay: Vec<IpAddr>,
    /// The own overlay addresses.
    overlay: Vec<IpAddr>,
}

impl Reconciler {
    /// Asks for the way to each other node that is not known yet; to all, if `anew` or when they
    /// start from other addresses. Returns whether something is different now.
    pub(super) fn find_ways(&mut self, own: &NodeSpec, anew: bool, report: &mut Report) -> bool {
        let from = From {
            underlay: own.underlay().collect(),
            overlay: own.pod_cidrs.iter().map(IpNet::network).collect(),
        };
        let mut wanted = Wanted::new(&self.cluster, own);
        let left = |ways: &Ways| {
            ways.nodes.keys().any(|to| !wanted.nodes.contains(to))
                || ways.prefixes.keys().any(|to| !wanted.prefixes.contains(to))
        };
        let mut ways = None;
        if left(&self.ways) {
            let ways = ways.get_or_insert_with(|| Ways::clone(&self.ways));
            ways.nodes.retain(|to, _| wanted.nodes.contains(to));
            ways.prefixes.retain(|to, _| wanted.prefixes.contains(to));
        }
        let now = Instant::now();
        self.ask_again.retain(|to, _| wanted.nodes.contains(to));
        if !anew && self.ways_from == from {
            let old = |to: &IpAddr| self.ask_again.get(to).is_some_and(|from| *from <= now);
            let known = &self.ways.nodes;
            wanted.nodes.retain(|to| !known.contains_key(to) || old(to));
            let known = &self.ways.prefixes;
            wanted.prefixes.retain(|to| !known.contains_key(to));
        }
        if !wanted.is_empty() {
            let ways = ways.get_or_insert_with(|| Ways::clone(&self.ways));
            match ask(&mut self.rtnl, &from, &wanted, ways) {
                Ok(()) => {
                    note_expiry(&mut self.ask_again, &wanted.nodes, ways, now);
                    self.ways_from = from;
                }
                Err(error) => report.failure("ask for the ways to the other nodes", &error),
            }
        }
        let changed = ways.filter(|ways| *ways != *self.ways);
        let is_changed = changed.is_some();
        if let Some(ways) = changed {
            self.ways = Arc::new(ways);
        }
        is_changed
    }
}

/// Where ways are wanted to.
struct Wanted {
    nodes: BTreeSet<IpAddr>,
    prefixes: BTreeSet<IpNet>,
}

impl Wanted {
    fn new(cluster: &ClusterConfig, own: &NodeSpec) -> Self {
        let others = || cluster.nodes.iter().filter(|n| n.name != own.name);
        let vteps = others().flat_map(|n| n.pod_cidrs.iter().filter_map(|p| n.vtep(own, p)));
        let by_route = cluster.network.mode == Mode::Direct;
        let prefixes = others().filter(|_| by_route).flat_map(|n| &n.pod_cidrs);
        Self {
            nodes: vteps.map(|v| v.underlay).collect(),
            prefixes: prefixes.copied().collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.prefixes.is_empty()
    }
}

/// What the kernel has learned about a path it forgets after some time, without a message.
fn note_expiry(
    ask_again: &mut HashMap<IpAddr, Instant>,
    asked: &BTreeSet<IpAddr>,
    ways: &Ways,
    now: Instant,
) {
    for to in asked {
        match ways.to_node(*to).and_then(|path| path.expires) {
            Some(expires) => ask_again.insert(*to, now + expires + FORGOTTEN),
            None => ask_again.remove(to),
        };
    }
}

fn ask(rtnl: &mut Rtnl, from: &From, wanted: &Wanted, ways: &mut Ways) -> Result<(), RtnlError> {
    for source in &from.underlay {
        let same_family = |to: &&IpAddr| to.is_ipv4() == source.is_ipv4();
        let to: Vec<IpAddr> = wanted.nodes.iter().filter(same_family).copied().collect();
        let found = paths::to_addresses(rtnl, *source, &to)?;
        ways.nodes.extend(to.into_iter().zip(found));
    }
    let to: Vec<IpNet> = wanted.prefixes.iter().copied().collect();
    let source = |to: &IpNet| {
        let mut own = from.overlay.iter();
        own.find(|a| a.is_ipv4() == to.network().is_ipv4()).copied()
    };
    let found: Vec<Option<Path>> = paths::to_prefixes(rtnl, source, &to)?;
    ways.prefixes.extend(to.into_iter().zip(found));
    Ok(())
}
