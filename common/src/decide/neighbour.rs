//! ARP and neighbour discovery: every address that we forward to is at the gateway's MAC.
//!
//! Pods have permanent entries for their gateways and ask nobody. The answers are for whoever does.

use super::from_pod::FromPod;
use super::{HostTask, Tables, own_entry, route};
use crate::addr::Addr;
use crate::counters::DropReason;
use crate::maps::Config;
use crate::packet::arp::{self, Arp};
use crate::packet::ip::Ip;
use crate::packet::{Front, Packet, nd};
use crate::wire::{GATEWAY_V4, GATEWAY_V6};

#[inline(always)]
pub(super) fn arp<'t, T: Tables>(
    packet: &impl Packet,
    front: &Front,
    tables: &'t T,
    config: &Config,
) -> FromPod<'t> {
    let mut arp = Arp::empty();
    if !arp.read(packet) {
        return FromPod::Drop(DropReason::Malformed);
    }
    if arp.sender_mac != front.src {
        return FromPod::Drop(DropReason::ForeignMac);
    }
    if arp.sender == Addr::from_v4([0; 4]) {
        return FromPod::Ignore;
    }
    if let Err(reason) = own_entry(tables, packet, &arp.sender, front.src) {
        return FromPod::Drop(reason);
    }
    if arp.operation != arp::REQUEST {
        // The host asks only when its permanent entry was removed; then it needs the answer.
        return FromPod::ToHost(HostTask::Route);
    }
    if is_answered(packet, tables, config, &arp.target) {
        FromPod::ArpReply(arp)
    } else {
        FromPod::Ignore
    }
}

/// A neighbour solicitation, whose source is either link-local, unspecified or known to be right.
#[inline(always)]
pub(super) fn solicitation<'t, T: Tables>(
    packet: &impl Packet,
    front: &Front,
    ip: &Ip,
    tables: &'t T,
    config: &Config,
) -> FromPod<'t> {
    if ip.src.is_unspecified() {
        // Duplicate address detection: no answer means that the address is free, and it is.
        return FromPod::Ignore;
    }
    match nd::target(packet, front) {
        Some(target) if is_answered(packet, tables, config, &target) => FromPod::NdReply(target),
        Some(_) => FromPod::Ignore,
        None => FromPod::Drop(DropReason::Malformed),
    }
}

/// Whether the gateway speaks for `target`: for itself and everything behind it, not for the asking pod's own address.
#[inline(always)]
fn is_answered<T: Tables>(
    packet: &impl Packet,
    tables: &T,
    config: &Config,
    target: &Addr,
) -> bool {
    if *target == Addr::from_v4(GATEWAY_V4) || *target == Addr::from_v6(GATEWAY_V6) {
        return true;
    }
    match tables.pod(target) {
        Some(pod) => pod.ifindex != packet.ifindex(),
        None => route(tables, config, target).is_some(),
    }
}
