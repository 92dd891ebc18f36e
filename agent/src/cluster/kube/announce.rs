//! What this node announces of itself: Flannel's annotations and the condition that the network is there.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use oxlan_common::addr::Mac;
use serde_json::{Map, Value, json};

use super::translate::{BACKEND, FAMILIES, FamilyKeys, Keys, MANAGED, OwnNode};
use crate::cluster::flannel::{BackendData, VXLAN};
use crate::cluster::traces::Trace;
use crate::cluster::{Vni, Vtep, derived_vtep_mac};

/// The VTEPs of this node at its addresses. Their MAC is the one that they have, else the one that
/// the Node announces already, for the others send to it, else it is derived.
pub(super) fn vteps(
    own: &OwnNode,
    now: Option<Mac>,
    underlay: &[IpAddr],
    keys: &Keys,
) -> Vec<Vtep> {
    let announced = || {
        FAMILIES
            .iter()
            .find_map(|f| announced_mac(own, &keys.key(f.data)))
    };
    let mac = now
        .or_else(announced)
        .or_else(|| underlay.first().map(|a| derived_vtep_mac(*a)));
    let Some(mac) = mac else {
        return Vec::new();
    };
    let all = underlay.iter();
    all.map(|&underlay| Vtep { underlay, mac }).collect()
}

fn announced_mac(own: &OwnNode, key: &str) -> Option<Mac> {
    let text = own.node.annotation(key)?.as_str()?;
    let data = BackendData::parse(text, key).ok()?;
    Some(data.vtep_mac)
}

/// What announcing leaves on the Node, and how an administrator takes it away: other nodes go by it, so
/// the node's own cleanup must not.
pub(super) fn trace(node: &str, keys: &Keys) -> Trace {
    let families = FAMILIES.iter().flat_map(|f| [f.address, f.data]);
    let all = [MANAGED, BACKEND].into_iter().chain(families);
    let removals: Vec<String> = all.map(|key| format!("{}-", keys.key(key))).collect();
    Trace::Elsewhere {
        what: format!("annotations of the Node {node}"),
        command: format!("kubectl annotate node {node} {}", removals.join(" ")),
    }
}

/// The patch of the Node's status that makes it announce this; none if it does already. Keys that
/// it does not name stay as they are.
pub(super) fn patch(
    own: &OwnNode,
    vteps: &[Vtep],
    vni: Vni,
    keys: &Keys,
    now: Timestamp,
) -> Option<Value> {
    let mut annotations = Map::new();
    let mut want = |key: String, value: Value| {
        let now = own.node.annotation(&key).unwrap_or(&Value::Null);
        if *now != value {
            annotations.insert(key, value);
        }
    };
    want(keys.key(MANAGED), "true".into());
    want(keys.key(BACKEND), VXLAN.into());
    for family in FAMILIES {
        let vtep = vteps.iter().find(|v| v.underlay.is_ipv4() == family.is_v4);
        // Without an address of this family, what a predecessor announced of it is taken back.
        let (address, data) = match vtep {
            None => (Value::Null, Value::Null),
            Some(vtep) => {
                let vtep_mac = vtep.mac;
                let data = BackendData {
                    vni: Some(vni),
                    vtep_mac,
                };
                let public = public_address(own, family, keys).unwrap_or(vtep.underlay);
                (public.to_string().into(), data.to_text().into())
            }
        };
        want(keys.key(family.address), address);
        want(keys.key(family.data), data);
    }
    let mut patch = Map::new();
    if !annotations.is_empty() {
        patch.insert("metadata".into(), json!({ "annotations": annotations }));
    }
    if !own
        .node
        .has_condition(&[("type", CONDITION), ("status", "False")])
    {
        patch.insert("status".into(), json!({ "conditions": [condition(now)] }));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// The address by which the others reach this node, where an administrator says that it is not its own.
fn public_address(own: &OwnNode, family: FamilyKeys, keys: &Keys) -> Option<IpAddr> {
    let text = own.node.annotation(&keys.key(family.overwrite))?.as_str()?;
    let address: IpAddr = text.parse().ok()?;
    (address.is_ipv4() == family.is_v4).then_some(address)
}

/// What is wrong with an annotation by which an administrator overwrites an address.
pub(super) fn wrong_overwrites(own: &OwnNode, keys: &Keys) -> Vec<String> {
    let wrong = FAMILIES.into_iter().filter_map(|family| {
        let key = keys.key(family.overwrite);
        let value = own.node.annotation(&key)?;
        let kind = if family.is_v4 { "IPv4" } else { "IPv6" };
        let ignored = public_address(own, family, keys).is_none();
        ignored.then(|| {
            format!(
                "the own Node's annotation {key} = {value} is ignored: an {kind} address is wanted"
            )
        })
    });
    wrong.collect()
}

const CONDITION: &str = "NetworkUnavailable";

/// As Flannel writes it (pkg/subnet/kube/kube.go, `setNodeNetworkUnavailableFalse`).
fn condition(now: Timestamp) -> Value {
    let now = Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string();
    json!({
        "type": CONDITION,
        "status": "False",
        "reason": "FlannelIsUp",
        "message": "Oxlan is running on this node",
        "lastTransitionTime": now,
        "lastHeartbeatTime": now,
    })
}

/// Whether two versions of the own Node say the same, as far as it matters here.
impl OwnNode {
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let available = |own: &Self| {
            own.node
                .has_condition(&[("type", CONDITION), ("status", "False")])
        };
        self.pod_cidrs == other.pod_cidrs
            && self.internal == other.internal
            && self.node.annotations == other.node.annotations
            && available(self) == available(other)
    }
}

#[cfg(test)]
mod tests;
