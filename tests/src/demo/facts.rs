//! What is really there: attached programs, and entries of the pinned maps as `bpftool` shows them.

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use bytemuck::AnyBitPattern;
use oxlan_common::addr::Addr;
use oxlan_common::maps::{PodValue, RouteKey, RouteValue, VtepValue};
use serde_json::Value;

use crate::node::Node;
use crate::run::host;

/// A program at a device.
#[derive(Debug)]
pub(super) struct Program {
    /// Index of the device.
    pub(super) ifindex: u32,
    /// The kernel's number of the program.
    pub(super) id: u64,
    /// How it is attached.
    pub(super) hook: &'static str,
}

/// The program with this name at a device of the node, as the kernel lists what is attached there.
///
/// Not by `bpftool net`, which knows TCX only since its version 7.3.
pub(super) fn program(node: &Node, device: &str, name: &str) -> Result<Program> {
    let (id, hook) = match tcx(node, device, name)? {
        Some(id) => (id, "TCX ingress"),
        None => (clsact(node, device, name)?, "clsact ingress"),
    };
    let ifindex = node.netns.ifindex(device)?;
    Ok(Program { ifindex, id, hook })
}

fn tcx(node: &Node, device: &str, name: &str) -> Result<Option<u64>> {
    node.netns.inside(|| {
        // Kernels before 6.6 have no TCX and fail.
        let Ok((_, all)) = SchedClassifier::query_tcx(device, TcAttachType::Ingress) else {
            return Ok(None);
        };
        let found = all.iter().find(|one| one.name_as_str() == Some(name));
        Ok(found.map(|one| one.id().into()))
    })
}

fn clsact(node: &Node, device: &str, name: &str) -> Result<u64> {
    let line = format!("tc -json filter show dev {device} ingress");
    let shown = json(&node.netns.run(&line)?)?;
    let mut filters = shown.as_array().into_iter().flatten();
    let found = filters.find(|one| one["options"]["prog"]["name"] == name);
    found
        .and_then(|one| one["options"]["prog"]["id"].as_u64())
        .with_context(|| format!("{name} is not attached to {device} of {}", node.name))
}

/// The entry of a pod in the map `pods`.
pub(super) fn pod(node: &Node, address: impl Into<IpAddr>) -> Result<PodValue> {
    let wanted = Addr::from(address.into());
    let entries = entries(node, "pods")?;
    find(entries, |key: &Addr| *key == wanted)
        .map(|(_, value)| value)
        .with_context(|| format!("{wanted} is not in the map pods of {}", node.name))
}

/// The entry of the map `vteps` for another node.
pub(super) fn vtep(node: &Node, underlay: impl Into<IpAddr>) -> Result<VtepValue> {
    let wanted = Addr::from(underlay.into());
    let entries = entries(node, "vteps")?;
    find(entries, |key: &Addr| *key == wanted)
        .map(|(_, value)| value)
        .with_context(|| format!("{wanted} is not in the map vteps of {}", node.name))
}

/// The entry of the map `routes` that an address falls into.
pub(super) fn route(node: &Node, address: impl Into<IpAddr>) -> Result<(RouteKey, RouteValue)> {
    let wanted = Addr::from(address.into());
    let within = |key: &RouteKey| {
        u8::try_from(key.prefix_len).is_ok_and(|length| wanted.masked(length) == key.prefix)
    };
    find(entries(node, "routes")?, within).with_context(|| {
        format!(
            "{wanted} is in no prefix of the map routes of {}",
            node.name
        )
    })
}

type Entry = (Vec<u8>, Vec<u8>);

fn entries(node: &Node, map: &str) -> Result<Vec<Entry>> {
    let pin = node.dirs.bpf.join("maps").join(map);
    let dump = json(&host(&format!(
        "bpftool --json map dump pinned {}",
        pin.display()
    ))?)?;
    let entries = dump.as_array().context("a dump that is no list")?;
    entries
        .iter()
        .map(|entry| {
            let part = |name: &str| {
                bytes(&entry[name]).with_context(|| format!("an entry without {name}: {entry}"))
            };
            Ok((part("key")?, part("value")?))
        })
        .collect()
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))
}

/// `["0x0a","0xf4"]` as bytes.
fn bytes(list: &Value) -> Option<Vec<u8>> {
    list.as_array()?
        .iter()
        .map(|byte| u8::from_str_radix(byte.as_str()?.strip_prefix("0x")?, 16).ok())
        .collect()
}

fn find<K: AnyBitPattern, V: AnyBitPattern>(
    entries: Vec<Entry>,
    wanted: impl Fn(&K) -> bool,
) -> Option<(K, V)> {
    entries.into_iter().find_map(|(key, value)| {
        let key = bytemuck::try_pod_read_unaligned(&key).ok()?;
        let value = bytemuck::try_pod_read_unaligned(&value).ok()?;
        wanted(&key).then_some((key, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_from_bytes() {
        let list = serde_json::json!(["0x0a", "0xf4"]);
        assert_eq!(bytes(&list), Some(vec![0x0a, 0xf4]));
        assert_eq!(bytes(&serde_json::json!([1])), None);
        let key = Addr::from_v4([10, 244, 1, 2]);
        let value = VtepValue {
            other: Addr::from_v4([192, 168, 50, 1]),
            mac: oxlan_common::addr::Mac::BROADCAST,
            flags: 0,
        };
        let entry = (key.bytes.to_vec(), bytemuck::bytes_of(&value).to_vec());
        assert_eq!(find(vec![entry], |found| *found == key), Some((key, value)));
    }
}
