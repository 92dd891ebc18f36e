//! What an agent leaves on a node for its pods. After the last DEL there must be nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use oxlan::pods::HOST_IFNAME_PREFIX;
use serde_json::Value;

use crate::node::Node;
use crate::run::output;

/// Devices, routes, neighbours, records, map entries and pinned links of a node's pods.
///
/// # Errors
///
/// If something cannot be listed.
pub fn of_pods(node: &Node) -> Result<Vec<String>> {
    let mut traces = map_entries(node)?;
    for list in [
        "-o link show type veth",
        "-4 route show",
        "-6 route show",
        "neighbour show nud permanent",
    ] {
        let text = node.netns.run(&format!("ip {list}"))?;
        let ours = text.lines().filter(|line| names_pod_device(line));
        traces.extend(ours.map(|line| format!("ip {list}: {line}")));
    }
    let records = names(&node.dirs.state.join("attachments"))?;
    traces.extend(records.into_iter().map(|name| format!("record {name}")));
    let links = names(&node.dirs.bpf.join("links"))?;
    let links = links
        .into_iter()
        .filter(|name| name.starts_with("from_pod-"));
    traces.extend(links.map(|name| format!("link {name}")));
    Ok(traces)
}

/// Entries of `PODS`, but for the node's own addresses.
fn map_entries(node: &Node) -> Result<Vec<String>> {
    let map = node.dirs.bpf.join("maps/pods");
    let mut command = Command::new("bpftool");
    let text = output(command.args(["--json", "map", "dump", "pinned"]).arg(&map))?;
    let entries: Vec<Value> = serde_json::from_str(&text).context("bpftool prints no list")?;
    let entries = entries
        .into_iter()
        .map(|mut entry| entry["formatted"].take());
    let pods = entries.filter(|entry| entry["value"]["flags"] == 0);
    Ok(pods.map(|entry| format!("map entry {entry}")).collect())
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let listed = std::fs::read_dir(directory);
    let listed = listed.with_context(|| format!("cannot read {}", directory.display()))?;
    listed
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Whether a line names the host side of a pod's veth pair; `oxlan0` is the node's own.
fn names_pod_device(line: &str) -> bool {
    let mut names = line
        .split([' ', ':', '@'])
        .filter_map(|word| word.strip_prefix(HOST_IFNAME_PREFIX));
    names.any(|rest| rest.len() == 11 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_pods_are_told_from_the_overlay_device() {
        assert!(names_pod_device(
            "10.244.1.2 dev oxl0123456789a scope link src 10.244.1.0"
        ));
        assert!(names_pod_device(
            "7: oxl0123456789a@if2: <BROADCAST,MULTICAST,UP> mtu 1450"
        ));
        assert!(!names_pod_device(
            "10.244.0.0/16 dev oxlan0 scope link src 10.244.1.0"
        ));
    }
}
