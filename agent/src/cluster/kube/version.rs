//! From the Nodes and the network's configuration to a version of the cluster. Pure.

use std::collections::BTreeMap;

use super::KubeError;
use super::table::Table;
use super::translate::{Peer, Reason, spec};
use crate::cluster::{ClusterConfig, Network, NodeSpec, assemble, remarks};

/// Names that one note lists.
const NAMES: usize = 5;

/// The cluster with the own node as it is given; what is wrong with others is told, and they are left out.
///
/// The own node takes precedence, for its pods are here and now, then the older Node. So the rest
/// of the cluster comes to the same result, in whatever order it has heard of the Nodes.
///
/// # Errors
/// When the own node or the network cannot be.
pub(super) fn version(
    table: &Table,
    network: &Network,
    own: NodeSpec,
) -> Result<ClusterConfig, KubeError> {
    let mut left_out: BTreeMap<Reason, Vec<&str>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut peers: Vec<(i64, NodeSpec)> = Vec::new();
    for (name, peer) in table.peers() {
        let judged = match peer {
            Peer::Node(announced) => spec(name, announced, network).map(|s| (announced.made, s)),
            other @ (Peer::LeftOut(_) | Peer::Wrong(_)) => Err(other.clone()),
        };
        match judged {
            Ok(peer) => peers.push(peer),
            Err(Peer::LeftOut(reason)) => left_out.entry(reason).or_default().push(name),
            Err(Peer::Wrong(problems)) => wrong.extend(problems),
            Err(Peer::Node(_)) => {}
        }
    }
    peers.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    let name = own.name.clone();
    let candidates = std::iter::once(own).chain(peers.into_iter().map(|(_, spec)| spec));
    let assembled = assemble(network.clone(), candidates);
    let (mut config, problems) = assembled.map_err(KubeError::Own)?;
    if config.node(&name).is_none() {
        return Err(KubeError::Own(problems));
    }
    wrong.extend(problems);
    config.remarks.problems = remarks(wrong);
    config.remarks.notes = left_out.iter().map(|(r, names)| note(r, names)).collect();
    Ok(config)
}

fn note(reason: &Reason, names: &[&str]) -> String {
    let (count, nodes) = match names.len() {
        1 => ("one".to_owned(), "node is"),
        n => (n.to_string(), "nodes are"),
    };
    let listed: Vec<&str> = names.iter().take(NAMES).copied().collect();
    let more = if names.len() > NAMES { ", ..." } else { "" };
    format!(
        "{count} {nodes} left out, {reason}: {}{more}",
        listed.join(", ")
    )
}

#[cfg(test)]
mod tests;
