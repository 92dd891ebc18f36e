//! Kernel parameters that forwarding needs.

use ipnet::IpNet;
use oxlan_common::wire::MIN_MTU_V6;

use super::{Facts, OVERLAY};
use crate::reconcile::host::Sysctl;

/// All of them.
pub(super) fn all(facts: &Facts<'_>) -> Vec<Sysctl> {
    let mut all = Vec::new();
    let mut want = |key: String, value, device: Option<&str>| {
        let device = device.map(ToOwned::to_owned);
        all.push(Sysctl { key, value, device });
    };
    let v4: fn(&str, &str) -> String = |device, name| format!("net/ipv4/conf/{device}/{name}");
    let v6: fn(&str, &str) -> String = |device, name| format!("net/ipv6/conf/{device}/{name}");
    let has_v6 = facts
        .own
        .pod_cidrs
        .iter()
        .any(|c| matches!(c, IpNet::V6(_)));
    let has_v6 = has_v6 && facts.mtu >= MIN_MTU_V6;
    want("net/ipv4/ip_forward".into(), "1", None);
    if has_v6 {
        // Forwarding switches router advertisements off, unless they are asked for explicitly.
        for uplink in facts.uplinks.iter().filter(|u| u.accepts_ra) {
            want(v6(uplink.name, "accept_ra"), "2", None);
        }
        want(v6("all", "forwarding"), "1", None);
    }
    for uplink in &facts.uplinks {
        want(v4(uplink.name, "forwarding"), "1", None);
        if has_v6 {
            want(v6(uplink.name, "forwarding"), "1", None);
        }
        // The host's own packets, and ours that the overlay device sends, would else take next hops behind a
        // link that is down, which the fast path leaves out.
        for (is_v6, key) in [(false, v4), (true, v6)] {
            if facts.ways.has_equals(uplink.ifindex, is_v6) {
                want(key(uplink.name, "ignore_routes_with_linkdown"), "1", None);
            }
        }
    }
    let pods = facts.pods.iter().map(|pod| pod.host_ifname.as_str());
    for device in pods.chain([OVERLAY]) {
        want(v4(device, "forwarding"), "1", Some(device));
        if has_v6 {
            want(v6(device, "disable_ipv6"), "0", Some(device));
            want(v6(device, "accept_ra"), "0", Some(device));
            want(v6(device, "forwarding"), "1", Some(device));
        }
    }
    all
}
